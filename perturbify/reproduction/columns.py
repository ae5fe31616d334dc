"""The attacks of a table, by the paper's names, and where a check has each."""

from __future__ import annotations

from dataclasses import dataclass

from perturbify.checks import CheckPlan
from perturbify.reproduction.table import Table
from perturbify.text import fraction


@dataclass(frozen=True)
class Column:
    """An attack of a table.

    Attributes:
        id: Id of its result in a check.
        head: Its column head, and its name if it was not measured.
        epsilon: Its position in the table's curve; None: not on it.
    """

    id: str
    head: str
    epsilon: float | None = None


def columns(paper: Table, plan: CheckPlan) -> dict[str, Column]:
    """The attacks that a check by this plan shows in a table, by the paper's names."""
    pgd = f"PGD-{plan.steps}"
    found = {"clean": Column("clean", "clean", None if paper.curve is None else 0.0)}
    if paper.curve is not None:
        found |= _curve(paper.curve, pgd if paper.curve == "PGD" else paper.curve, plan)
    else:
        found |= {"PGD": Column("pgd", pgd)} if "pgd" in plan.attacks else {}
        found |= {"FGSM": Column("fgsm", "FGSM")} if "fgsm" in plan.attacks else {}
    if "cw" in plan.attacks:
        found |= {f"C&W, κ = {k:g}": Column(f"cw-{k:g}", f"C&W, κ = {k:g}") for k in plan.confidences}
    if "few-pixel" in plan.attacks:
        found |= {name: Column(f"{name[0]}-pixel", name) for name in paper.stated}
    if paper.surrogate is not None:
        found["transfer"] = Column(f"transfer from {paper.surrogate}", f"{pgd} from {paper.surrogate}")
        found["transfer, noise off"] = Column("transfer-twin", f"{pgd} from itself, noise off")
    if "eot" in plan.attacks:
        found["EOT-PGD"] = Column("eot", f"EOT-{pgd}")
    return found


def _curve(attack: str, head: str, plan: CheckPlan) -> dict[str, Column]:
    """Its points in order, that of the plan's own ε among them."""
    own = plan.epsilon
    found = {own: attack.lower()}
    found |= {e: f"{attack.lower()} at {e:.6g}" for e in (min(1.0, times * own) for times in plan.sweep)}
    return {
        f"{attack}, ε = {fraction(epsilon)}": Column(found[epsilon], f"{head}, ε = {fraction(epsilon)}", epsilon)
        for epsilon in sorted(found)
    }
