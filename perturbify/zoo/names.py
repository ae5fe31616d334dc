"""From names to constructors: which library has a model, and what a bare name means."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from perturbify.errors import ModelError, UnknownModel, nearest
from perturbify.zoo import cifar_resnet, cifar_resnext, cifar_wide

NETWORKS: dict[str, Callable[..., Any]] = {**cifar_resnet.NETWORKS, **cifar_wide.NETWORKS, **cifar_resnext.NETWORKS}
"""The built-in networks."""

LIBRARIES = ("perturbify", "timm", "torchvision")  # in the order in which a bare name is looked up


def is_factory(name: str) -> bool:
    """Whether a name has the form of a user's own ``package.module:factory``; imports nothing."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library not in LIBRARIES


def check_trusted(name: str, whose: str, *, trust_factory: bool) -> None:
    """Makes sure that only the user decides which code runs; imports nothing.

    To be called for every name that comes from a file instead of the user.

    Args:
        name: A name as :func:`resolve` takes it.
        whose: Where the name comes from, such as ``"the recipe 'mine.toml'"``.
        trust_factory: Whether the user trusts it.

    Raises:
        ModelError: It is an untrusted factory.
    """
    if is_factory(name) and not trust_factory:
        raise ModelError(
            f"{whose[:1].upper()}{whose[1:]} needs to run {name} to build its network.",
            "If you trust it, pass --trust-factory (trust_factory=True), or name the network yourself.",
        )


def resolve(name: str) -> str:
    """Returns what a name means; imports the module of a user's own ``package.module:factory``.

    Args:
        name: ``"resnet18"``, ``"timm:resnet18"``, ``"package.module:factory"``.

    Returns:
        The qualified name. A bare one is a built-in network if there is one, else timm's, else torchvision's.

    Raises:
        UnknownModel: No library has it, or there is no such module or factory; the hint has close names.
        ModelError: The user's module cannot be imported, or the name in it is not callable.
    """
    library, colon, bare = name.partition(":")
    if not colon:
        library = next((lib for lib in LIBRARIES if _has(lib, name)), "")
        if library:
            return f"{library}:{name}"
    elif library in LIBRARIES:
        if _has(library, bare):
            return name
    elif all(part.isidentifier() for part in library.split(".")) and bare.isidentifier():
        _factory(library, bare)
        return name
    raise UnknownModel(
        f"There is no model {name!r}.",
        _nearest_models(name) or "Use 'perturbify:…', 'timm:…', 'torchvision:…', or your own 'package.module:factory'.",
    )


def also_known_as(qualified: str) -> tuple[str, ...]:
    """Names the models of other libraries that have the same bare name; none for a user's factory."""
    library, _, bare = qualified.partition(":")
    if library not in LIBRARIES:
        return ()
    return tuple(f"{other}:{bare}" for other in LIBRARIES if other != library and _has(other, bare))


def model_names(pattern: str = "*") -> list[str]:
    """Lists the qualified names of all models that match a glob, with or without the library's name."""
    import timm
    import torchvision

    listed = {
        "perturbify": NETWORKS,
        "timm": timm.list_models(),
        "torchvision": torchvision.models.list_models(),
    }
    return [
        f"{library}:{bare}"
        for library, bares in listed.items()
        for bare in bares
        if fnmatch.fnmatchcase(f"{library}:{bare}", pattern) or fnmatch.fnmatchcase(bare, pattern)
    ]


def constructor(qualified: str) -> Callable[..., Any]:
    """Returns the library's constructor for a resolved name."""
    library, _, bare = qualified.partition(":")
    if library == "perturbify":
        return NETWORKS[bare]
    if library == "timm":
        import timm

        return timm.models.model_entrypoint(bare)
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model_builder(bare)
    return _factory(library, bare)


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """Puts the current directory first on ``sys.path``, as ``python -m`` does, and removes it again."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _has(library: str, bare: str) -> bool:
    if library == "perturbify":
        return bare in NETWORKS
    if library == "timm":
        import timm

        if not timm.is_model(bare):  # which ignores the tag behind the dot
            return False
        try:
            timm.models.get_pretrained_cfg(bare)
        except RuntimeError:  # the tag is not one of this model's
            return False
        return True
    import torchvision

    return bare in torchvision.models.list_models()


def _nearest_models(name: str) -> str:
    """Suggests qualified names: from the requested library, else what the nearest bare names mean."""
    library, colon, _ = name.partition(":")
    if colon:
        return nearest(name, model_names(f"{library}:*" if library in LIBRARIES else "*"))
    known: Iterable[str] = (qualified.partition(":")[2] for qualified in model_names())
    if "." in name:  # with a tag, as "resnet18.a1_in1k"
        import timm

        known = itertools.chain(timm.list_pretrained(), known)
    return re.sub("'(.+?)'", lambda hit: repr(resolve(hit[1])), nearest(name, known))


def _factory(module_name: str, attribute: str) -> Callable[..., Any]:
    qualified = f"{module_name}:{attribute}"
    try:
        with working_directory_importable():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownModel(
                f"There is no module {error.name!r} for the model {qualified!r}.",
                _nearest_models(qualified) or "It must be installed, in the current directory, or on PYTHONPATH.",
            ) from error
        raise ModelError(
            f"The module {module_name!r} of the model {qualified!r} cannot be imported:"
            f" {type(error).__name__}: {error}.",
            f"`python -c 'import {module_name}'` shows where.",
        ) from error
    if not hasattr(module, attribute):
        raise UnknownModel(
            f"The module {module_name!r} has no {attribute!r}.",
            nearest(attribute, (n for n in vars(module) if callable(getattr(module, n)))) or None,
        )
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ModelError(
            f"{qualified!r} is a {type(factory).__name__}, not a function that builds a network.",
            "Name a function or a class that returns an nn.Module when called.",
        )
    return factory
