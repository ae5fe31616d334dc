"""Foreign text, made fit to be shown: one function for each place that it can go to.

Foreign is whatever perturbify did not write itself: all that a file, a folder, a dataset, another library, or the
command line says. Characters that steer a terminal, begin a line, turn the direction of the text, or cannot be seen are
written out, as Python does in its strings: ``\\x1b``, ``\\n``, ``\\u202e``. These are

- controls (C0, DEL, C1), and whatever else parts lines;
- format characters (Unicode's Cf): marks and isolates of direction, zero-width characters, tags;
- every blank but the common one, lone surrogates, and code points that are private or stand for nothing yet;
- letters and marks that leave no trace: fillers, variation selectors, the combining grapheme joiner;
- marks with nothing to stand on, and those in a pile of more than eight.

Every other letter of any language stays as it is, and so does what honest text needs: a joiner between two letters of
a script that is written with it (Arabic, Devanagari, and their neighbours) or within an emoji, and the selector that
makes a symbol an emoji. A backslash stays one backslash: text that is fit to be shown is left as it is.
"""

from __future__ import annotations

import json as _json
import re
import unicodedata
from html import escape as _escape_html
from typing import Any

LONGEST = 2_000
"""Characters that one foreign text takes at most where it is shown; what is longer is cut in its middle."""

_PILE = 8
_JOINERS = "\u200c\u200d"
_EMOJI = "\ufe0f"
_TRACELESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0").union(
    map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)


def terminal(text: object, most: int | None = LONGEST, *, lines: bool = False) -> str:
    """Text for a terminal, and for plain text of any kind.

    Args:
        text: What to show; other objects than strings as ``str`` gives them.
        most: Characters at most; None: all of them.
        lines: Whether its line breaks and tabs stay: for text of several lines that are shown as such. Those of Windows
            are read as everyone's.

    Returns:
        The text on one line, unless ``lines``; a longer one with its middle replaced by the number of characters there.
    """
    said = str(text).replace("\r\n", "\n") if lines else str(text)
    if most is not None and len(said) > most:
        return _cut(said, most, lines)
    plain = said.isascii() and said.isprintable()  # as nearly all are
    shown = said if plain else _FOREIGN[lines].sub(_written, said)
    return shown if most is None or len(shown) <= most else _cut(said, most, lines)


def markdown(text: object, most: int | None = LONGEST) -> str:
    """Text that Markdown takes literally, wherever on a line: also as a heading, in a list, and in a table."""
    shown = terminal(text, most)
    if _WORD.fullmatch(shown):  # such as timm:test_efficientnet
        return shown
    shown = re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", shown.replace("&", "&amp;"))
    shown = shown.replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", shown, flags=re.IGNORECASE)  # would become links by themselves
    shown = re.sub(r"^([-+](?= |$)|-(?=[- ]*$)|=(?=[= ]*$))", r"\\\1", shown)  # lists, rules, underlined headings
    shown = re.sub(r"^(\d{1,9})([.)])(?= |$)", r"\1\\\2", shown)
    return re.sub("^ ", "&#32;", shown)  # an indented line would be code


def fenced(text: str, language: str, most: int | None = None) -> str:
    """A block of code in Markdown that keeps its lines, and that nothing in it can close."""
    shown = terminal(text, most, lines=True)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"


def html(text: object, most: int | None = LONGEST, *, lines: bool = False) -> str:
    """Text for the content of an HTML element, and for an attribute in quotes; ``lines`` as for :func:`terminal`."""
    return _escape_html(terminal(text, most, lines=lines))


def figure(text: object, most: int | None = LONGEST) -> str:
    """Text for a figure of matplotlib, which would take what stands between two dollar signs for mathematics."""
    return terminal(text, most).replace("$", r"\$")


def latex(text: object, most: int | None = LONGEST) -> str:
    """Text that LaTeX sets literally, wherever in a paragraph, a caption, or a table's cell.

    Greek letters and signs of ours become mathematics; letters of other scripts stay, and want XeLaTeX or LuaLaTeX.
    """
    apart = re.sub(r"([-,'])(?=\1)", "\\1\0", terminal(text, most))  # two of them would become another sign
    return "".join(_LATEX.get(c, c) for c in apart)


def json(values: Any, indent: int | None = 2) -> str:
    """JSON that can be read on a terminal: strings hold ``\\u202e`` for what :func:`terminal` would write out.

    Whoever parses it gets the very same values.
    """
    text = _json.dumps(values, indent=indent, ensure_ascii=False)
    return re.sub(r"[^\n -~]", lambda m: m[0] if _seen(m[0]) else _json.dumps(m[0])[1:-1], text)


def _written(match: re.Match[str]) -> str:
    return _shown(match.string, match.start())


def _shown(text: str, at: int) -> str:
    """The character at some place of a text, as it is shown."""
    c = text[at]
    return c if _fits(text, at) else c.encode("unicode_escape").decode("ascii")


def _fits(text: str, at: int) -> bool:
    """Whether a character can be shown as it is, where it stands."""
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
    """Whether a character shows itself."""
    return c.isprintable() and c not in _TRACELESS


def _symbol(c: str) -> bool:
    return c != "" and unicodedata.category(c) in ("So", "Sk") and _seen(c)


def _joined(c: str) -> bool:
    """Whether a character is a letter or mark of Arabic, Devanagari and what Unicode has between and beside them."""
    return "\u0620" <= c <= "\u0dff" and unicodedata.category(c)[0] in "LM"


def _cut(said: str, most: int, lines: bool) -> str:
    """The beginning and the end of what would be too long, each character of them whole."""
    room = most - len(_note(len(said)))
    head = _within(said[:most], 2 * room // 3, lines)
    tail = _within(said[-most:], room - room * 2 // 3, lines, from_end=True)
    return "".join(head) + _note(len(said) - len(head) - len(tail)) + "".join(reversed(tail))


def _note(cut: int) -> str:
    return f"… ({cut:,} characters cut) …"


def _within(text: str, room: int, lines: bool, *, from_end: bool = False) -> list[str]:
    """As many characters as there is room for, as they are shown."""
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
    **{c: f"{{{c}}}" for c in "[]*"},  # which mean something behind a line break
}
