"""The defences by name, including the user's own."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from perturbify.errors import MethodError, nearest
from perturbify.methods.method import Method

DEFAULT = "learn2perturb"
"""The default defence of :func:`perturbify.wrap`, of recipes, and of commands."""
NONE = "none"
"""No defence; also for a baseline that is wrapped without noise."""

_METHODS: dict[str, Method] = {}
Kind = TypeVar("Kind", bound=type[Method])


def register(kind: Kind) -> Kind:
    """Registers a method by its name, for recipes, files and commands; a decorator for a subclass of Method.

    A file that was written with a user's own method loads where that method has been registered before.

    Raises:
        MethodError: It has no name, or another class already has that name.
    """
    name = getattr(kind, "name", "")
    if not name:
        raise MethodError(f"{kind.__name__} has no name.", 'Set name = "…" in the class.')
    known = _METHODS.get(name)
    if known is not None and (type(known).__module__, type(known).__qualname__) != (kind.__module__, kind.__qualname__):
        raise MethodError(f"There is already a method {name!r}: {type(known).__qualname__}.", "Choose another name.")
    _METHODS[name] = kind()
    return kind


def get(name: str) -> Method:
    """Looks up a defence, also among those of installed packages that declare the entry point ``perturbify.methods``.

    Raises:
        MethodError: There is no defence of that name.
    """
    if name not in _METHODS:
        for plugin in entry_points(group="perturbify.methods", name=name):
            plugin.load()
    if name not in _METHODS:
        raise MethodError(
            f"There is no method {name!r}.",
            nearest(name, _METHODS)
            or f"There are {', '.join(_METHODS)}. Import the module that registers your own, or, for commands, "
            "install it with an entry point in perturbify.methods.",
        )
    return _METHODS[name]


def of_file(method: str | None, *, noisy: bool) -> str:
    """The name of the defence of a file; the first version of the format named none, and had only one.

    Args:
        method: What the file names.
        noisy: Whether there is noise in it.
    """
    return method or (DEFAULT if noisy else NONE)


def names() -> tuple[str, ...]:
    """The names of all defences, the built-in ones first."""
    return tuple(_METHODS)
