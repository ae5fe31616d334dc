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


GPU = result("gpu")
WAYS = {
    "ours": "compiled, float32",
    "ours, bfloat16": "compiled, bfloat16",
    "ours, as it is": "as it is, float32",
    "ours, bfloat16, CUDA graphs": "compiled, bfloat16, CUDA graphs",
}


def test_the_gpu():
    expected = []
    for case in GPU["noise"]["cases"]:
        replayed, called = case["seconds in a CUDA graph"], case["seconds"]
        layout = case["memory format"].removesuffix("_format").replace("_", " ")
        ratios = [f"{replayed['ours'] / replayed['naive']:.2f}", f"{replayed['ours'] / replayed['copy']:.1f}"]
        expected.append(["×".join(map(str, case["shape"])), layout, *ratios, f"{called['ours'] / called['naive']:.2f}"])
    rows = table("On a GPU")
    assert [row for row in rows if len(row) == 5] == expected
    small, large = (GPU[f"train_step, cifar_resnet20, batch {batch}"] for batch in (128, 1024))
    steps = [(small, way) for way in WAYS] + [(large, "ours, as it is")]  # the others ran into a limit there
    assert [row for row in rows if len(row) == 4 and row[0].isdigit()] == [
        [f"{c['batch']}", WAYS[way], f"{c['over rival'][way]:.2f}", f"{c['images a second'][way]:,.0f}"]
        for c, way in steps
    ]
    peaks = [case["peak bytes"] for case in (small, large)]
    for who in ("ours", "rival"):
        assert "{:.2f}{}{:.2f}".format(
            peaks[0][who] / peaks[0]["plain"],
            " at 128 and " if who == "ours" else " and ",
            peaks[1][who] / peaks[1]["plain"],
        ) in PAGE.replace("\n", " ")
    hours = 350 * 50_000 / small["images a second"]["ours, bfloat16, CUDA graphs"] / 3600
    assert "an hour and a half" in PAGE and abs(hours - 1.5) < 0.1
