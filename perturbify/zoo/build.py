"""Builds a network from a spec, with fresh, pretrained, or given weights."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbify.errors import ModelError, PerturbifyError, WeightsError, nearest
from perturbify.numbers import MOST_CLASSES
from perturbify.zoo.fitting import fit_weights
from perturbify.zoo.names import LIBRARIES, constructor, is_factory, resolve, working_directory_importable
from perturbify.zoo.spec import ModelSpec, tag
from perturbify.zoo.state_dicts import choose
from perturbify.zoo.weights import read_weights

PATIENCE_SECONDS = 10.0  # how long a server may be silent during a download
ANSWER_SECONDS = 3.0  # how long it may take to answer before we count as offline

# Arguments with which a library would fetch or unpickle weights unasked.
_RESERVED = {"checkpoint_path", "pretrained", "pretrained_backbone", "weights", "weights_backbone"}

# Arguments that say from where timm fetches: a recipe must not set them.
_SOURCES = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}

# An argument with a number above the first has the network's size measured before it is built; above the second, it is
# refused.
_LARGE, _TOO_LARGE = 1_000, 30_000

# What torchvision changes in a network with pretrained weights, besides the weights.
_WITH_WEIGHTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False},
    "inception_v3": {"transform_input": True},
    "fcn_resnet50": {"aux_loss": True},
    "fcn_resnet101": {"aux_loss": True},
    "deeplabv3_resnet50": {"aux_loss": True},
    "deeplabv3_resnet101": {"aux_loss": True},
    "deeplabv3_mobilenet_v3_large": {"aux_loss": True},
}

# A class count that no model has: whatever changes its shape with it is the head.
_NOBODYS_CLASSES = 7919


def create(
    name: str,
    /,
    *,
    num_classes: int | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    reset_head: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Builds a network by name, in train mode, tagged with its :class:`ModelSpec` (``perturbify_spec``).

    A user's ``package.module:factory`` is imported and called: a name from a file must pass :func:`check_trusted`
    first.

    Args:
        name: A name as :func:`resolve` takes it.
        num_classes: Outputs; by default the constructor's own.
        pretrained: Fetch the library's own weights (torchvision's ``"DEFAULT"``). With another number of classes the
            head is fresh.
        weights: A weights file, as :func:`perturbify.zoo.weights.read_weights` takes it.
        weights_key: The weights' place in that file, such as ``"state_dict"``, or the prefix of their names; by default
            where they fit, an average before raw weights. The spec says what was used.
        reset_head: With ``weights``: load everything but the head, which stays fresh.
        **kwargs: Further arguments of the constructor, JSON values only.

    Raises:
        UnknownModel: No library has it.
        WeightsError: The weights cannot be fetched or read, or do not fit.
        ModelError: The constructor rejects its arguments, fails, or does not return a network.
    """
    if pretrained and weights is not None:
        raise WeightsError(
            "`--pretrained` and `--weights` both say where the weights come from.", "Use one of the two."
        )
    for option, given in (("--reset-head", reset_head), ("--weights-key", weights_key)):
        if given and weights is None:
            raise WeightsError(f"`{option}` says how to load a file, but no file is given.", "Add `--weights FILE`.")
    arguments = kwargs if num_classes is None else {**kwargs, "num_classes": num_classes}
    spec = ModelSpec(resolve(name), arguments, "fresh")
    _check_fits(spec)
    if pretrained:
        return _pretrained(spec)
    model = build(spec)
    if weights is None:
        return model
    file, source, head = read_weights(weights), f"{Path(weights).name!r}", _head(spec, model) if reset_head else None
    chosen = choose(file.states, model.state_dict(), source=source, key=weights_key, skipped=head or frozenset())
    fit_weights(
        model,
        chosen.state,
        source=source,
        head=lambda: _head(spec, model) if head is None else head,
        reset_head=reset_head,
        other_heads=num_classes is None,
    )
    label = "; ".join((file.label, *chosen.notes))
    return tag(
        model, replace(spec, weights=label + ", head fresh" * reset_head), file.normalization or chosen.normalization
    )


def build(spec: ModelSpec) -> nn.Module:
    """Builds a spec's architecture with fresh weights, tagged with the unchanged spec; downloads nothing.

    A user's ``package.module:factory`` is imported and called: build only specs whose factory you would run.

    Raises:
        UnknownModel: No library has it.
        ModelError: The constructor rejects its arguments, fails, or does not return a network.
    """
    return tag(_construct(replace(spec, name=resolve(spec.name))), spec)


