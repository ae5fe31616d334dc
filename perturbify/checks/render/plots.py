"""The figures of a page: SVG whose colours come from the page's style sheet, by the classes s0 to s5."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perturbify.checks.evidence import Evidence
from perturbify.checks.render import words
from perturbify.checks.report import Report
from perturbify.checks.results import Result
from perturbify.escape import html
from perturbify.text import percent

WIDTH, HEIGHT = 460, 310
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 26, 46

MOST_CURVES = 6
"""The most attacks in the figure of survival; more could not be told apart."""

_MARKERS = (  # circle, square, diamond, triangles
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.5-3.5h7v7h-7z",
    "M0-5L5 0 0 5-5 0z",
    "M0-5L4.6 3.5h-9.2z",
    "M0 5L4.6-3.5h-9.2z",
)


@dataclass(frozen=True)
class Dot:
    """A measured point: x, and y with its interval, as shares (no interval: low and high equal y)."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A named line through points in order of x."""

    name: str
    dots: tuple[Dot, ...]


def figures(report: Report) -> list[str]:
    """All figures that the report has data for, as ``<figure>`` elements.

    They show accuracy against ε (the paper's figures 2 and 3), against the draws and the steps of an attack, and
    survival against the number of queries. A figure needs two different values of x; one point is better read in a
    table.
    """
    clean = report.clean.accuracy
    made = [
        _figure(
            "Accuracy against ε",
            f"Bands are 95% intervals, {_images(report, 'epsilon')}. Dashed: without an attack. Dotted: chance.",
            _points(report.results, "epsilon"),
            Axis("ε in 1/255", lambda x: f"{255 * x:.3g}", log=False),
            {"clean": clean, "chance": 1 / report.classes},
        ),
        _figure(
            "Accuracy against the draws that a step averages",
            "Where the line still falls at its end, the attack has not seen enough draws.",
            _points(report.results, "draws"),
            Axis("draws a step", lambda x: f"{x:g}", log=True),
        ),
        _figure(
            "Accuracy against steps",
            "Where the line still falls at its end, the attack has not converged.",
            _points(report.results, "steps"),
            Axis("steps", lambda x: f"{x:g}", log=True),
        ),
        _survival(report),
    ]
    return [figure for figure in made if figure]


def _images(report: Report, figure: str) -> str:
    """The number of images behind the points of a figure: ``n = 256 to 1017``."""
    ns = sorted({row.n for row in report.results if any(point.figure == figure for point in row.points)})
    return f"n = {ns[0]}" + (f" to {ns[-1]}" if len(ns) > 1 else "") if ns else ""


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its title, how it writes a number, and whether it may be logarithmic."""

    title: str
    tick: Callable[[float], str]
    log: bool


def interval(e: Evidence, lowest: float, highest: float) -> str:
    """A piece of evidence as a dot with a whisker; the area beyond its limit is shaded, darker beyond the tolerance.

    Args:
        e: The evidence.
        lowest: Left end of the scale.
        highest: Right end.
    """
    width = 180

    def at(value: float) -> float:
        return 6 + (width - 12) * (value - lowest) / ((highest - lowest) or 1)

    limit, end = at(e.limit), at(e.limit + e.tolerance)
    low, high = (at(v) for v in e.interval)
    return (
        f'<svg class="whisker {_kind(e)}" viewBox="0 0 {width} 24" width="{width}" height="24" aria-hidden="true">'
        f'<rect class="beyond" x="{limit:.1f}" width="{width - limit:.1f}" height="24"/>'
        f'<rect class="beyond" x="{end:.1f}" width="{width - end:.1f}" height="24"/>'
        f'<path class="limit" d="M{limit:.1f} 0v24"/>'
        f'<path class="span" d="M{low:.1f} 12H{high:.1f}M{low:.1f} 8v8M{high:.1f} 8v8"/>'
        f'<circle cx="{at(e.estimate):.1f}" cy="12" r="4"/></svg>'
    )


def _kind(e: Evidence) -> str:
    return e.outcome if e.outcome in ("pass", "fail") else "undecided"


def bar(row: Result) -> str:
    """A row's accuracy with its interval on a scale from 0 to 100."""
    low, high, y = (100 * v for v in (*row.interval, row.accuracy))
    return (
        '<svg class="bar" viewBox="0 0 100 12" width="100" height="12" aria-hidden="true">'
        f'<rect class="track" width="100" height="12"/><rect class="fill" width="{y:.1f}" height="12"/>'
        f'<path d="M{low:.1f} 6H{high:.1f}M{low:.1f} 3v6M{high:.1f} 3v6"/></svg>'
    )


def _points(rows: Sequence[Result], figure: str) -> list[Curve]:
    lines: dict[str, dict[float, Dot]] = {}
    for row in rows:
        for point in row.points:
            if point.figure == figure:
                name = point.line if row.network == "itself" else f"{point.line}, {row.network}"
                lines.setdefault(name, {})[point.x] = Dot(point.x, row.accuracy, *row.interval)
    return [Curve(name, tuple(dots[x] for x in sorted(dots))) for name, dots in lines.items()]


