"""The model card of a checkpoint: what it is, how to load it, what is known of its robustness."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from perturbify import methods, zoo
from perturbify.checkpoint.header import Header
from perturbify.escape import fenced, markdown, terminal
from perturbify.text import counted, fraction, input_in_words, noise_in_words, percent

_NAME = 200
"""The most characters of a name that the card shows."""


def model_card(header: Header) -> str:
    """Writes a checkpoint's card as Markdown, from its header alone, which may be untrusted."""
    model = header.model or {"name": header.source_class, "weights": "the user's"}
    noise = "none (a baseline)"
    defence = methods.of_file(header.method, noisy=header.config is not None)
    method = methods.get(defence) if defence in methods.names() else None
    name = markdown(defence, _NAME)
    source = f" ({method.source})" if method is not None and method.source else ""
    opening = [f"A network without noise, as a baseline for one with, made with perturbify; trained by {name}{source}."]
    if header.config is not None:
        opening = [
            f"A network with noise for the defence {name}{source}, made with perturbify.",
            "The noise stays on at inference: two passes over one image give two answers.",
        ]
        if method is not None and method.draws > 1:
            opening.append(f"`perturbify.predict(model, images)` averages {method.draws} of them, as the defence does.")
        start, floor = header.config["theta_init"], header.config["theta_min"]
        said = start if isinstance(start, str) else f"{start:g}"
        noise = (
            f"{counted(len(header.sites), 'site')}, {markdown(noise_in_words(header.config))}, θ₀ = {markdown(said)}"
        )
        noise += "" if floor is None else f", θ_min = {floor:g}"
    inputs = ", ".join(f"{argument}: {input_in_words(about)}" for argument, about in header.inputs.items())
    versions = ", ".join(f"{package} {version}" for package, version in header.versions.items())
    lines = [
        f"# {markdown(model['name'], _NAME)}, {name if header.trained else f'converted for {name}, not trained'}",
        "",
        *opening,
        "",
        fenced(f"import perturbify\n{_loading(header)}", "python"),
        "",
        "| | |",
        "|---|---|",
        f"| network | {_code(model['name'])} |",
        f"| weights at the start | {markdown(model['weights'])} |",
        f"| noise | {noise} |",
        f"| input | {markdown(inputs)} |",
        f"| normalisation inside | {'yes' if header.normalize else 'no'} |",
        f"| classes | {len(header.classes) if header.classes else 'not recorded'} |",
        f"| trained | {counted(header.trained.get('epochs', 0), 'epoch')} |",
        f"| versions | {markdown(versions)} |",
        "",
        "## Robustness",
        "",
        *_robustness(header),
        "",
    ]
    if header.recipe:
        lines += ["## Recipe", "", fenced(header.recipe.strip(), "toml", 100_000), ""]
    return "\n".join(lines)


def _code(name: str) -> str:
    """A name as code; one that code in a table cannot hold, as text."""
    shown = terminal(name, _NAME)
    return markdown(shown) if re.search(r"[`|]", shown) or not shown.strip() else f"`{shown}`"


def _loading(header: Header) -> str:
    """The line of Python that reads the file; untrusted text is in its comment, on that same line."""
    spec = header.spec()
    needs = ""
    if spec is None:
        needs = ", model=network"
    elif spec.name.split(":")[0] not in zoo.LIBRARIES:
        needs = ", trust_factory=True"
    facts = ["eval mode"]
    facts += ["noise on"] if header.config is not None else []
    facts += ["pixels in [0, 1]"] if header.normalize is not None else []
    facts += [f"network: a {terminal(header.source_class, _NAME)}"] if spec is None else []
    return f'model = perturbify.load("model.safetensors"{needs})   # {"; ".join(facts)}'


def checked(check: Mapping[str, Any], fit: Callable[[object], str] = terminal) -> str:
    """The summary of a checkpoint's last check, in one line: its verdict first, then the worst case.

    Args:
        check: A summary, as :meth:`perturbify.checks.Report.summary` returns it; or of an older version, without
            a verdict.
        fit: Makes the file's own words fit for the output format.
    """
    where = f"{fit(check['n'])} images of {fit(check['dataset'])}"
    if "verdict" not in check:
        failed = "no criterion failed" if check.get("passed") else "a criterion failed"
        return f"{failed}, by an older version that gave no verdict; {where}"
    worst = check["worst_case"]
    return f"{fit(check['verdict'])}; worst case {percent(worst['value'], worst['interval'])}% on {where}"


def _robustness(header: Header) -> list[str]:
    if header.check is None:
        return ["Not checked yet: `perturbify check model.safetensors --data …`."]
    check = header.check
    said, n, dataset = checked(check, markdown), markdown(check["n"]), markdown(check["dataset"])
    lines = [
        f"**{said[:1].upper()}{said[1:]}.**",
        "",
        f"Accuracy in percent on {n} test images of {dataset} with its 95% interval over images; l∞ attacks within ε = "
        f"{fraction(check['epsilon'])} on pixels in [0, 1], crafted first, then scored on fresh draws of the noise. "
        "Worst case: every image under the attack that leaves the lowest accuracy. A better attack may leave less.",
        "",
        "| attack | crafted on | noise while scoring | images | draws | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for row in check["rows"]:
        low, high = row["interval"]
        accuracy = f"{100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        attack = row["attack"] if row["network"] == "itself" else f"{row['attack']} on {row['network']}"
        images = f"{row['n']}" if row.get("attacked", row["n"]) == row["n"] else f"{row['attacked']} of {row['n']}"
        cells = (attack, _crafted_on(row), row["noise"], images, row["draws"], accuracy)
        lines.append(f"| {' | '.join(markdown(cell, _NAME) for cell in cells)} |")
    named: dict[str, list[str]] = {outcome: [] for outcome in ("pass", "fail", "undecided", "not measured")}
    for name, outcome in check["criteria"].items():
        named.setdefault(outcome, []).append(name)
    counts = ", ".join(f"{len(names)} {outcome}" for outcome, names in named.items())
    lines += ["", markdown(f"Criteria: {counts}.")]
    del named["pass"]
    lines += [markdown(f"{outcome.capitalize()}: {', '.join(names)}.") for outcome, names in named.items() if names]
    return lines


def _crafted_on(row: Mapping[str, Any]) -> str:
    """What the images of a row were crafted on; older versions stored it in words."""
    if "crafted_on" in row:
        return str(row["crafted_on"])
    if row["norm"] is None:
        return "–"
    on = {"itself": f"noise {row['noise']}", "twin": "noise off", "frozen": "frozen noise", "known": "one known draw"}
    return str(row["source"] or on.get(row["on"], row["on"]))
