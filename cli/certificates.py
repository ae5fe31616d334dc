"""Certificates, as ``perturbify certify`` shows and saves them; docs/certify.md describes the JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbify import escape
from perturbify.cli import figures, reports
from perturbify.text import duration, percent, table

if TYPE_CHECKING:
    from torch import Tensor

    from perturbify.certification import Certificate, Mechanism
    from perturbify.data import Split

SCHEMA = 1
FILES = ("certificate.json", "certificate.md", "certificate.png")
PARTS = 5
"""Number of equal steps up to the greatest radius, if no radii are given."""

CERTIFIED, PLAIN = "#1b5fbf", "#222222"


def chosen(split: Split, images: int | None) -> Tensor:
    """Indices of the images to certify: the first of each class, the second, and so on; all of them by default."""
    import torch

    from perturbify.data.split import MemorySplit

    everyone = MemorySplit(torch.arange(len(split)), split.labels)
    part = everyone if images is None else everyone.balanced(images)
    assert isinstance(part, MemorySplit)
    return part.images


def prepare(folder: Path, *, force: bool) -> None:
    """Makes sure, before any long work, that certificates can be saved in a folder.

    Raises:
        OutputExists: The folder holds some that may not be replaced.
        PerturbifyError: The folder cannot be made or written to.
    """
    from perturbify.files import check_output

    reports.prepare(folder, resume=True, force=False)  # which only checks the folder
    for name in FILES:
        check_output(folder / name, force=force)
    reports.refuse_foreign([folder / name for name in FILES if os.path.lexists(folder / name)])


def values(
    certificate: Certificate,
    labels: Tensor,
    mechanism: Mechanism,
    radii: Sequence[float] | None,
    *,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
    indices: Tensor,
    seconds: float,
) -> dict[str, Any]:
    """The result as JSON values.

    Args:
        certificate: Certificates of all images.
        labels: Their true classes, shape (N,).
        mechanism: The noise used for certification.
        radii: Radii at which to measure certified accuracy; None: equally spaced up to the greatest.
        about: The network and the data.
        settings: The settings.
        indices: Indices of the images within their split, shape (N,).
        seconds: Time taken.
    """
    from perturbify.certification import DELTA
    from perturbify.checks.statistics import wilson

    n = len(labels)
    right = certificate.classes == labels
    earned = certificate.radii.where(right, 0)
    greatest = mechanism.greatest_radius
    at = [*(greatest * part / PARTS for part in range(PARTS)), greatest] if radii is None else radii
    reached = [int(((earned > 0) & (earned >= radius)).sum()) for radius in at]
    return {
        "schema": SCHEMA,
        **about,
        "n": n,
        **settings,
        "image_size": list(mechanism.size),
        "sigma": mechanism.sigma,
        "sensitivity": mechanism.sensitivity,
        "delta": DELTA,
        "greatest_radius": greatest,
        "accuracy": int(right.sum()) / n,
        "interval": wilson(int(right.sum()), n),
        "abstentions": int((~certificate.certain).sum()) / n,
        "median_radius": float(earned.quantile(0.5)),
        "certified": [
            {"radius": radius, "accuracy": count / n, "interval": wilson(count, n)}
            for radius, count in zip(at, reached, strict=True)
        ],
        "seconds": round(seconds, 2),
        "images": [
            {"index": index, "label": label, "class": answer, "radius": radius, "certain": certain, "votes": votes}
            for index, label, answer, radius, certain, votes in zip(
                indices.tolist(),
                labels.tolist(),
                certificate.classes.tolist(),
                certificate.radii.tolist(),
                certificate.certain.tolist(),
                certificate.votes.tolist(),
                strict=True,
            )
        ],
    }


def text(values: Mapping[str, Any]) -> str:
    """The result for the terminal."""
    return "\n".join([escape.terminal(_title(values)), "", table([_HEAD, *_rows(values)]), "", *_remarks(values)])


def markdown(values: Mapping[str, Any]) -> str:
    """The result as a Markdown page; foreign names are escaped."""
    from perturbify.checks.render import markdown as page

    remarks = [f"- {remark}" for remark in _remarks(values)]
    lines = page.table(_HEAD, _rows(values))
    return "\n".join([f"# {escape.markdown(_title(values))}", "", *lines, "", *remarks, "", _METHOD]) + "\n"


def write(values: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes the files and returns their names: without matplotlib, all but the picture."""
    from perturbify.files import signed, write_text

    write_text(folder / FILES[0], escape.json(values, indent=1) + "\n")
    write_text(folder / FILES[1], signed(markdown(values)))
    try:
        figure = figures.canvas(7, 4.4)
    except ImportError:
        return list(FILES[:2])
    draw(figure, values)
    reports.keep_figure(figure, folder / FILES[2], dpi=130)
    return list(FILES)


