"""JSON from strangers, read strictly: no key twice, no NaN, no number that does not fit 64 bits, nothing endless."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_VALUES = 1_000_000
"""Values, or nearly so, that a text may hold: what bounds the memory that reading it takes."""


def loads(text: str, *, most: int = MOST_VALUES) -> Any:
    """Reads a JSON text.

    Args:
        text: The text.
        most: How many commas and brackets it may hold.

    Raises:
        ValueError: It is not JSON, names a key twice, has a number that is not finite or beyond 64 bits, half of a
            surrogate pair, or too much of anything; says which in a few words.
    """
    if sum(map(text.count, ",[{")) > most:
        raise ValueError(f"more than {most:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise ValueError("values nested too deep") from None
    if _ESCAPED_SURROGATE.search(text):
        # Half of a pair is no character, and could not be written again; whole pairs are one by now.
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
