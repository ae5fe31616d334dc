"""Pictures that can be read: plain numbers, curves and names that can be told apart, nothing on top of each other."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from networks.greys import PLAN, Brightness, brightness

from perturbify import recipe
from perturbify.checks.compare import compare
from perturbify.cli import curves, figures, plot

RECIPE = recipe.load("smoke")


def epochs(sites, scale=lambda epoch, site: 0.25):
    return [
        {
            "epoch": epoch,
            **{f"{who}_{what}": 0.5 / (epoch + 1) for who in ("clean", "adversarial") for what in ("loss", "accuracy")},
            "theta": {
                "mean": 0.25,
                "sites": {name: scale(epoch, i) for i, name in enumerate(sites)},
                "relative": {name: scale(epoch, i) for i, name in enumerate(sites)},
            },
        }
        for epoch in range(3)
    ]


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def ticks(axis):
    """The labels of the ticks that are in view."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def texts(figure):
    """All that is written and seen, with its box."""
    found = [t for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for t in ticks(axis)]
    found += [t for axes in figure.axes for t in (axes._left_title, axes.xaxis.label, axes.yaxis.label)]
    found += [t for legend in figure.legends for t in (*legend.get_texts(), legend.get_title())]
    found += figure.texts
    return [t for t in found if t.get_text() and t.get_visible()]


def overlapping(figure):
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


def outside(figure):
    width, height = figure.bbox.size
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    return [text for text, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]


@pytest.mark.parametrize(
    "scale",
    [
        lambda epoch, site: 0.25 + 1e-7 * epoch * site,
        lambda epoch, site: 1e-5 * 10 ** (site % 7),
        lambda epoch, site: -2.3 + 0.001 * site,
        lambda epoch, site: 123456.0 + site,
        lambda epoch, site: 0.0,
    ],
    ids=["nearly flat", "six powers", "negative", "large", "zero"],
)
def test_theta_is_in_plain_numbers(scale):
    figure = figures.canvas(8, 7.8)
    plot.draw(figure, epochs([f"layer{i}.conv" for i in range(9)], scale), RECIPE)
    drawn(figure)
    for axes in figure.axes:
        labels = [label.get_text() for label in ticks(axes.yaxis)]
        assert axes.yaxis.get_offset_text().get_text() == ""
        assert len(labels) >= 2 and all(re.fullmatch(r"[-−]?\d+(\.\d+)?", label) for label in labels), labels
    assert overlapping(figure) == [] and outside(figure) == []


@pytest.mark.parametrize("sites", [1, 9, 60])
def test_sites_are_told_apart_and_named(sites):
    names = [f"backbone.stages.{i}.blocks_of_a_long_name.conv" for i in range(sites)]
    figure = figures.canvas(8, 7.8)
    plot.draw(figure, epochs(names), RECIPE)
    drawn(figure)
    lines = figure.axes[2].get_lines()[:-1]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == sites
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(named)) == len(named) == min(sites, plot.NAMED) + 1
    assert overlapping(figure) == [] and outside(figure) == []
    assert min(text.get_fontsize() for text in texts(figure)) >= 9


@pytest.mark.parametrize("networks", [2, 12])
def test_networks_are_side_by_side(networks):
    plan = replace(PLAN, attacks=("fgsm", "pgd", "sweep"), sweep=(0.5, 2.0))
    found = compare({"plain": Brightness()}, brightness(4, 4), plan)
    names = [f"a-network-with-quite-a-long-name-{i}" for i in range(networks)]
    found = replace(found, groups=tuple(replace(found.groups[0], name=name) for name in names))
    figure = figures.canvas(*curves.size(found))
    curves.draw(figure, found)
    drawn(figure)
    for axes in figure.axes:
        marks = np.concatenate([line.get_xydata() for line in axes.get_lines()])
        seen = axes.transData.transform(marks)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[~np.eye(len(seen), dtype=bool)]
        assert apart.min() > 4, "identical values lie on each other"
    assert len(figure.axes[0].collections) == networks, "an interval each"
    assert overlapping(figure) == [] and outside(figure) == []


def test_264_looks():
    looks = [figures.style(number) for number in range(264)]
    assert len({(s["color"], s["marker"], str(s["ls"])) for s in looks}) == 264
