"""Masked and honest classifiers, their true accuracy, and the check's verdict: ``python -m benchmarks.verdicts``.

Masks are applied to the shared folder's ResNet-20 (:mod:`benchmarks.verdicts.masks`); the honest classifiers are its
networks, noisy versions of them, and networks trained on the digits here (:mod:`benchmarks.verdicts.honest`). The truth
is the accuracy under an attacker who knows how each is built (:mod:`benchmarks.verdicts.truth`), on the check's images.
Exit status 1: a masked classifier was called established with a figure above the truth.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import perturbify
from benchmarks.verdicts import truth
from benchmarks.verdicts.honest import HONEST, PIXELS, Honest, cifar_network, test_images
from benchmarks.verdicts.masks import MASKS, Mask
from perturbify.checks import PRESETS
from perturbify.data import Split

BASE = "resnet20"
SEED = 0
FLATTERED = 0.05
"""A figure further above the truth than this counts as flattering."""
QUICK = (
    *("pixels-8-bit", "logits-x1e6", "gradient-flipped", "gradient-none", "slope-of-another", "noise-system"),
    *("remembers-answer", "gradient-alone"),
    *("resnet20", "resnet4b_adv", "cnn_a_adv4-noise-0.2-layer", "digits-cnn-adv"),
)
"""A small subset, for continuous integration."""


@dataclass(frozen=True)
class Case:
    """A classifier of the benchmark, ready to be measured."""

    name: str
    kind: str
    masked: bool
    split: Split
    epsilon: float
    make: Callable[[], nn.Module]
    random: bool
    surrogate: nn.Module | None
    transfers: list[Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.verdicts", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, help="test images of each honest one (256; with --quick 64)")
    parser.add_argument("--masked-images", type=int, help="test images of each masked one (128; with --quick 64)")
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a small part of the benchmark")
    parser.add_argument("--truth", action="store_true", help="only the truth, without the check")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("-o", "--output", type=Path, help="JSON to write")
    given = parser.parse_args(arguments)
    known = [*(m.name for m in MASKS), *(h.name for h in HONEST)]
    names = given.only.split(",") if given.only else list(QUICK) if given.quick else known
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    images = given.images or (64 if given.quick else 256)
    masked_images = given.masked_images or (64 if given.quick else 128)
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.machine(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "seed": SEED,
        "preset": given.preset,
        "base": BASE,
        "classifiers": [],
    }
    for case in _cases(names, masked_images, images, given.shared, torch.device(given.device)):
        found = _measured(case, torch.device(given.device), None if given.truth else given.preset)
        results["classifiers"].append(found)
        results["summary"] = summary(results["classifiers"])
        print(_line(found), flush=True)
        if given.output:
            given.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n" + to_markdown(results))
    return 1 if results["summary"]["masked flattered"] else 0


def _cases(names: list[str], masked: int, images: int, shared: Path, device: torch.device) -> Iterator[Case]:
    masks, honest = [m for m in MASKS if m.name in names], [h for h in HONEST if h.name in names]
    if masks:
        net = cifar_network(BASE, shared).to(device)
        split = test_images("cifar", shared).balanced(masked)
        torch.manual_seed(SEED)
        transfers = [truth.craft(net, *_whole(split, device), PIXELS, restart=r) for r in range(3)]
        yield from (_masked(mask, net, split, transfers) for mask in masks)
    for entry in honest:
        yield _honest(entry, test_images(entry.data, shared).balanced(images), shared, device)


def _masked(mask: Mask, net: nn.Module, split: Split, transfers: list[Tensor]) -> Case:
    device = transfers[0].device
    surrogate = mask.surrogate(net)
    return Case(
        mask.name,
        mask.kind,
        True,
        split,
        PIXELS,
        lambda: mask.build(net).to(device).eval(),
        mask.random,
        None if surrogate is net else surrogate.to(device).eval(),
        transfers,
    )


def _honest(entry: Honest, split: Split, shared: Path, device: torch.device) -> Case:
    net = entry.build(shared).to(device)
    source = None if entry.source is None else entry.source(shared).to(device)
    return Case(entry.name, entry.data, False, split, entry.epsilon, lambda: net, source is not None, source, [])


def _whole(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = next(split.batches(len(split)))
    return x.to(device), y.to(device)


def _measured(case: Case, device: torch.device, preset: str | None) -> dict[str, Any]:
    started = time.perf_counter()
    true = truth.measure(
        case.make,
        *_whole(case.split, device),
        case.epsilon,
        random=case.random,
        transfers=case.transfers,
        surrogate=case.surrogate,
        seed=SEED,
    )
    seconds = time.perf_counter() - started
    found = {"name": case.name, "kind": case.kind, "masked": case.masked, "epsilon": case.epsilon, "n": len(case.split)}
    found |= {"truth": asdict(true), "truth seconds": round(seconds, 1)}
    return found if preset is None else found | _checked(case, preset)


def _checked(case: Case, preset: str) -> dict[str, Any]:
    """The check's result; one that refuses or crashes has established nothing."""
    plan = replace(
        PRESETS[preset],
        images=len(case.split),
        epsilon=case.epsilon,
        seed=SEED,
    )
    started = time.perf_counter()
    try:
        report = perturbify.check(case.make(), case.split, plan)
    except perturbify.PerturbifyError as error:
        return {"verdict": "refused", "error": str(error)}
    except Exception as error:  # the benchmark continues, and reports it
        return {"verdict": "broke off", "error": f"{type(error).__name__}: {error}"}
    return {
        "verdict": report.verdict,
        "status": report.status,
        "accuracy": report.headline.accuracy,
        "failed": [c.name for c in report.criteria if c.outcome == "fail"],
        "open": [c.name for c in report.criteria if c.core and c.outcome not in ("pass", "fail")],
        "seconds": round(time.perf_counter() - started, 1),
    }


