"""Numbers that somebody wrote: read rightly, or not at all, and in a moment."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbify import numbers

NOT_NUMBERS = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "1_0",
    "１",
    "٣",
    "0x10",
    "1e",
    "e1",
    ".",
    "+",
    "1.2.3",
    "1j",
    "--1",
]
HUGE = ["1e999999999", "9" * 100_000, "0." + "1" * 100_000, "1/" + "9" * 100_000, "1e400/1e400", "1e" + "9" * 100_000]


@pytest.mark.parametrize("text", [*NOT_NUMBERS, *HUGE, "1/0", "0/0", "1/", "/1", "/", "1/2/3", "1.5/2", "1/nan"])
def test_text_that_is_no_number_is_refused_quickly(text: str) -> None:
    started = time.perf_counter()
    assert numbers.fraction(text) is None
    assert "/" in text or numbers.decimal(text) is None
    assert numbers.whole(text) is None
    assert time.perf_counter() - started < 0.1


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_printing_and_reading(number: float) -> None:
    assert numbers.decimal(repr(number)) == number
    assert numbers.fraction(f" {number!r} ") == number


@given(st.integers(-(10**98), 10**98), st.integers(1, 10**98))
def test_a_fraction_is_rounded_once(above: int, below: int) -> None:
    read = numbers.fraction(f"{above} / {below}")
    assert read == float(Fraction(above, below))


@given(st.integers(-(10**98), 10**98))
def test_whole_numbers(number: int) -> None:
    assert numbers.whole(str(number)) == number


@given(st.text(max_size=200))
def test_any_text_gives_a_finite_number_or_none(text: str) -> None:
    for read in (numbers.decimal(text), numbers.whole(text), numbers.fraction(text)):
        assert read is None or math.isfinite(read)
