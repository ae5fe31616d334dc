"""Fitting weights into a model: all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from perturbify.errors import WeightsError

_WHOLE = {torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64}
_WHOLE.add(torch.int64)
_IS = ("is", "are")
_RESET_HEAD = "`--reset-head` loads the rest and leaves the head fresh."
_SAME_NEEDED = "Use weights of the same architecture with the same arguments."


def fit_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    head: Callable[[], AbstractSet[str]],
    reset_head: bool = False,
    other_heads: bool = False,
) -> None:
    """Loads a state dict strictly, or leaves the model as it was.

    Args:
        model: The network to load into.
        state: The weights; ``*.num_batches_tracked`` may be missing.
        source: Name of the weights in errors.
        head: Finds the state-dict names of the classifier's head; called only when needed.
        reset_head: Load everything but the head.
        other_heads: Whether the model could be built with the weights' number of classes.

    Raises:
        WeightsError: Names are missing or unexpected, shapes or kinds of numbers differ, some are not finite, or there
            is no head to reset.
    """
    wanted = model.state_dict()
    skipped = head() if reset_head else frozenset()
    if reset_head and not skipped:
        raise WeightsError(
            f"This model's head cannot be identified, so {source} cannot be loaded without it.",
            "A factory with an argument num_classes shows its head.",
        )
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in skipped | optional]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        parts = [f"it lacks {_first(missing)}"] * bool(missing)
        parts += [f"{_first(unexpected)} {_IS[len(unexpected) > 1]} unknown to the model"] * bool(unexpected)
        raise WeightsError(
            f"{source} does not fit this model: {', and '.join(parts)}.",
            _RESET_HEAD if not unexpected and head() >= set(missing) else _SAME_NEEDED,
        )
    differing = [name for name in wanted if name in state and name not in skipped and _differs(state, wanted, name)]
    if differing:
        _refuse_shapes(source, state, wanted, differing, head(), other_heads)
    for name in wanted:
        if name in state and name not in skipped:
            _check_values(source, name, state[name], wanted[name])
    # Into the model's own dict, which carries the modules' versions: without them, MNASNet takes a file for an old one.
    wanted.update({k: v for k, v in state.items() if k not in skipped})
    model.load_state_dict(wanted)


def _refuse_shapes(
    source: str,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    differing: list[str],
    head: AbstractSet[str],
    other_heads: bool,
) -> None:
    if set(differing) <= head:
        here, there = (tensors[differing[0]].shape[0] for tensors in (state, wanted))
        raise WeightsError(
            f"{source} does not fit this model: its head has {here} classes, but the model has {there}.",
            f"`--num-classes {here}` builds the model for them" * other_heads + "; " * other_heads + _RESET_HEAD,
        )
    shapes = [f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}" for n in differing[:3]]
    raise WeightsError(
        f"{source} does not fit this model: {len(differing)} shapes differ ({'; '.join(shapes)}"
        f"{'; …' if len(differing) > 3 else ''}).",
        _SAME_NEEDED,
    )


def _check_values(source: str, name: str, value: Tensor, held: Tensor) -> None:
    """Makes sure that a tensor keeps its meaning in another dtype: a rounded number does, an int8 code does not."""
    kinds = _kind(value.dtype), _kind(held.dtype)
    if None in kinds or (kinds[0] != kinds[1] and kinds != ("real", "whole")):
        raise WeightsError(
            f"{source} does not fit this model: {name} is {_dtype(value)}, not {_dtype(held)}.",
            "Convert quantised, packed, or otherwise encoded weights to ordinary ones first.",
        )
    value = value.detach()
    taken = value.to(held.dtype)
    if kinds[1] == "whole":
        if not torch.equal(taken.to(value.dtype), value):
            raise WeightsError(
                f"{source} does not fit this model: {name} holds numbers that do not fit {_dtype(held)}."
            )
        return
    # A mask may hold infinity on purpose; then the model's own does, too.
    if wrong := int((~taken.isfinite() & (taken != held)).sum()):
        raise WeightsError(
            f"{source} holds weights that are not finite: {name} has NaN or infinity in {wrong} of {taken.numel()}.",
            "The training diverged, or the file is damaged; use an earlier one.",
        )


def _kind(dtype: torch.dtype) -> str | None:
    if dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return "real"
    if dtype.is_complex:
        return "complex"
    return "whole" if dtype in _WHOLE else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _differs(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> bool:
    return state[name].shape != wanted[name].shape


def _first(names: list[str]) -> str:
    """Counts names and shows the first three: ``"5 names (a, b, c, …)"``."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} name{'s' * (len(names) > 1)} ({shown})"
