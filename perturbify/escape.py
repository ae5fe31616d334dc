"""Makes foreign text safe to display: one function for each kind of output.

Foreign text is whatever perturbify did not write itself: from a file, a folder, a dataset, another library, or the
command line. Characters that control a terminal, start a new line, change the text direction, or are invisible are
escaped as in Python strings: ``\\x1b``, ``\\n``, ``\\u202e``. These are

- control characters (C0, DEL, C1), and all other line separators;
- format characters (Unicode's Cf): directional marks and isolates, zero-width characters, tags;
- every space except the common one, lone surrogates, and private or unassigned code points;
- invisible letters and marks: fillers, variation selectors, the combining grapheme joiner;
- marks without a base character, and those in a stack of more than eight.

All other letters of any language are kept, and so is what legitimate text needs: a joiner between two letters of a
script that uses it (Arabic, Devanagari, and their neighbours) or within an emoji, and the selector that turns a symbol
into an emoji. A backslash is kept: text that is safe to display is not changed.
"""

from __future__ import annotations

import json as _json
import re
import unicodedata
from html import escape as _escape_html
from typing import Any

LONGEST = 2_000
"""Maximum number of characters shown of one foreign text; longer text is cut in the middle."""

_PILE = 8
_JOINERS = "\u200c\u200d"
_EMOJI = "\ufe0f"
_TRACELESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0").union(
    map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)


def terminal(text: object, most: int | None = LONGEST, *, lines: bool = False) -> str:
    """Text for a terminal, and for plain text of any kind.

    Args:
        text: What to show; objects other than strings are converted with ``str``.
        most: Maximum number of characters; None for all.
        lines: Whether to keep line breaks and tabs, for multi-line text. Windows line breaks are normalised.

    Returns:
        The text, on one line unless ``lines``; if too long, with its middle replaced by the number of characters cut.
    """
    said = str(text).replace("\r\n", "\n") if lines else str(text)
    if most is not None and len(said) > most:
        return _cut(said, most, lines)
    plain = said.isascii() and said.isprintable()  # as nearly all text is
    shown = said if plain else _FOREIGN[lines].sub(_written, said)
    return shown if most is None or len(shown) <= most else _cut(said, most, lines)


def markdown(text: object, most: int | None = LONGEST) -> str:
    """Text that Markdown renders literally anywhere on a line, including headings, lists and tables."""
    shown = terminal(text, most)
    if _WORD.fullmatch(shown):  # such as timm:test_efficientnet
        return shown
    shown = re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", shown.replace("&", "&amp;"))
    shown = shown.replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", shown, flags=re.IGNORECASE)  # would be auto-linked
    shown = re.sub(r"^([-+](?= |$)|-(?=[- ]*$)|=(?=[= ]*$))", r"\\\1", shown)  # lists, rules, underlined headings
    shown = re.sub(r"^(\d{1,9})([.)])(?= |$)", r"\1\\\2", shown)
    return re.sub("^ ", "&#32;", shown)  # an indented line would be code


def fenced(text: str, language: str, most: int | None = None) -> str:
    """A Markdown code block that keeps its lines and that its content cannot close."""
    shown = terminal(text, most, lines=True)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"


def html(text: object, most: int | None = LONGEST, *, lines: bool = False) -> str:
    """Text for the content of an HTML element or a quoted attribute; ``lines`` as for :func:`terminal`."""
    return _escape_html(terminal(text, most, lines=lines))


def figure(text: object, most: int | None = LONGEST) -> str:
    """Text for a matplotlib figure, which would render text between two dollar signs as mathematics."""
    return terminal(text, most).replace("$", r"\$")


def latex(text: object, most: int | None = LONGEST) -> str:
    """Text that LaTeX typesets literally in a paragraph, a caption, or a table cell.

    Our Greek letters and symbols become mathematics; letters of other scripts are kept, and need XeLaTeX or LuaLaTeX.
    """
    apart = re.sub(r"([-,'])(?=\1)", "\\1\0", terminal(text, most))  # pairs would become ligatures
    return "".join(_LATEX.get(c, c) for c in apart)


def json(values: Any, indent: int | None = 2) -> str:
    """JSON that is safe on a terminal: strings hold ``\\u202e`` for what :func:`terminal` would escape.

    Parsing it returns the same values.
    """
    text = _json.dumps(values, indent=indent, ensure_ascii=False)
    return re.sub(r"[^\n -~]", lambda m: m[0] if _seen(m[0]) else _json.dumps(m[0])[1:-1], text)


def _written(match: re.Match[str]) -> str:
    return _shown(match.string, match.start())


def _shown(text: str, at: int) -> str:
    """The character at a position of a text, as displayed."""
    c = text[at]
    return c if _fits(text, at) else c.encode("unicode_escape").decode("ascii")


def _fits(text: str, at: int) -> bool:
    """Whether a character can be displayed as it is at its position."""
    c, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if c == _EMOJI:
        return _symbol(before)
    if c in _JOINERS:
        behind_emoji = _symbol(before) or (before == _EMOJI and _fits(text, at - 1))
        return (_joined(before) and _joined(after)) or (c == "\u200d" and behind_emoji and _symbol(after))
    if unicodedata.category(c)[0] == "M":
        below = text[max(0, at - _PILE) : at]
        pile = len(below) == _PILE and all(unicodedata.category(b)[0] == "M" for b in below)
        return _seen(c) and below != "" and not pile
    return _seen(c)


def _seen(c: str) -> bool:
    """Whether a character is visible."""
    return c.isprintable() and c not in _TRACELESS


def _symbol(c: str) -> bool:
    return c != "" and unicodedata.category(c) in ("So", "Sk") and _seen(c)


def _joined(c: str) -> bool:
    """Whether a character is a letter or mark of Arabic, Devanagari, or a neighbouring script in Unicode."""
    return "\u0620" <= c <= "\u0dff" and unicodedata.category(c)[0] in "LM"


def _cut(said: str, most: int, lines: bool) -> str:
    """The beginning and the end of a text that is too long, without splitting an escape."""
    room = most - len(_note(len(said)))
    head = _within(said[:most], 2 * room // 3, lines)
    tail = _within(said[-most:], room - room * 2 // 3, lines, from_end=True)
    return "".join(head) + _note(len(said) - len(head) - len(tail)) + "".join(reversed(tail))


def _note(cut: int) -> str:
    return f"… ({cut:,} characters cut) …"


def _within(text: str, room: int, lines: bool, *, from_end: bool = False) -> list[str]:
    """As many displayed characters as there is room for."""
    found: list[str] = []
    for at in reversed(range(len(text))) if from_end else range(len(text)):
        piece = text[at] if lines and text[at] in "\n\t" else _shown(text, at)
        room -= len(piece)
        if room < 0:
            break
        found.append(piece)
    return found


_FOREIGN = {False: re.compile("[^ -~]"), True: re.compile("[^\n\t -~]")}
_WORD = re.compile(r"[A-Za-z0-9]+([_:/+-][A-Za-z0-9]+)*")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "ε": r"$\varepsilon$",
    "θ": r"$\theta$",
    "κ": r"$\kappa$",
    "∞": r"$_\infty$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "–": "--",
    "\0": "{}",
    **{c: f"\\{c}" for c in "{}$&#%_"},
    '"': r"\char34{}",
    **{c: f"{{{c}}}" for c in "[]*"},  # which have a meaning after a line break
}