def summary(classifiers: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of verdicts, and the classifiers with a wrong one."""
    masked, honest = ([c for c in classifiers if c["masked"] is m] for m in (True, False))

    def named(group: list[dict[str, Any]], *verdicts: str) -> list[str]:
        return [c["name"] for c in group if c.get("verdict") in verdicts]

    return {
        "masked": len(masked),
        "kinds": len({c["kind"] for c in masked}),
        "masked established": named(masked, "established"),
        "masked flattered": [c["name"] for c in masked if c.get("verdict") == "established" and _flatters(c)],
        "honest": len(honest),
        "honest established": named(honest, "established"),
        "honest failed": named(honest, "failed"),
        "honest not established": named(honest, "not established"),
        "no report": named(classifiers, "refused", "broke off"),
    }


def to_markdown(results: dict[str, Any]) -> str:
    """The table and the sentences of docs/verdicts.md."""
    lines = [
        "| classifier | kind | n | clean | PGD-7 | truth | check | verdict | status | seconds | fails, or is open |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in results["classifiers"]:
        t, accuracy = c["truth"], c.get("accuracy")
        figures = (t["clean"], t["naive"], t["left"], accuracy)
        cells = [c["name"], c["kind"], str(c["n"]), *("–" if f is None else f"{100 * f:.1f}" for f in figures)]
        why = c.get("failed") or [f"open: {name}" for name in c.get("open", [])]
        cells += [str(c.get(key, "–")) for key in ("verdict", "status", "seconds")] + [", ".join(why)]
        lines.append("| " + " | ".join(cells) + " |")
    s = results["summary"]
    lines += [
        "",
        f"Preset `{results['preset']}`, seed {results['seed']}, torch "
        f"{results['machine']['torch']}, {results['machine']['device']}, {results['date']}.",
        "",
        f"- Of {s['masked']} masked classifiers of {s['kinds']} kinds, {_counted(s['masked established'])} came out "
        "established.",
        f"- {_counted(s['masked flattered'])} of these with a figure more than {100 * FLATTERED:.0f} points "
        "above the truth.",
        f"- Of {s['honest']} honest classifiers, {_counted(s['honest established'], show=False)} established, "
        f"{_counted(s['honest failed'])} failed, {_counted(s['honest not established'])} not established.",
        f"- Without a report: {_counted(s['no report'])}.",
    ]
    return "\n".join(lines) + "\n"


def _flatters(found: dict[str, Any]) -> bool:
    return bool(found["accuracy"] - found["truth"]["left"] > FLATTERED)


def _counted(names: list[str], show: bool = True) -> str:
    return f"{len(names)} ({', '.join(names)})" if names and show else str(len(names))


def _line(found: dict[str, Any]) -> str:
    t = found["truth"]
    line = f"{found['name']:27} clean {t['clean']:6.1%}  PGD-7 {t['naive']:6.1%}  truth {t['left']:6.1%}"
    if "verdict" in found:
        accuracy = f"{found['accuracy']:6.1%}" if "accuracy" in found else "     –"
        why = found.get("error") or ", ".join(found["failed"])
        line += f"  check {accuracy}  {found['verdict']:16} {why}"
    return line + f"  [{found['truth seconds'] + found.get('seconds', 0):.0f} s]"


if __name__ == "__main__":
    raise SystemExit(main())
