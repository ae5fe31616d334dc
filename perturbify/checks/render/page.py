"""A report as one HTML page that needs nothing from outside and no script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from perturbify.checks.evidence import Criterion
from perturbify.checks.render import plots, words
from perturbify.checks.render.style import STYLE
from perturbify.checks.report import NOT_ELIGIBLE, Report
from perturbify.checks.results import Figure
from perturbify.escape import html
from perturbify.text import duration, fraction, percent

# Whatever a foreign report contains: no script, no request.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MARKS = {"pass": "✓ pass", "fail": "✗ FAIL", "undecided": "? undecided", "not measured": "– not measured"}
_CLASSES = {"established": "pass", "failed": "fail", "not established": "undecided"}

LONGEST = {False: 10_000, True: 100_000}
"""The most characters shown of a one-line fact, and of one of several lines, such as a recipe."""

_SHADES = (
    '<p class="soft">The line is the limit of a figure. The light shade is the tolerance, the dark one '
    "lies beyond it.</p>"
)


def to_html(report: Report) -> str:
    """Renders a report as a page: the verdict, key figures, plots, examples, all rows, criteria, how it was measured.

    Args:
        report: Any report.

    Returns:
        The same text for the same report. It loads nothing from the network and needs no scripts; foreign text is
        escaped, and examples that are not PNG data URLs are left out.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>Robustness of {html(report.name)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker soft">Robustness report</p>
<h1>{html(report.name)}</h1>
<p class="soft">{html(words.subject(report))}</p>
</header>
{_banner(report)}
{_tiles(report)}
{_open(report)}
{_section("Remarks", _list(words.remarks(report))) if words.remarks(report) else ""}
{_figures(report)}
{_strip(report)}
{_section("All attacks", _rows(report))}
{_again(report)}
{_section("Criteria", _SHADES, *map(_criterion, report.criteria)) if report.criteria else ""}
{_section("Is the noise alive?", _list(words.liveness(report)))}
{_section("How it was measured", *_measured(report))}
{_section("In a paper", *_citation(report))}
</main>
</body>
</html>
"""


def _banner(report: Report) -> str:
    dead = words.dead(report)
    said = "".join(f"<p>{html(sentence)}</p>" for sentence in words.person(report))
    return (
        (f'<div class="banner fail" role="alert"><p class="verdict">{html(dead)}</p></div>' if dead else "")
        + f'<div class="lead">{said}</div><div class="banner {_CLASSES[report.verdict]}" role="status">'
        f'<p class="verdict">{html(words.verdict(report))}</p></div>'
    )


def _tiles(report: Report) -> str:
    head = report.headline
    tiles = [("Clean", head.clean, f"noise {report.clean.noise}, n = {report.n}")]
    tiles.append(("In the worst case", head.worst, f"l∞ {fraction(report.epsilon)}, each image under its worst attack"))
    best = None if head.best_attack is None else report.result(head.best_attack)
    if best is not None and head.best is not None:
        tiles.append(("Under the strongest single attack", head.best, words.called(best)))
    if head.noise_adds is not None:
        tiles.append(("What the noise adds, in points", head.noise_adds, "noise on minus noise off, the same attacks"))
    if head.ahead is not None and report.baseline is not None:
        tiles.append((f"Ahead of {report.baseline}, in points", head.ahead, "the same attacks on both"))
    made = "".join(
        f'<div><dt>{html(name)}</dt><dd class="big">{percent(figure.value)}</dd>'
        f'<dd class="soft">{_interval(figure)}, {html(note)}</dd></div>'
        for name, figure, note in tiles
    )
    return f'<dl class="tiles">{made}</dl>'


def _open(report: Report) -> str:
    said = words.open_questions(report)
    return f'<p class="soft">Open questions; more images narrow the intervals.</p>{_list(said)}' if said else ""


def _again(report: Report) -> str:
    """How often a random network is right when asked again."""
    body = "".join(
        f'<tr><th scope="row">{html(name)}</th><td class="number">{percent(f.value, f.interval)}</td></tr>'
        for name, f in report.resubmissions.items()
    )
    head = '<tr><th scope="col">right in the worst case</th><th scope="col">% [95%]</th></tr>'
    return _section("Asked again", _table("asked again", "", head, body)) if body else ""


def _figures(report: Report) -> str:
    made = plots.figures(report)
    return _section("Figures", f'<div class="figures">{"".join(made)}</div>') if made else ""


def _strip(report: Report) -> str:
    shown = [e for e in report.examples if all(map(_is_png, (e.clean, e.adversarial, e.difference)))]
    if not shown:
        return ""

    def line(head: str, cells: Iterable[str]) -> str:
        return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'

    head = "".join(f'<th scope="col">{html(e.label)}</th>' for e in shown)
    body = (
        line("clean", (_image(e.clean, f"{e.label}, clean") for e in shown))
        + line("predicted", (f"{html(e.clean_answer)}, {100 * e.clean_accuracy:.0f}% right" for e in shown))
        + line("attacked", (_image(e.adversarial, f"{e.label}, attacked") for e in shown))
        + line("predicted", (f"{html(e.answer)}, {100 * e.accuracy:.0f}% right" for e in shown))
        + line("difference ×10", (_image(e.difference, f"{e.label}, ten times the difference") for e in shown))
    )
    attack = report.result(report.example_attack or "")
    called = "an attack" if attack is None else html(words.called(attack))
    caption = f"Images under {called}, the class predicted by most fresh draws, and the share of draws that are right."
    return _section("Examples", _table("examples", caption, f"<tr><td></td>{head}</tr>", body, "strip"))


def _rows(report: Report) -> str:
    columns, strongest = words.columns(report), report.headline.best_attack
    head = "".join(f'<th scope="col"{_class("number" if c.numeric else "name")}>{c.head}</th>' for c in columns)
    body = ""
    for i, row in enumerate(report.results):
        cells = [f'<th scope="row" class="name">{html(columns[0].cells[i])}</th>']
        for column in columns[1:]:
            picture = plots.bar(row) if column.head == words.ACCURACY else ""
            cells.append(f"<td{_class('number' if column.numeric else 'name')}>{html(column.cells[i])}{picture}</td>")
        body += f"<tr{_class('strongest' if row.id == strongest else '')}>{''.join(cells)}</tr>\n"
    marked = "" if strongest is None else " Shaded: the strongest single attack."
    return _table("all attacks", f"{words.LEGEND}{marked}", f"<tr>{head}</tr>", body)


def _criterion(criterion: Criterion) -> str:
    pieces = criterion.evidence
    ends = [v for e in pieces for v in (*e.interval, e.estimate, e.limit, e.limit + e.tolerance)]
    body = "".join(
        f"<tr><td>{html(e.statement)}</td><td>{plots.interval(e, min(ends), max(ends))}</td>"
        f'<td class="number">{html(words.evidence(e))}</td>'
        f'<td class="{_kind(e.outcome)}">{_MARKS[e.outcome]}</td></tr>'
        for e in pieces
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in ("what", "", "% [95%] (limit, tolerance)", "outcome"))
    table = _table(f"evidence: {html(criterion.name)}", "", f"<tr>{head}</tr>", body, "evidence") if pieces else ""
    detail = f'<p class="soft">{html(criterion.detail)}</p>' if criterion.detail else ""
    return (
        f'<div class="criterion"><div class="head"><h3>{html(criterion.name)}</h3>'
        f'<span class="badge {_kind(criterion.outcome)}">{_MARKS[criterion.outcome]}</span></div>'
        f"<p>A failure means: {html(criterion.why)}</p>{table}{detail}</div>"
    )


def _measured(report: Report) -> list[str]:
    said = words.method(report) + ([] if report.deterministic else [NOT_ELIGIBLE])
    heads = ("attack", "noise", "settings", "median distance", "passes an image", "time")
    attacks = [row for row in report.results if row.norm]
    body = "".join(
        f'<tr><th scope="row" class="name">{html(words.called(row))}</th><td class="name">{html(row.noise)}</td>'
        f"<td>{html(words.settings(row.settings))}</td><td>{html(words.settings(row.distance))}</td>"
        f'<td class="name">{row.forward:g} forward, {row.gradient:g} with gradient</td>'
        f'<td class="number">{duration(row.seconds)}</td></tr>'
        for row in attacks
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    table = _table("settings", "All settings of each attack, and what it cost.", f"<tr>{head}</tr>", body)
    network = {"class": report.architecture, "classes": report.classes, **report.about}
    return [
        _list(said),
        *([_details("Settings of each attack", table)] if attacks else []),
        _details("Network", _facts(network)),
        _details("Machine", _facts(report.machine)),
    ]


def _citation(report: Report) -> list[str]:
    said = [f"<blockquote><p>{html(words.sentence(report))}</p></blockquote>"]
    if report.liveness.sites:
        said.append(
            "<p>For the noise behind the convolutions cite <cite>Learn2Perturb: an End-to-end Feature Perturbation "
            "Learning to Improve Adversarial Robustness</cite>, CVPR 2020.</p>"
        )
    return said


def _section(title: str, *content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{''.join(content)}\n</section>"


def _table(name: str, caption: str, head: str, body: str, kind: str = "") -> str:
    """A table in a box that scrolls by itself, also by the keyboard; the caption above it does not."""
    above = f'<p class="caption soft">{caption}</p>' if caption else ""
    return (
        f'{above}<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f"<table{_class(kind)}><thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _facts(values: Mapping[str, Any]) -> str:
    return f'<dl class="facts">{"".join(f"<dt>{html(k)}</dt><dd>{_value(v)}</dd>" for k, v in values.items())}</dl>'


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    lines = "\n" in text
    shown = html(text, LONGEST[lines], lines=lines)
    return f"<pre>{shown}</pre>" if lines else shown


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html(s)}</li>' for s in sentences)}</ul>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _kind(outcome: str) -> str:
    """The style of an outcome."""
    return outcome if outcome in ("pass", "fail") else "undecided"


def _interval(figure: Figure) -> str:
    low, high = figure.interval
    return f"[{percent(low)}, {percent(high)}]"


def _image(url: str, alt: str) -> str:
    return f'<img src="{url}" alt="{html(alt)}">'


def _is_png(url: str) -> bool:
    return re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", url) is not None