def _check_fits(spec: ModelSpec) -> None:
    """Makes sure that a library's network fits into memory, if an argument is unusually large.

    Raises:
        ModelError: It does not, or an argument is absurdly large.
    """
    sizes = {key: max(_integers(value), default=0) for key, value in spec.kwargs.items()}
    if is_factory(spec.name) or max(sizes.values(), default=0) <= _LARGE:
        return
    for key, size in sizes.items():
        most = MOST_CLASSES if key == "num_classes" else _TOO_LARGE
        if size > most:
            raise ModelError(f"{spec.name} with {key}={spec.kwargs[key]!r:.80} is too large: the maximum is {most:,}.")
    needed = 2 * sum(t.numel() * t.element_size() for t in skeleton(spec).state_dict().values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ModelError(
            f"{spec.name} with these arguments needs {needed / 1e9:,.0f} GB with its noisy copy, but only "
            f"{there / 1e9:,.0f} GB are available."
        )


def _integers(value: Any) -> Iterator[int]:
    """The magnitudes of all integers in a JSON value."""
    if isinstance(value, int):
        yield abs(value)
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)


def skeleton(spec: ModelSpec) -> nn.Module:
    """Builds a spec's architecture without memory, on the meta device, if its constructor allows that."""
    try:
        with torch.device("meta"):
            return _construct(spec)
    except ModelError as error:
        if isinstance(error.__cause__, TypeError):  # wrong arguments fail on every device
            raise
        return _construct(spec)  # some constructors look at values, such as torchvision's regnets


def _construct(spec: ModelSpec, **extra: Any) -> nn.Module:
    """Calls the constructor with the spec's arguments and these, which are not recorded."""
    library, _, bare = spec.name.partition(":")
    kwargs = {**spec.kwargs, **extra}
    if library in LIBRARIES and (taken := _RESERVED & spec.kwargs.keys()):
        raise ModelError(
            f"{spec.name} does not accept {min(taken)!r} here.",
            "Use `--pretrained` or `--weights FILE` to say which weights.",
        )
    function = constructor(spec.name)
    call: Callable[..., Any] = function
    if library == "timm":
        import timm

        call = lambda **kw: timm.create_model(bare, **kw)  # noqa: E731 -- timm resolves the tag, the function does not
    elif library == "torchvision" and "weights" not in extra:
        kwargs = _quiet(bare, function) | kwargs
    # What a library imports when called must not come from the user's current folder.
    importable = working_directory_importable() if is_factory(spec.name) else contextlib.nullcontext()
    with _explaining(spec, function), importable:
        model = call(**kwargs)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec.name} returned a {type(model).__name__}, not a network.",
            "The factory must return an nn.Module.",
        )
    return model


