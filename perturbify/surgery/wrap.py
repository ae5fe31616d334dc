"""The operation itself: plan, wrap, unwrap."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perturbify.errors import AlreadyWrapped, ModelError, NoConvolutions, SurgeryError
from perturbify.normalize import Normalize
from perturbify.perturbation import Perturbation, perturbations
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.parity import Inputs, probe, reproducible
from perturbify.surgery.perturbed import Perturbed, Surgery
from perturbify.surgery.plan import NumberedCall, Plan, make_plan, number_calls, site_key
from perturbify.surgery.program import Program
from perturbify.surgery.sites import observe
from perturbify.surgery.trace import Traced, trace

MODES = ("eval", "train")


def plan(model: nn.Module, config: PerturbConfig | None = PerturbConfig(), *, example_input: Any = None) -> Plan:
    """Says what :func:`wrap` would do to a network, and changes nothing.

    Args:
        model: The network.
        config: The settings.
        example_input: As for :func:`wrap`.

    Returns:
        The sites, and the convolution calls that are skipped, with the reason.

    Raises:
        SurgeryError: The network is wrapped already, or cannot be traced.
        ModelError: The network fails on the example input, or none is known.
    """
    return _survey(model, config, _Example.of(model, example_input))[0]


def wrap(
    model: nn.Module,
    config: PerturbConfig | None = PerturbConfig(),
    *,
    example_input: Any = None,
    normalize: Normalize | None = None,
    inplace: bool = False,
) -> Perturbed:
    """Puts a learnable noise module behind every convolution call of a network (Learn2Perturb, eq. 4-6).

    The network is run and traced on copies; before anything is handed out, the result with the noise off must equal
    the source bit for bit, in train and in eval mode.

    Args:
        model: The network. It is left as it was, unless ``inplace``.
        config: The settings; None adds no noise, for a baseline that is otherwise the same.
        example_input: A tensor with a batch dimension, a tuple of positional or a dict of keyword inputs. Needed where
            the network does not say its input size (timm models do). Optional arguments of ``forward`` that are not in
            it are fixed to their defaults.
        normalize: A normalisation layer to run first, so that the network takes pixels in [0, 1].
        inplace: Build the result from the network's own modules rather than copies; ``model`` itself must not be used
            afterwards.

    Returns:
        The perturbed network, in the mode of ``model``, with the noise on.

    Raises:
        NoConvolutions: There is nothing to put noise behind.
        AlreadyWrapped: The network has noise modules already.
        TraceError: torch.fx cannot follow the network.
        ParityError: The traced network is not the source network.
        ModelError: The network fails on the example input, or no input size is known.
    """
    example = _Example.of(model, example_input)
    the_plan, traced = _survey(model, config, example)
    if config is not None and not the_plan.sites:
        why = (
            f"All {len(the_plan.skipped)} of its convolution calls are skipped; see perturbify.plan(model)."
            if the_plan.skipped
            else "Noise goes behind convolutions; this network makes no convolution call."
        )
        raise NoConvolutions(f"{type(model).__name__} has nothing to put noise behind.", why)
    for taken in ("surgery", *(["normalize"] if normalize is not None else [])):
        if hasattr(model, taken):
            raise SurgeryError(
                f"{type(model).__name__} has an attribute {taken!r} of its own, a name that the wrapped network needs.",
                "Rename it, or leave the normalisation outside." if taken == "normalize" else "Rename it.",
            )

    constants = _name_constants(traced)
    programs = {mode: _insert(traced[mode], the_plan) for mode in MODES}
    if programs["train"] == programs["eval"]:
        programs["train"] = programs["eval"]
    surgery = Surgery(type(model), the_plan, tuple(example.arguments), example.positional, programs, tuple(constants))
    wrapped = _operate(_copy(model), surgery, constants, example.device)
    probe(model, wrapped, *example.batches())
    if inplace:
        wrapped = _operate(model, surgery, constants, example.device)
    if normalize is not None:
        wrapped.normalize = copy.deepcopy(normalize).to(example.device)
        wrapped.surgery = replace(wrapped.surgery, normalizes=True)
    return wrapped


def unwrap(model: nn.Module) -> nn.Module:
    """Gives the network back without noise, with the weights it has now.

    Args:
        model: What :func:`wrap` returned; it is left as it is.

    Returns:
        A network of the source's own class and state-dict keys. A normalisation layer that was put in is out again, so
        it takes what the source network took.

    Raises:
        SurgeryError: The network is not a wrapped one.
    """
    if not isinstance(model, Perturbed):
        raise SurgeryError(f"{type(model).__name__} is not a wrapped network.", "Only what wrap() returned unwraps.")
    contents = copy.deepcopy(model)
    surgery: Surgery = contents.surgery
    del contents.surgery
    if surgery.normalizes:
        del contents.normalize
    for name in surgery.constants:
        delattr(contents, name)
    for site in surgery.plan.sites:
        owner, _, child = site.path.rpartition(".")
        delattr(contents.get_submodule(owner), child)
    network = surgery.source_class.__new__(surgery.source_class)
    network.__dict__ = contents.__dict__
    return network


class _Example:
    """The inputs a network is run with: by name, as forward takes them."""

    def __init__(self, arguments: Mapping[str, Any], device: torch.device, parameters: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        self.device = device
        self._parameters = parameters

    @classmethod
    def of(cls, model: nn.Module, given: Any) -> _Example:
        if not isinstance(model, nn.Module):
            raise ModelError(f"A network must be a torch.nn.Module, not {type(model).__name__}.")
        if next(perturbations(model), None) is not None or isinstance(model, Perturbed):
            raise AlreadyWrapped(
                f"This {type(model).__name__} is wrapped already.", "Call perturbify.unwrap(model) first."
            )
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = first.device if first is not None else torch.device("cpu")
        if given is None:
            given = _from_pretrained_cfg(model, first)
        args, kwargs = (
            ((), given) if isinstance(given, Mapping) else (given if isinstance(given, tuple) else (given,), {})
        )
        signature = inspect.signature(type(model).forward)
        try:
            bound = signature.bind(model, *args, **kwargs).arguments
        except TypeError as error:
            raise ModelError(
                f"The example input does not fit {type(model).__name__}.forward{signature}: {error}."
            ) from None
        _, *names = bound
        for name in names:
            if signature.parameters[name].kind in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                raise ModelError(
                    f"{type(model).__name__}.forward takes its inputs as {name!r}, which torch.fx cannot follow.",
                    "Give forward named arguments.",
                )
        return cls({n: bound[n] for n in names}, device, signature.parameters)

    @property
    def positional(self) -> int:
        """How many inputs can be given by position: those before the first argument that is fixed or keyword-only."""
        _, *parameters = self._parameters.values()
        by_position = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        agree = [a == b for a, b in zip(self.arguments, by_position, strict=False)]
        return [*agree, False].index(False)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(v.shape[1:]) for v in self.arguments.values() if isinstance(v, Tensor))

    def call(self, extra: int = 0) -> Inputs:
        """Positional and keyword inputs, with the first image repeated ``extra`` more times at the end."""
        values = {
            n: torch.cat([v, *[v[:1]] * extra]) if isinstance(v, Tensor) and extra else v
            for n, v in self.arguments.items()
        }
        names = list(values)
        positional, by_name = names[: self.positional], names[self.positional :]
        return tuple(values[n] for n in positional), {n: values[n] for n in by_name}

    def batches(self) -> tuple[Inputs, Inputs]:
        """The example input, and where it has a batch dimension the same with one image more."""
        tensors = [v for v in self.arguments.values() if isinstance(v, Tensor)]
        one_batch = tensors and all(t.dim() > 1 and t.shape[0] == tensors[0].shape[0] for t in tensors)
        as_given = self.call()
        return as_given, self.call(extra=1) if one_batch else as_given


def _from_pretrained_cfg(model: nn.Module, first: nn.Parameter | None) -> Tensor:
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size is None:
        raise ModelError(
            f"{type(model).__name__} does not say its input size.",
            "Pass example_input=torch.rand(2, 3, height, width) in the size you will use.",
        )
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    return images if first is None else images.to(first.device, first.dtype)


def _survey(model: nn.Module, config: PerturbConfig | None, example: _Example) -> tuple[Plan, dict[str, Traced]]:
    """Runs and traces copies of the network in both modes, and plans the sites."""
    by_mode: dict[str, list[NumberedCall]] = {}
    traced: dict[str, Traced] = {}
    for mode in MODES:
        args, kwargs = example.call()
        with reproducible(model):
            calls = observe(_copy(model).train(mode == "train"), args, kwargs).calls
            subject = _copy(model).train(mode == "train")
            traced[mode] = trace(subject, calls, live=example.arguments)
        learned = [(call, traced[mode].is_learned(node, subject)) for node, call in traced[mode].convolutions]
        by_mode[mode] = number_calls(learned)
    return make_plan(by_mode, config, example.shapes), traced


def _insert(traced: Traced, the_plan: Plan) -> Program:
    """Puts a call of the noise module behind each site's node."""
    paths = {(s.owner, s.call): s.path for s in the_plan.sites}
    calls = number_calls([(call, True) for _, call in traced.convolutions])
    for (node, _), call in zip(traced.convolutions, calls, strict=True):
        path = paths.get(site_key(call, the_plan.config)) if the_plan.config else None
        if path is None:
            continue
        with traced.graph.inserting_after(node):
            noisy = traced.graph.call_module(path, (node,))
        node.replace_all_uses_with(noisy, delete_user_cb=partial(operator.is_not, noisy))
    return Program.from_graph(traced.graph)


