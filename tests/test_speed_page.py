"""docs/speed.md says what the committed benchmarks say."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def result(name):
    """The newest result of that name, which is the one that the page must link to."""
    path = max((ROOT / "benchmarks" / "results").glob(f"*-{name}.json"))
    assert path.name in PAGE
    return json.loads(path.read_text(encoding="utf-8"))


def table(heading):
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    return rows[2:]


def test_the_training_step():
    expected = []
    for case in result("train-step")["cases"]:
        over, noise, peak = case["over rival"], case["share of noise"], case["peak bytes"]
        expected.append(
            [
                case["network"],
                f"{case['batch']} × {case['size']}²",
                f"{over['ours']:.2f}",
                f"{over['ours, bfloat16']:.2f}",
                f"{100 * noise['ours']:.0f}%",
                f"{100 * noise['rival']:.0f}%",
                f"{peak['ours'] / peak['plain']:.2f}",
                f"{peak['rival'] / peak['plain']:.2f}",
            ]
        )
    assert table("A training step") == expected


def test_the_noise():
    expected = []
    for case in result("noise")["cases"]:
        layout = case["memory format"].removesuffix("_format").replace("_", " ")
        ratios = f"{case['ours over naive']:.2f}", f"{case['ours over copy']:.1f}"
        expected.append(["×".join(map(str, case["shape"])), layout, *ratios])
    assert table("The noise by itself") == expected


def test_the_attack():
    found = result("attacks")
    frozen, free = (found[f"weights {state}"]["ratio to the bare loop"] for state in ("frozen", "not frozen"))
    assert table("PGD-7") == [[name, f"{frozen[name]:.2f}", f"{free[name]:.2f}"] for name in frozen]