def _quiet(bare: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What torchvision's constructor needs to build without fetching a backbone or warning."""
    quiet: dict[str, Any] = {}
    if "weights_backbone" in inspect.signature(function).parameters:
        quiet["weights_backbone"] = None
    if bare.removeprefix("quantized_") in ("googlenet", "inception_v3"):
        quiet["init_weights"] = True
    return quiet


@contextlib.contextmanager
def _explaining(spec: ModelSpec, function: Callable[..., Any]) -> Iterator[None]:
    """Turns whatever a constructor raises into a ModelError that says what to do."""
    try:
        yield
    except PerturbifyError:
        raise
    except (Exception, SystemExit) as error:
        found = re.match(r"(.+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if not isinstance(error, TypeError) or not found or found[2] not in spec.kwargs:
            raise ModelError(f"{spec.name} could not be built: {type(error).__name__}: {error}") from error
        callee, argument = found.groups()
        accepted = _accepted(function, callee)
        hint = nearest(argument, accepted) or (f"It takes {', '.join(accepted)}." if accepted else None)
        if argument == "num_classes":
            hint = "Let the factory take num_classes, or leave it out and set it in the factory."
        raise ModelError(f"{spec.name} has no argument {argument!r}.", hint) from error


def _accepted(function: Callable[..., Any], callee: str) -> list[str]:
    """Names the arguments of a constructor, or of the class to which it passes its ``**kwargs``, if known."""

    def named(f: Callable[..., Any]) -> list[str]:
        parameters = inspect.signature(f).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return []
        return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    inner = getattr(inspect.unwrap(function), "__globals__", {}).get(callee.split(".")[0])
    return named(function) or (named(inner) if callable(inner) else [])


def _head(spec: ModelSpec, model: nn.Module) -> frozenset[str]:
    """Finds the head as the state-dict names whose shapes follow the number of classes."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        other = skeleton(replace(spec, kwargs={**spec.kwargs, "num_classes": _NOBODYS_CLASSES})).state_dict()
    except ModelError:  # the constructor has no num_classes
        return frozenset()
    return frozenset(name for name, tensor in other.items() if tensor.shape != shapes.get(name, tensor.shape))


def _pretrained(spec: ModelSpec) -> nn.Module:
    library, _, bare = spec.name.partition(":")
    if library == "timm":
        return _pretrained_timm(spec, bare)
    if library == "torchvision":
        return _pretrained_torchvision(spec, bare)
    raise WeightsError(f"No library offers weights for {spec.name}.", "Name a file with `--weights FILE`.")


def _pretrained_timm(spec: ModelSpec, bare: str) -> nn.Module:
    import timm

    if taken := _SOURCES & spec.kwargs.keys():
        raise ModelError(
            f"{spec.name} does not accept {min(taken)!r} with pretrained weights: they come from timm's own source."
        )
    offered = timm.models.get_pretrained_cfg(bare)
    if not (offered and offered.has_weights):
        raise WeightsError(f"timm offers no weights for {bare}.", "Name a file with `--weights FILE`.")
    with _fetching(spec.name), _cached_only_when_offline():
        model = _construct(spec, pretrained=True)
    same_head = spec.kwargs.get("num_classes", offered.num_classes) == offered.num_classes
    return tag(model, replace(spec, weights="pretrained" if same_head else "pretrained, head fresh"))


def _pretrained_torchvision(spec: ModelSpec, bare: str) -> nn.Module:
    implied = _WITH_WEIGHTS.get(bare.removeprefix("quantized_"), {})
    as_published = {k: v for k, v in spec.kwargs.items() if k != "num_classes" and (k, v) not in implied.items()}
    with _fetching(spec.name):
        _check_reachable(bare)
        model = _construct(replace(spec, kwargs=as_published), weights="DEFAULT")
    spec = replace(spec, kwargs=implied | spec.kwargs, weights="pretrained")
    if "num_classes" not in spec.kwargs:
        return tag(model, spec)
    fresh = build(spec)
    state = model.state_dict()
    same_head = all(state[name].shape == tensor.shape for name, tensor in fresh.state_dict().items() if name in state)
    fit_weights(
        fresh,
        state,
        source=f"torchvision's {bare}",
        head=lambda: _head(spec, fresh),
        reset_head=not same_head,
    )
    return fresh if same_head else tag(fresh, replace(spec, weights="pretrained, head fresh"))


def _check_reachable(bare: str) -> None:
    """Makes sure that torchvision's weights are in torch's cache, or that their server answers.

    Raises:
        OSError: Neither is true.
    """
    from torchvision import models

    url = models.get_model_weights(bare).DEFAULT.url
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not cached.is_file() and not _answers(url):
        raise OSError(f"{urllib.parse.urlsplit(url).hostname} does not answer")


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Lets a library fetch weights; offline, gives up soon with one sentence."""
    silence = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_SECONDS)
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ModelError) else error
        if not _fetching_failed(cause):
            raise
        why = re.split(r"\.\s|\n", str(getattr(cause, "reason", cause)))[0] or type(cause).__name__
        raise WeightsError(
            f"The pretrained weights of {name} could not be fetched: {why.rstrip('.')}.",
            "Download them elsewhere, and name the file with `--weights FILE`.",
        ) from error
    finally:
        socket.setdefaulttimeout(silence)


def _fetching_failed(error: BaseException | None) -> bool:
    """Whether it is an error of the network, a hub, or a disk; told by its module, which need not be imported."""
    clients = {"huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3"}
    return isinstance(error, OSError) or any(c.__module__.partition(".")[0] in clients for c in type(error).__mro__)


@contextlib.contextmanager
def _cached_only_when_offline() -> Iterator[None]:
    """Offline, the hub's client would retry for most of a minute; this limits it to its cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Whether a server answers in time; in a thread, since nothing else ends a hanging name lookup."""
    found: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:  # any answer is enough
            pass
        except OSError:
            return
        found.append(True)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return bool(found)