def _survival(report: Report) -> str:
    """The clean images and, at the report's ε, the strongest attack of each kind."""
    if report.deterministic:
        return ""  # a deterministic network's answers do not vary
    clean = report.clean
    attacked = [r for r in report.results if r.survival and r.network == "itself" and r.within(report.epsilon)]
    at_epsilon = [r for r in attacked if r.noise == clean.noise and r.role != "sweep"]
    shown = sorted(at_epsilon, key=_lasting)[:MOST_CURVES]
    chosen = f" The {len(shown)} strongest of {len(at_epsilon)}." if len(shown) < len(at_epsilon) else ""
    curves = [
        Curve(name, tuple(Dot(n, f.value, *f.interval) for n, f in sorted(r.survival.items())))
        for name, r in [("clean", clean), *((words.called(r), r) for r in shown)]
    ]
    return _figure(
        "Survival of repeated queries",
        f"Share of images classified correctly in all of N queries, under each attack.{chosen}",
        curves,
        Axis("queries N", lambda x: f"{x:g}", log=True),
    )


def _lasting(row: Result) -> float:
    return row.survival[max(row.survival)].value


def _figure(
    title: str, caption: str, curves: Sequence[Curve], axis: Axis, levels: Mapping[str, float] | None = None
) -> str:
    if len({dot.x for curve in curves for dot in curve.dots}) < 2:
        return ""
    keys = "".join(
        f'<li class="{_color(i, curve)}"><svg viewBox="-12 -7 24 14" width="24" height="14" aria-hidden="true">'
        f'<path class="line" d="M-12 0H12"/><path class="dot" d="{_MARKERS[i % 5]}"/></svg>'
        f"{html(curve.name)}</li>"
        for i, curve in enumerate(curves)
    )
    return (
        f"<figure><figcaption><strong>{title}</strong> {caption}</figcaption>"
        f'{_chart(title, curves, axis, levels or {})}<ul class="key">{keys}</ul></figure>'
    )


def _chart(title: str, curves: Sequence[Curve], axis: Axis, levels: Mapping[str, float]) -> str:
    xs = sorted({dot.x for curve in curves for dot in curve.dots})
    scale = math.log if axis.log and xs[0] > 0 else float
    start = scale(xs[0]) if axis.log else min(0.0, xs[0])
    step, top = _grid(max([dot.high for curve in curves for dot in curve.dots] + list(levels.values())))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LEFT + 10 + (right - LEFT - 20) * (scale(x) - start) / (scale(xs[-1]) - start)

    def up(y: float) -> float:
        return bottom - (bottom - TOP) * y / top

    parts = ['<text x="0" y="12" class="title">%</text>']
    for i in range(round(top / step) + 1):
        y = up(i * step)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * i * step:g}</text>')
    last = -math.inf
    for x in xs:
        if across(x) - last >= 26:  # room for a label
            last = across(x)
            parts.append(f'<path class="tick" d="M{last:.1f} {bottom}v4"/>')
            parts.append(f'<text x="{last:.1f}" y="{bottom + 18}" text-anchor="middle">{axis.tick(x)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" class="title">{axis.title}</text>')
    for name, level in levels.items():
        y = up(level)
        parts.append(f'<path class="level {name}" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{right}" y="{y - 4:.1f}" text-anchor="end" class="title">{name}</text>')
    parts += [_curve(i, curve, axis, across, up) for i, curve in enumerate(curves)]
    told = "; ".join(f"{c.name}: " + ", ".join(f"{axis.tick(d.x)} {percent(d.y)}" for d in c.dots) for c in curves)
    label = html(f"{title}, in percent by {axis.title}. {told}.", 10_000)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _curve(i: int, curve: Curve, axis: Axis, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    dots = curve.dots
    edge = [(d.x, d.high) for d in dots] + [(d.x, d.low) for d in reversed(dots)]
    parts = []
    if any(d.low < d.high for d in dots):
        parts.append(f'<path class="band" d="{_path((across(x), up(y)) for x, y in edge)}z"/>')
    parts.append(f'<path class="line" d="{_path((across(d.x), up(d.y)) for d in dots)}"/>')
    for d in dots:
        spread = (d.low, d.high) if d.low < d.high else None
        note = html(f"{curve.name}, {axis.title} {axis.tick(d.x)}: {percent(d.y, spread)}%")
        parts.append(
            f'<path class="dot" transform="translate({across(d.x):.1f} {up(d.y):.1f})" d="{_MARKERS[i % 5]}">'
            f"<title>{note}</title></path>"
        )
    return f'<g class="{_color(i, curve)}">{"".join(parts)}</g>'


def _color(i: int, curve: Curve) -> str:
    return "ink" if curve.name == "clean" else f"s{i % 6}"


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _grid(highest: float) -> tuple[float, float]:
    """The spacing of the grid lines and the top of a scale that includes ``highest``, as shares."""
    step = next((s for s in (0.01, 0.02, 0.05, 0.1) if highest <= 5 * s), 0.2)
    return step, max(math.ceil(highest / step - 1e-9), 1) * step
