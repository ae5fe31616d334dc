"""The operation itself: plan, wrap, unwrap."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from perturbify.errors import ModelError, NoConvolutions, SurgeryError
from perturbify.normalize import Normalize
from perturbify.perturbation import Perturbation
from perturbify.surgery.config import PerturbConfig
from perturbify.surgery.copying import copy_network
from perturbify.surgery.example import Example
from perturbify.surgery.hooks import add_hooks, remove_hooks
from perturbify.surgery.parity import probe, reproducible
from perturbify.surgery.perturbed import Perturbed, Surgery
from perturbify.surgery.plan import Plan, make_plan, number_calls, site_key
from perturbify.surgery.program import Program
from perturbify.surgery.sites import observe
from perturbify.surgery.trace import Traced, trace, untraced

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
        SurgeryError: The network is wrapped already, or a convolution call cannot be reached.
        ModelError: The network fails on the example input, or none is known.
    """
    return _survey(model, config, Example.of(model, example_input))[0]


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
    the source bit for bit, in train and in eval mode (in eval mode alone where the source takes the example input in no
    other; the plan's ``modes`` say so). Where torch.fx wrote two graphs, the network's own ``training`` flag chooses;
    flags that its submodules were given apart from it do not reach code that torch.fx entered.

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
        TraceError: There is an ``F.conv*`` call where neither torch.fx nor a hook can go.
        ParityError: The traced network is not the source network.
        ModelError: The network fails on the example input, or no input size is known.
    """
    example = Example.of(model, example_input)
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
    programs = {mode: _insert(one, the_plan) for mode, one in traced.items()}
    if programs.get("train") == programs["eval"]:
        programs["train"] = programs["eval"]  # one graph serves both
    surgery = Surgery(type(model), the_plan, tuple(example.arguments), example.positional, programs, tuple(constants))
    wrapped = _operate(copy_network(model), surgery, constants, example.device)
    probe(model, wrapped, *example.batches(), modes=tuple(traced))
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
    contents = copy_network(model)
    surgery: Surgery = contents.surgery
    del contents.surgery
    if surgery.normalizes:
        del contents.normalize
    for name in surgery.constants:
        delattr(contents, name)
    remove_hooks(contents, surgery.plan.hooked)
    for site in surgery.plan.sites:
        owner, _, child = site.path.rpartition(".")
        delattr(contents.get_submodule(owner), child)
    network = surgery.source_class.__new__(surgery.source_class)
    network.__dict__ = contents.__dict__
    return network


def _survey(model: nn.Module, config: PerturbConfig | None, example: Example) -> tuple[Plan, dict[str, Traced]]:
    """Runs and traces copies of the network, and plans the sites.

    A network that takes the example input in eval mode alone (a detector needs its targets to train) runs by its own
    forward, with hooks, in both modes; its train mode has not been seen.
    """
    args, kwargs = example.call()
    calls = {}
    why_whole = 'backend="hook"' if config is not None and config.backend == "hook" else None
    for mode in MODES:
        try:
            with reproducible(model):
                calls[mode] = observe(copy_network(model).train(mode == "train"), args, kwargs)
        except ModelError as error:
            if mode == "eval":
                raise
            why_whole = error.message.rstrip(".")
    traced = {}
    for mode, observed in calls.items():
        if why_whole is not None:
            traced[mode] = untraced(observed, why_whole)
            continue
        with reproducible(model):
            traced[mode] = trace(copy_network(model).train(mode == "train"), observed, live=example.arguments)
    return make_plan(traced, config, example.shapes, _unseen(model, traced)), traced


def _unseen(model: nn.Module, traced: Mapping[str, Traced]) -> list[str]:
    """Paths of the convolutions inside of opaque modules; one inside of another convolution belongs to that one."""
    inside = {m for one in traced.values() for path in one.opaque for m in model.get_submodule(path).modules()}
    nested = {m for c in model.modules() if isinstance(c, _ConvNd) for m in c.modules() if m is not c}
    return [p for p, m in model.named_modules() if isinstance(m, _ConvNd) and m in inside and m not in nested]


def _insert(traced: Traced, the_plan: Plan) -> Program | None:
    """Puts a call of the noise module behind each site's node."""
    if traced.graph is None:
        return None
    paths = {(s.owner, s.call): s.path for s in the_plan.sites if s.way == "fx"}
    for one in number_calls(traced.convolutions):
        node = one.convolution.node
        path = paths.get(site_key(one, the_plan.config)) if the_plan.config else None
        if path is None or node is None:
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
        for node in one.graph.nodes if one.graph else ():
            if node.op == "get_attr" and node.target in names:
                node.target = names[node.target]
    return kept


def _operate(network: nn.Module, surgery: Surgery, constants: Mapping[str, Tensor], device: torch.device) -> Perturbed:
    """Makes a network's own modules into its wrapped form; the constants become buffers outside the state dict."""
    for name, value in constants.items():
        network.register_buffer(name, value.clone(), persistent=False)
    _add_thetas(network, surgery.plan, device)
    if surgery.plan.config is not None:
        add_hooks(network, surgery.plan.hooked, numbered=surgery.plan.config.shared == "call")
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
