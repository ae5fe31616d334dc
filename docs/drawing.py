"""Draws docs/architecture.svg: ``python docs/drawing.py`` after a change of the rooms."""

from html import escape
from pathlib import Path

STEPS = (
    (("cli", "one file a command: parses, calls, prints, computes nothing"),),
    (("reproduction", "the paper's tables and figures, trained and checked again"),),
    (("training", "one loop, its phases as data; the run's folder; states to resume from"),),
    (("checks", "attacks in, results per image, criteria, one report; render/ for people"),),
    (("model_card recipe", "what goes with a file; TOML to settings"),),
    (("methods", "one file a defence: its noise, loss, projection, answer"),),
    (
        ("checkpoint certification census", "the file format; proof; the surgery on other people's networks"),
        ("settings spread compiling", "what a recipe says; how widely activations vary; torch.compile"),
    ),
    (("attacks surgery", "images that mislead; noise into a network, a file a kind of site"),),
    (
        ("zoo data perturbation prediction", "names to networks; images; the noise module; draws to an answer"),
        ("copying example files schema", "copies; inputs to try with; files written whole; tables to dataclasses"),
    ),
    (("arguments channels display", "what public functions refuse; a network's channels; objects at a prompt"),),
    (("errors text", "everything that is raised on purpose; words and tables"),),
    (
        ("normal fused generators", "how noise is drawn: on the CPU, on a GPU, from which state"),
        ("normalize numbers ranks", "pixels to what a network wants; what users type; torchrun's processes"),
        ("escape strict_json", "strangers' text and JSON"),
    ),
)
"""From the top down: the rooms of a step, and what they are, line by line."""

_LINE, _GAP, _WIDTH = 22, 8, 860


def svg() -> str:
    """The drawing."""
    parts, top = [], 8
    for step in STEPS:
        height = _LINE * len(step) + 12
        parts.append(f'<g class="step"><rect x="40" y="{top}" width="{_WIDTH - 48}" height="{height}" rx="6"/>')
        for line, (rooms, what) in enumerate(step):
            y = top + 21 + _LINE * line
            parts.append(f'<text x="54" y="{y}" class="rooms">{escape(rooms)}</text>')
            parts.append(f'<text x="335" y="{y}">{escape(what)}</text>')
        parts.append("</g>")
        top += height + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}">',
        "<title>The rooms, from the command line down to the random numbers; each knows those below it</title>",
        "<style>text{font:14px system-ui,sans-serif;fill:#222}.rooms{font:600 13px ui-monospace,monospace}"
        ".step rect{fill:#eef4fb;stroke:#2f6fb0}</style>",
        f'<rect width="{_WIDTH}" height="{top}" fill="#fff"/>',
        f'<path d="M22 12V{top - 16}m-6-10l6 10l6-10" fill="none" stroke="#555" stroke-width="1.6"/>',
        f'<text transform="translate(14 {top // 2}) rotate(-90)" text-anchor="middle">imports</text>',
    )
    return "\n".join((*head, *parts, "</svg>", ""))


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(svg(), encoding="utf-8")
