"""Finds a model's state dict in whatever a training run has saved in a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturbify.errors import WeightsError
from perturbify.normalize import Normalize

States = dict[str, dict[str, Tensor]]
"""State dicts by their place in a file: ``""`` at the top, ``"model"``, ``"state.params"``."""

# Averages come before raw weights, as in timm; then in the order of these lists.
_AVERAGES = ["state_dict_ema", "model_ema", "ema_state_dict", "ema_model_state_dict", "params_ema", "ema_params"]
_AVERAGES += ["ema", "ema_model", "swa_model", "average_model", "averaged_model", "average"]
_RAW = ["state_dict", "model", "model_state_dict", "model_state", "net", "network", "params", "weights", "module"]
_RAW += ["backbone", "encoder", "generator", "classifier"]

_WRAPPERS = (
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)  # torch's own; nobody names a layer so
_COUNTERS = {"n_averaged"}  # of torch's AveragedModel
_CONSTANTS = (("mean", "std"), ("mu", "sigma"))
_DEEPEST = 4  # mappings in mappings
_MOST_PREFIXES = 50


@dataclass(frozen=True)
class Chosen:
    """The state dict of a model.

    Attributes:
        state: Tensors by the model's own names, where it has them.
        notes: What was done to get it, in words; empty if the file holds nothing else.
        normalization: Constants of a normalisation layer that the file holds besides the model, if any.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    normalization: Normalize | None


@dataclass(frozen=True)
class _Candidate:
    key: str  # the state dict's place
    prefix: str  # of its names, which the model's lack
    wrappers: tuple[str, ...]  # already removed, wherever in the names they were
    state: dict[str, Tensor]
    outside: dict[str, Tensor]  # tensors without that prefix
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.key, self.prefix.rstrip("."))))

    @property
    def rank(self) -> tuple[int, int]:
        """The lower, the more likely it is the right one."""
        parts = self.name.split(".") if self.name else []
        averages = [_AVERAGES.index(part) for part in parts if part in _AVERAGES]
        if averages:
            return 0, min(averages)
        if all(part in _RAW for part in parts):
            return 1, max((_RAW.index(part) for part in parts if part != "module"), default=-1)
        return 2, 0


def find(source: str, held: Any) -> States:
    """Finds every mapping from names to tensors in a file's content.

    Raises:
        WeightsError: There is none, or a tensor is not an ordinary one.
    """
    states: States = {}
    nameless: list[Any] = []
    for key, mapping in _mappings(held):
        tensors = {name: value for name, value in mapping.items() if isinstance(value, Tensor)}
        strange = [name for name in tensors if not isinstance(name, str)]
        nameless += strange
        if not tensors or strange:
            continue
        for name, tensor in tensors.items():
            if kind := _unusual(tensor):
                raise WeightsError(
                    f"{source!r} holds {name} as a {kind} tensor; weights must be ordinary tensors.",
                    "Convert it (.to_dense(), .dequantize()) and save the state_dict() again.",
                )
        states[key] = tensors
    if states:
        return states
    if nameless:
        raise WeightsError(f"{source!r} holds no state dict: a tensor's name, {nameless[0]!r:.80}, is not a string.")
    raise WeightsError(
        f"{source!r} holds no state dict.",
        "It must hold tensors by name, at the top or under a key such as 'state_dict'.",
    )


def choose(
    states: States,
    wanted: Mapping[str, Tensor],
    *,
    source: str,
    key: str | None = None,
    skipped: AbstractSet[str] = frozenset(),
) -> Chosen:
    """Chooses the state dict whose names are a model's, possibly after removing one common prefix.

    Of several, an average comes before raw weights, as in timm. If none fits, it is the closest one.

    Args:
        states: The result of :func:`find`.
        wanted: The model's state dict.
        source: Name of the file in errors.
        key: Where in the file to look instead: a key, or the prefix of names; dots lead deeper.
        skipped: Names that are not needed.

    Raises:
        WeightsError: Several fit, and nothing says which to use; or there is nothing under the key.
    """
    candidates = [c for place, state in states.items() for c in _candidates(place, state, wanted, skipped)]
    if key is not None:
        asked = key.rstrip(".")
        under = [c for c in candidates if asked in (c.name, c.key) or f"{c.key}.".startswith(f"{asked}.")]
        if not under:
            there = ", ".join(dict.fromkeys(repr(c.key or c.name) for c in candidates if c.name))[:300]
            raise WeightsError(f"{source} holds no weights under {key!r}.", f"It holds {there}." if there else None)
        candidates = under
    named = [c for c in candidates if not c.missing and not c.unexpected]
    fitting = [c for c in named if _same_shapes(c.state, wanted, skipped)] or named
    fitting = sorted(fitting, key=lambda c: c.rank)
    if not fitting:
        best = max(candidates, key=lambda c: (sum(name in wanted for name in c.state), -c.rank[0], -c.rank[1]))
        return _chosen(best, [])
    if len(fitting) > 1 and fitting[0].rank == fitting[1].rank:
        names = " and ".join(repr(c.name) for c in fitting if c.rank == fitting[0].rank)
        raise WeightsError(
            f"{source} holds several networks that fit this model: {names}.", "Choose one: `--weights-key KEY`."
        )
    return _chosen(fitting[0], fitting)