def _name_constants(traced: Mapping[str, Traced]) -> dict[str, Tensor]:
    """Gathers the tensors that tracing made, equal ones once, and calls them by one name in both graphs."""
    kept: dict[str, Tensor] = {}
    for one in traced.values():
        names: dict[str, str] = {}
        for old, value in one.constants.items():
            known = next((k for k, v in kept.items() if v.dtype == value.dtype and torch.equal(v, value)), None)
            names[old] = known or f"perturb_constant_{len(kept)}"
            kept[names[old]] = value
        for node in one.graph.nodes:
            if node.op == "get_attr" and node.target in names:
                node.target = names[node.target]
    return kept


def _operate(network: nn.Module, surgery: Surgery, constants: Mapping[str, Tensor], device: torch.device) -> Perturbed:
    """Makes a network's own modules into its wrapped form; the constants become buffers outside the state dict."""
    for name, value in constants.items():
        network.register_buffer(name, value.clone(), persistent=False)
    _add_thetas(network, surgery.plan, device)
    return Perturbed.adopt(network, surgery)


def _add_thetas(network: nn.Module, the_plan: Plan, device: torch.device) -> None:
    config = the_plan.config
    if config is None:
        return
    for site in the_plan.sites:
        owner = network.get_submodule(site.owner)
        like = next((p for p in owner.parameters() if p.is_floating_point()), None)
        child = site.path.rpartition(".")[2]
        if hasattr(owner, child):
            raise SurgeryError(f"{site.owner or type(network).__name__} has an attribute {child!r} of its own.")
        perturbation = Perturbation(
            site.theta_shape,
            share=config.share,
            theta_init=config.theta_init,
            theta_min=config.theta_min,
            device=like.device if like is not None else device,
            dtype=like.dtype if like is not None else None,
        )
        owner.add_module(child, perturbation.train(owner.training))


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and perturbify works on copies.",
            "Wrap it before anything has been computed with it, or make it support copy.deepcopy.",
        ) from error
