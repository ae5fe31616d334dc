"""Strict parsing of untrusted JSON: no repeated keys, no NaN, no numbers beyond 64 bits, bounded size."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_VALUES = 1_000_000
"""Approximate maximum number of values in a text, to bound the memory for parsing."""


def loads(text: str, *, most: int = MOST_VALUES) -> Any:
    """Parses a JSON text.

    Args:
        text: The text.
        most: Maximum number of commas and opening brackets.

    Raises:
        ValueError: It is not JSON, repeats a key, has a number that is not finite or beyond 64 bits, half of a
            surrogate pair, or is too large or too deep; the message says which in a few words.
    """
    if sum(map(text.count, ",[{")) > most:
        raise ValueError(f"more than {most:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise ValueError("values nested too deeply") from None
    if _ESCAPED_SURROGATE.search(text):
        # Half of a pair is not a character, and could not be written back; whole pairs are already decoded.
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return value


_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} twice")
    return found


def _short(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"the number {text[:40]}")
    return number


def _refuse(constant: str) -> float:
    raise ValueError(f"the number {constant}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]}")
    return number