def _chosen(candidate: _Candidate, fitting: list[_Candidate]) -> Chosen:
    notes = []
    if len(fitting) > 1:
        by_key = len({c.key for c in fitting}) == len(fitting)
        names = [(c.key if by_key else c.name) or "the top" for c in fitting]
        notes.append(f"took {names[0]!r} of {', '.join(map(repr, names))}")
    elif candidate.key not in ("", "state_dict"):
        notes.append(f"took {candidate.key!r}")
    if stripped := [*candidate.wrappers, *filter(None, (candidate.prefix,))]:
        notes.append(f"stripped {' and '.join(map(repr, stripped))}")
    if candidate.outside:
        notes.append(f"ignored {counted_names(candidate.outside)}")
    return Chosen(candidate.state, tuple(notes), _constants(candidate.outside))


def counted_names(names: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """Up to three names, and the total if there are more: ``"a, b, c, … (34 names)"``."""
    shown = ", ".join(list(names)[:3])
    return shown if len(names) <= 3 else f"{shown}, … ({len(names)} names)"


def _mappings(held: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """All nested mappings by their dotted keys, the outer ones first; each once, even with cycles."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", held)]
    for _ in range(_DEEPEST):
        deeper: list[tuple[str, Any]] = []
        for key, mapping in level:
            if not isinstance(mapping, Mapping) or id(mapping) in seen:
                continue
            seen.add(id(mapping))
            yield key, mapping
            deeper += [(f"{key}.{k}" if key else f"{k}", v) for k, v in mapping.items()]
        level = deeper


def _candidates(
    key: str, state: dict[str, Tensor], wanted: Mapping[str, Tensor], skipped: AbstractSet[str]
) -> Iterator[_Candidate]:
    """A state dict unchanged, and without each prefix whose removal could yield the model's names."""
    wrappers = [w for w in _WRAPPERS if any(w in name for name in state) and not any(w in name for name in wanted)]
    inner = {_without(name, wrappers): tensor for name, tensor in state.items()}
    if len(inner) < len(state):  # two names would become one
        inner, wrappers = state, []
    optional = skipped | {name for name in wanted if name.endswith("num_batches_tracked")}
    needed = [name for name in wanted if name not in optional] or list(wanted)
    ends = {n[: -len(a)] for a in (*needed[:1], *needed[-1:]) for n in inner if n.endswith(f".{a}")}
    for prefix in ["", *sorted(ends, key=lambda end: (len(end), end))[:_MOST_PREFIXES]]:
        own = {name[len(prefix) :]: tensor for name, tensor in inner.items() if name.startswith(prefix)}
        outside = {name: tensor for name, tensor in inner.items() if not name.startswith(prefix)}
        if not prefix:
            outside = {name: own.pop(name) for name in _COUNTERS if name in own and name not in wanted}
        missing = tuple(name for name in wanted if name not in own and name not in optional)
        unexpected = tuple(name for name in own if name not in wanted)
        yield _Candidate(key, prefix, tuple(wrappers), own, outside, missing, unexpected)


def _without(name: str, parts: list[str]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


def _same_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], skipped: AbstractSet[str]) -> bool:
    return all(state[n].shape == t.shape for n, t in wanted.items() if n in state and n not in skipped)


def _constants(outside: Mapping[str, Tensor]) -> Normalize | None:
    """The constants of a normalisation layer besides the model: a mean and a std (mu, sigma) in one place."""
    for name, mean in outside.items():
        place, _, last = name.rpartition(".")
        for first, second in _CONSTANTS:
            std = outside.get(f"{place}.{second}" if place else second)
            if last == first and std is not None and (layer := constants(mean, std)) is not None:
                return layer
    return None


def constants(mean: Any, std: Any) -> Normalize | None:
    """A normalisation for pixels in [0, 1] from a possible mean and std; None if they cannot be."""
    try:
        both = [[float(v) for v in (x.flatten().tolist() if isinstance(x, Tensor) else x)] for x in (mean, std)]
        if not both[0] or not all(map(math.isfinite, both[0] + both[1])) or not all(0 <= m <= 1 for m in both[0]):
            return None
        return Normalize(*both)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _unusual(tensor: Tensor) -> str | None:
    """The unusual kind of a tensor, if it is not an ordinary one."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    return None if tensor.layout is torch.strided else "sparse"