def draw(figure: Any, values: Mapping[str, Any]) -> None:
    """Fills an empty matplotlib figure with certified accuracy against radius.

    Args:
        figure: The figure.
        values: From :func:`values`.
    """
    from perturbify.checks.statistics import wilson

    n, greatest = values["n"], values["greatest_radius"]
    earned = [i["radius"] for i in values["images"] if i["class"] == i["label"] and i["radius"] > 0]
    # The curve falls after each image's radius: a value holds from the previous radius up to and including the next.
    steps = [0.0, *sorted(set(earned))]
    left = [sum(e >= step for e in earned) for step in steps]
    bands = [wilson(count, n) for count in left]
    axes = figure.subplots()
    axes.step(steps, [100 * count / n for count in left], where="pre", color=CERTIFIED, label="certified")
    low, high = ([100 * band[side] for band in bands] for side in (0, 1))
    axes.fill_between(steps, low, high, step="pre", color=CERTIFIED, alpha=0.15, lw=0)
    if left[-1]:  # nothing is certified beyond the greatest radius
        axes.plot([steps[-1]] * 2, [100 * left[-1] / n, 0], color=CERTIFIED)
    axes.axhline(100 * values["accuracy"], color=PLAIN, ls="--", lw=1, label="right by majority vote")
    if greatest > 0:
        axes.axvline(greatest, color=PLAIN, ls=":", lw=1, label="ε = 1: the theorem's limit")
    axes.set_ylim(0, 100)
    axes.set_xlim(0, 1.05 * greatest or None)
    figures.tidy(axes, "Certified accuracy, %", "l2 radius, pixels in [0, 1]")
    axes.xaxis.set_major_formatter(lambda value, _: figures.written(value))
    name, dataset = figures.names([values["name"]], 40)[0], figures.names([values["dataset"]], 40)[0]
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=3,
        columnspacing=1.2,
        frameon=False,
        fontsize=figures.SMALL,
    )
    figure.suptitle(
        f"{name}: {n} images of {dataset}\nσ {values['sigma']:.4g}, sensitivity {values['sensitivity']:.4g}, "
        f"{values['draws']} draws, {_confidence(values)} confidence; band: 95% interval over images",
        x=0.01,
        ha="left",
        fontsize=figures.SMALL,
    )


_HEAD = ("l2 radius", "certified accuracy, % [95%]")
_METHOD = (
    "An image counts at a radius if its answer is right and no perturbation of smaller l2 norm, in pixels of "
    "[0, 1], can change it: PixelDP's condition, by simultaneous Clopper-Pearson bounds on the votes. Each image's "
    "certificate holds with the stated confidence. Intervals are Wilson's, over images."
)


def _title(values: Mapping[str, Any]) -> str:
    return f"Certified robustness of {values['name']} on {values['n']} test images of {values['dataset']}"


def _confidence(values: Mapping[str, Any]) -> str:
    """In percent, with all its digits, so that it is never rounded up to certainty."""
    return f"{100 * Decimal(str(values['confidence'])):f}".rstrip("0").rstrip(".") + "%"


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(f"{row['radius']:.4g}", percent(row["accuracy"], row["interval"])) for row in values["certified"]]


def _remarks(values: Mapping[str, Any]) -> list[str]:
    return [
        f"right by majority vote, %: {percent(values['accuracy'], values['interval'])}",
        f"abstentions, if no class certainly leads, %: {percent(values['abstentions'])}",
        f"median certified radius, wrong answers counting as 0: {values['median_radius']:.4g}; "
        f"greatest possible: {values['greatest_radius']:.4g}",
        f"σ {values['sigma']:.4g}, sensitivity at most {values['sensitivity']:.4g}, δ {values['delta']:g}",
        f"{values['draws']} draws, {_confidence(values)} confidence for each image, "
        f"seed {values['seed']}, {duration(values['seconds'])}",
    ]
