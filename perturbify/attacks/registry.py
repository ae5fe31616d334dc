"""Attacks that users and other packages register by name, in addition to the built-in ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

from perturbify.attacks.attack import Attack, Need, Role
from perturbify.errors import CheckError, nearest

GROUP = "perturbify.attacks"
"""Entry-point group of packages with attacks: each entry names a module that registers them when it is imported."""


@dataclass(frozen=True)
class Entry:
    """A family of attacks.

    Attributes:
        build: Builds the attack with its defaults for a radius of the l∞ ball, in pixels of [0, 1].
        about: One-line description.
        role: Its role in a check.
        needs: Its requirements.
    """

    build: Callable[[float], Attack]
    about: str
    role: Role
    needs: frozenset[Need] = frozenset()


_ENTRIES: dict[str, Entry] = {}
_LOADED: set[EntryPoint] = set()


def register(
    name: str, build: Callable[[float], Attack], *, about: str, role: Role, needs: Collection[Need] = ()
) -> None:
    """Registers an attack under a name, for checks, comparisons and commands.

    Example::

        register("mine", MyAttack, about="what it does", role="white box", needs=["gradients"])

    Args:
        name: Its name; the same code may register it again, as when a notebook cell is rerun.
        build: Builds the attack for a radius of the l∞ ball, in pixels of [0, 1]: a class whose first field is the
            radius, or a function.
        about: One-line description.
        role: ``"one step"``, ``"white box"`` or ``"black box"``.
        needs: Any of ``"gradients"``, ``"3 classes"``, ``"4 classes"``, ``"foolbox"``.

    Raises:
        ValueError: Other code has registered that name, or ``role`` or ``needs`` is not one of those listed.
    """
    if role not in get_args(Role):
        raise ValueError(f"role of {name!r} must be one of {', '.join(get_args(Role))}, not {role!r}")
    if unknown := sorted(set(needs) - set(get_args(Need))):
        raise ValueError(f"needs of {name!r} must be among {', '.join(get_args(Need))}, not {unknown[0]!r}")
    known = _ENTRIES.get(name)
    if known is not None and _origin(known.build) != _origin(build):
        raise ValueError(f"an attack {name!r} is already registered by {known.build.__module__}; choose another name")
    _ENTRIES[name] = Entry(build, about, role, frozenset(needs))


def registered() -> dict[str, Entry]:
    """All registered attacks by name, including those of installed packages (entry points ``perturbify.attacks``).

    Raises:
        CheckError: A package's attacks cannot be loaded.
    """
    for point in entry_points(group=GROUP):
        if point not in _LOADED:
            _load(point)
            _LOADED.add(point)
    return dict(_ENTRIES)


def get(name: str) -> Entry:
    """Looks up an attack; other packages are loaded only if the name is not known without them.

    Raises:
        ValueError: There is no attack of that name.
        CheckError: A package's attacks cannot be loaded.
    """
    entry = _ENTRIES.get(name) or registered().get(name)
    if entry is None:
        raise ValueError(f"there is no attack {name!r}. {nearest(name, _ENTRIES) or f'There are {_listed()}.'}")
    return entry


def _load(point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:
        package = point.dist.name if point.dist is not None else point.value
        raise CheckError(
            f"The attacks of the package {package} cannot be loaded ({point.value}): {type(error).__name__}: {error}.",
            f"Update or uninstall {package}.",
        ) from error


def _origin(build: Callable[[float], Attack]) -> tuple[object, object]:
    return build.__module__, getattr(build, "__qualname__", build)


def _listed() -> str:
    return ", ".join(_ENTRIES) or "none"
