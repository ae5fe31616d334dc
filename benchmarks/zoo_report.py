"""The ``standard`` report on a third-party network: ``python -m benchmarks.zoo_report DATA NETWORK -o FOLDER``.

DATA is a folder with ``cifar10_data.py`` and ``cifar10_zoo.py`` (CIFAR-10 images, and small networks with published
weights); NETWORK is the name of one of them. Running it again resumes from FOLDER.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click
import torch

from perturbify.checks import PRESETS, Progress, check
from perturbify.checks.render import to_html, to_markdown
from perturbify.data import Data
from perturbify.data.split import MemorySplit
from perturbify.text import duration

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("network")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(data: Path, network: str, output: Path) -> None:
    """Check NETWORK on all original test images that DATA has."""
    sys.path.insert(0, str(data))
    images = import_module("cifar10_data").load_mini()
    test = MemorySplit(
        torch.from_numpy(images["x_test"]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(images["y_test"]).long()
    )
    model = import_module("cifar10_zoo").load(network)
    output.mkdir(parents=True, exist_ok=True)

    def show(progress: Progress) -> None:
        if progress.done == progress.total:
            print(progress.case, "|", duration(progress.seconds_left), "left", flush=True)

    report = check(
        model,
        Data("cifar10", test, test, CLASSES, (3, 32, 32), (0.5,) * 3, (0.25,) * 3),
        replace(PRESETS["standard"], preset="standard, changed", images=None),
        name=network,
        about={"source": "shared zoo of small CIFAR-10 networks"},
        folder=output,
        on_progress=show,
    )
    for kind, text in {"json": report.to_json(), "md": to_markdown(report), "html": to_html(report)}.items():
        (output / f"report.{kind}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
