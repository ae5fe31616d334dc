"""TOML tables to frozen dataclasses and back, strictly.

A dataclass's own annotations say which keys a table has and of which type; :class:`Rules` adds what an
annotation cannot say. :func:`read` collects every mistake instead of stopping at the first.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from perturbify import numbers
from perturbify.errors import nearest

_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_BAD = object()  # stands for a value that has already been reported
_SHOWN = 200  # characters of a value shown in a mistake
_HINTS = 20  # mistakes that get a hint: finding the nearest names takes time
_DEEPEST = 16
_LONGEST = 10_000


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which numbers a key takes; always finite ones.

    Attributes:
        least: The smallest allowed number.
        above: All numbers are greater than this.
        most: The greatest allowed number.
        below: All numbers are smaller than this.
        limit: No sensible number is greater; named in the mistake if one is.
        increasing: For a list: each number is greater than the one before.
        fraction: A string such as ``"8/255"`` is also a number.
    """

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    limit: float = math.inf
    increasing: bool = False
    fraction: bool = False

    def __contains__(self, number: float) -> bool:
        """Whether the number is one of them."""
        # Compared rather than passed to isfinite, which fails on an int beyond float's range.
        finite = -math.inf < number < math.inf
        return finite and self.least <= number <= min(self.most, self.limit) and self.above < number < self.below

    def __str__(self) -> str:
        """As in "must be at least 0 and below 1"."""
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        said = [f"{word} {bound:.10g}" for word, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(said) or "finite"


@dataclass(frozen=True)
class Pair:
    """A condition on two keys of one table.

    Attributes:
        key: The key that the mistake names.
        other: The other key.
        holds: Whether the condition holds for their two values.
        demand: Follows the key's path in the mistake, as in ``"must be at most epochs"``.
    """

    key: str
    other: str
    holds: Callable[[Any, Any], bool]
    demand: str


@dataclass(frozen=True)
class Rules:
    """What the annotations of one dataclass cannot say.

    Attributes:
        ranges: Keys to the numbers they take; for a list, to each number.
        pairs: Conditions on two keys; checked only if both could be read.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()


def read(
    cls: type,
    table: Mapping[str, Any],
    rules: Mapping[type, Rules],
    given: Mapping[str, Any],
    defaults: Mapping[type, Any] = MappingProxyType({}),
) -> tuple[Any, list[str]]:
    """Builds a dataclass, and the dataclasses within it, from a table.

    Args:
        cls: The dataclass. A field that is a dataclass itself is a section.
        table: What ``tomllib`` read.
        rules: The rules of each dataclass that has any.
        given: Fields of ``cls`` that do not come from the table, with their values.
        defaults: An instance of a section, whose values replace its missing keys.

    Returns:
        The instance and no mistakes, or None and every mistake, each led by the key's dotted path.
    """
    reader = _Reader(rules, dict(_leaves(cls, given)), defaults)
    made = reader.section(cls, table, "", given)
    return made, reader.mistakes


def excess(table: Mapping[str, Any]) -> str | None:
    """Whatever is far too large in a table; None if nothing is.

    Such a table can be neither traversed nor printed, so this check comes first.

    Args:
        table: What ``tomllib`` read, or its like.
    """
    left: list[tuple[Any, str, int]] = [(table, "", 0)]
    while left:
        value, path, depth = left.pop()
        if isinstance(value, (Mapping, list, tuple)):
            if depth > _DEEPEST:
                return f"{_cut(path)} nests tables or lists deeper than {_DEEPEST}"
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            prefix = f"{path}." if path else ""
            left += [(item, f"{prefix}{str(key)[:_SHOWN]}", depth + 1) for key, item in items]
        elif isinstance(value, str) and len(value) > _LONGEST:
            return f"{_cut(path)} is a string of {len(value):,} characters, more than {_LONGEST:,}"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"{_cut(path)} is an integer of more than 64 bits, which TOML does not have"
    return None


def write(settings: Any, *, skip: tuple[str, ...] = ()) -> str:
    """The TOML text that :func:`read` turns into the same settings, with every key in it.

    Args:
        settings: A dataclass instance whose tables are dataclasses or dicts.
        skip: Fields that do not go into the text.
    """
    top: list[str] = []
    sections: list[str] = []
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name in skip:
            continue
        if is_dataclass(value) or isinstance(value, dict):
            table = value if isinstance(value, dict) else vars(value)
            sections.append("\n".join([f"\n[{f.name}]", *(_line(k, v) for k, v in table.items())]))
        else:
            top.append(_line(f.name, value))
    return "\n".join([*top, *sections, ""])


@dataclass
class _Reader:
    """Walks the tables and collects the mistakes."""

    rules: Mapping[type, Rules]
    paths: dict[str, str]  # dotted path of every key, to its last part
    defaults: Mapping[type, Any]
    mistakes: list[str] = field(default_factory=list)

    def section(self, cls: type, table: Any, prefix: str, given: Mapping[str, Any]) -> Any:
        if not isinstance(table, Mapping):
            return self.reject(prefix.rstrip("."), f"must be a table, not {_shown(table)}")
        kinds, rules = get_type_hints(cls), self.rules.get(cls, Rules())
        keys = {f.name: f for f in fields(cls) if f.name not in given}
        for key in table:
            if key not in keys:
                self.reject(prefix + key, f"is unknown. {self.right_name(key, keys)}".rstrip(". "))
        values = dict(given) | {
            key: self.entry(cls, f, kinds[key], table, prefix + key, rules.ranges.get(key, Range()))
            for key, f in keys.items()
        }
        for pair in rules.pairs:
            one, other = values[pair.key], values[pair.other]
            if one is not _BAD and other is not _BAD and not pair.holds(one, other):
                self.reject(prefix + pair.key, f"{pair.demand} ({_shown(one)} and {_shown(other)})")
        try:
            return None if self.mistakes else cls(**values)
        except ValueError as error:  # raised by the dataclass itself
            return self.reject(prefix.rstrip("."), f"is impossible: {error}")

    def entry(self, cls: type, f: Field[Any], kind: Any, table: Mapping[str, Any], path: str, allowed: Range) -> Any:
        if is_dataclass(kind):
            if f.name not in table and f.default is not MISSING:
                return f.default
            return self.section(kind, table.get(f.name, {}), path + ".", {})  # type: ignore[arg-type]
        if f.name in table:
            return self.value(table[f.name], kind, path, allowed)
        if cls in self.defaults:
            return getattr(self.defaults[cls], f.name)
        if f.default_factory is not MISSING:
            return f.default_factory()
        return self.reject(path, "is missing") if f.default is MISSING else f.default

    def value(self, value: Any, kind: Any, path: str, allowed: Range) -> Any:
        origin = get_origin(kind)
        if origin is UnionType:  # X | None: TOML has no null, so a value that is there is an X
            first, *others = (arm for arm in get_args(kind) if arm is not NoneType)
            return self.value(value, next((arm for arm in others if type(value) is arm), first), path, allowed)
        if origin is Literal:
            return self.choice(value, get_args(kind), path)
        if origin is tuple:
            return self.items(value, get_args(kind)[0], path, allowed)
        if origin is dict:
            return self.free_table(value, path)
        return self.scalar(value, kind, path, allowed)

    def choice(self, value: Any, choices: tuple[str, ...], path: str) -> Any:
        if isinstance(value, str) and value in choices:
            return value
        hint = nearest(value, choices, limit=1) if isinstance(value, str) else ""
        said = ", ".join(_shown(choice) for choice in choices)
        return self.reject(path, f"must be one of {said}, not {_shown(value)}. {hint}".rstrip(". "))

    def items(self, value: Any, kind: Any, path: str, allowed: Range) -> Any:
        if not isinstance(value, (list, tuple)):
            return self.reject(path, f"must be a list, not {_shown(value)}")
        items = tuple(self.value(item, kind, f"{path}[{i}]", allowed) for i, item in enumerate(value))
        if any(item is _BAD for item in items):
            return _BAD
        if allowed.increasing and not all(map(operator.lt, items, items[1:])):
            return self.reject(path, f"must increase, unlike {_shown(items)}")
        return items

    def free_table(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self.reject(path, f"must be a table, not {_shown(value)}")
        try:
            for item in value.values():
                _text(item)
        except TypeError as error:
            return self.reject(path, f"holds {error}")
        return value

    def scalar(self, value: Any, kind: Any, path: str, allowed: Range) -> Any:
        what = _SCALARS[kind]
        number: Any = value
        try:
            if kind is float and allowed.fraction and isinstance(value, str) and "/" in value:
                number = numbers.fraction(value)
            elif kind is float and type(value) is int:  # and not bool, which is an int to isinstance
                number = float(value)
        except OverflowError:
            pass  # beyond float's range: reported as the wrong type below
        if type(number) is not kind:
            or_fraction = ' or a fraction such as "8/255"' if allowed.fraction else ""
            return self.reject(path, f"must be {what}{or_fraction}, not {_shown(value)}")
        if kind in (int, float) and number not in allowed:
            demand = f"at most {allowed.limit:,.0f}" if allowed.limit < number < math.inf else allowed
            return self.reject(path, f"must be {demand}, not {_shown(value)}")
        return number

    def right_name(self, key: str, keys: Mapping[str, Any]) -> str:
        """What was probably meant: the same key in another table, or a similar key in this one."""
        if len(self.mistakes) >= _HINTS:
            return ""
        elsewhere = [path for path, last in self.paths.items() if last == key]
        if elsewhere:
            return f"Did you mean {' or '.join(map(repr, elsewhere))}?"
        return nearest(key, keys, limit=2)

    def reject(self, path: str, wrong: str) -> Any:
        self.mistakes.append(f"{_cut(path)} {wrong}")
        return _BAD


def _leaves(cls: type, given: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The dotted path and the name of every key that is not a section."""
    leaves = []
    kinds = get_type_hints(cls)
    for f in fields(cls):
        if is_dataclass(kinds[f.name]):
            leaves += _leaves(kinds[f.name], {}, f"{prefix}{f.name}.")
        elif f.name not in given:
            leaves.append((prefix + f.name, f.name))
    return leaves


def _shown(value: Any) -> str:
    """A value much as the author of the TOML would write it; of a long one its beginning."""
    return _cut(json.dumps(value, default=str, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _line(key: str, value: Any) -> str:
    # TOML has no null; a comment still shows the reader that the key exists.
    return f"# {key} is not set" if value is None else f"{_key(key)} = {_text(value)}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _letter(match: re.Match[str]) -> str:
    lone = "\ud800" <= match[0] <= "\udfff"  # half of a surrogate pair, which TOML cannot express
    return match[0] if match[0].isprintable() or lone else f"\\U{ord(match[0]):08x}"


def _text(value: Any) -> str:
    """A value in TOML's syntax."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML string; characters that a terminal would interpret are escaped in both.
            return re.sub("[^ -~]", _letter, json.dumps(value, ensure_ascii=False))
        case list() | tuple():
            return f"[{', '.join(map(_text, value))}]"
        case dict():
            return f"{{{', '.join(f'{_key(k)} = {_text(v)}' for k, v in value.items())}}}"
    raise TypeError(f"a {type(value).__name__}, which a recipe cannot hold")
