"""A network watched and traced, in both modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from perturbify.errors import ModelError
from perturbify.surgery.additions import find_additions
from perturbify.surgery.copying import copy_network
from perturbify.surgery.example import Example
from perturbify.surgery.reproducible import reproducible
from perturbify.surgery.sites import Call, Observation, observe
from perturbify.surgery.snapshot import Snapshot
from perturbify.surgery.trace import Traced, trace, untraced


@dataclass(frozen=True)
class Survey:
    """What running and tracing a network showed.

    Attributes:
        traced: The network as a graph in mode ``"eval"`` and in mode ``"train"``, one object where one graph serves
            both; ``"train"`` is missing where the network does not take the example input in it.
        shareable: Whether copies that share the network's parameters may run: no forward writes into them.
    """

    traced: Mapping[str, Traced]
    shareable: bool


def survey(model: nn.Module, example: Example, why_whole: str | None, *, additions: bool = False) -> Survey:
    """Runs and traces copies of a network, on the meta device where it can run there.

    A network that takes the example input in eval mode alone (a detector needs its targets to train) runs by its own
    forward, with hooks, in both modes; its train mode has not been seen.

    Args:
        model: The network.
        example: The inputs to run it with.
        why_whole: Why torch.fx shall not follow it; None: it shall.
        additions: Whether to look for additions as well.

    Raises:
        ModelError: It fails on the inputs in eval mode.
        TraceError: It convolves where nothing can see it.
    """
    seen, evaluating = _look(model, example, "eval", why_whole, additions)
    if _serves_train_mode(model, evaluating):
        return Survey({"eval": evaluating, "train": evaluating}, not seen.writes_parameters)
    try:
        seen_training, training = _look(model, example, "train", why_whole, additions)
    except ModelError as error:
        return Survey({"eval": untraced(seen.calls, error.message.rstrip("."))}, not seen.writes_parameters)
    writes = seen.writes_parameters or seen_training.writes_parameters
    return Survey({"eval": evaluating, "train": training}, not writes)


def _look(
    model: nn.Module, example: Example, mode: str, why_whole: str | None, additions: bool
) -> tuple[Observation, Traced]:
    on_meta = example.device.type == "meta"

    def twin(tensors: Literal["copy", "meta"] = "meta") -> nn.Module:
        return copy_network(model, tensors).train(mode == "train")

    def watch(network: nn.Module, extra: int = 0) -> Observation:
        try:
            return observe(network, *example.call(extra=extra, meta=True))
        except ModelError:  # it looks at values, or uses a kernel that computes no shapes
            if on_meta:
                raise
            return observe(twin("copy"), *example.call(extra=extra))

    with reproducible(model):
        to_trace = twin()
        before = Snapshot(to_trace.modules())
        seen = watch(to_trace)
        if example.images and any(c.leading == 1 != example.images for c in seen.calls):
            seen = replace(seen, calls=_per_image(seen.calls, watch(twin(), extra=1).calls, example.images))
        if why_whole is not None:
            return seen, untraced(seen.calls, why_whole)
        if before.changed():  # it keeps results, which tracing must see it compute
            to_trace = twin()
        traced = trace(to_trace, seen.calls, live=example.names, refuse_meta=not on_meta)
        if additions and traced.graph is not None:
            traced = replace(traced, additions=find_additions(traced.graph, to_trace, example))
        return seen, traced


def _per_image(calls: tuple[Call, ...], with_one_more: tuple[Call, ...], images: int) -> tuple[Call, ...]:
    """Finds, by the calls for one image more, those that have the batch in their channels."""

    def convert(one: Call, other: Call) -> Call:
        channels = one.shape[0] // images
        shapes = (channels * images, *one.shape[1:]), (channels * (images + 1), *one.shape[1:])
        folded = one.leading == other.leading == 1 and (one.shape, other.shape) == shapes
        if not folded:
            return one
        taken = (one.input_shape[0] // images, *one.input_shape[1:])
        return replace(one, shape=(channels, *one.shape[1:]), input_shape=taken, batch_in_channels=True)

    return tuple(map(convert, calls, with_one_more))


def _serves_train_mode(model: nn.Module, evaluating: Traced) -> bool:
    """Whether a network's graph in eval mode is, for certain, its graph in train mode too."""
    if evaluating.opaque or evaluating.reads_mode:
        return False
    return all(type(m).train is nn.Module.train and "train" not in vars(m) for m in model.modules())
