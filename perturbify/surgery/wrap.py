"""The operation itself: plan, wrap, unwrap."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from perturbify.errors import NoConvolutions, SurgeryError
from perturbify.normalize import Normalize
from perturbify.perturbation import Perturbation
from perturbify.surgery.config import PerturbConfig, relative_start
from perturbify.surgery.copying import copy_network
from perturbify.surgery.example import Example
from perturbify.surgery.hooks import add_hooks, remove_hooks
from perturbify.surgery.parity import probe
from perturbify.surgery.perturbed import Perturbed, Surgery
from perturbify.surgery.plan import Plan, Site, Skipped
from perturbify.surgery.planning import make_plan, site_key, spots
from perturbify.surgery.program import Program
from perturbify.surgery.sites import observe
from perturbify.surgery.spread import starting_spreads
from perturbify.surgery.survey import Survey, survey
from perturbify.surgery.trace import Traced
from perturbify.surgery.weights import guard, plan_weights, unguard


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
    """Puts noise modules into a network: by default a learnable one behind every convolution call.

    What :func:`perturbify.wrap` does, whatever the defence; the guarantees and the result are as there.

    Args:
        model: The network. It is left as it was, unless ``inplace``.
        config: The settings; None adds no noise.
        example_input: Inputs to trace and to try the network with.
        normalize: A normalisation layer to run first.
        inplace: Build the result from the network's own modules rather than copies.

    Raises:
        NoConvolutions: There is nothing to put noise on.
        AlreadyWrapped: The network has noise modules already.
        SurgeryError: The settings ask for what this network has not.
        TraceError: There is an ``F.conv*`` call where neither torch.fx nor a hook can go.
        ParityError: The traced network is not the source network.
        ModelError: The network fails on the example input, or no input size is known.
    """
    example = Example.of(model, example_input)
    taken = ("surgery", *(["normalize"] if normalize is not None else []))
    for name in taken:
        if hasattr(model, name):
            raise SurgeryError(
                f"{type(model).__name__} has an attribute {name!r} of its own, a name that the wrapped network needs.",
                "Rename it, or leave the normalisation outside." if name == "normalize" else "Rename it.",
            )
    operation = prepare(model, config, example)
    trial = operation.perform(copy_network(model, "share" if operation.shareable else "copy"))
    modes = probe(model, trial, example.batches(), operation.surgery.plan.modes, share=operation.shareable)
    if "eval" not in modes:
        observe(copy_network(model).eval(), *example.call())  # which says what the matter is
    wrapped = operation.perform(model if inplace else copy_network(model), thetas_of=trial)
    if normalize is not None:
        wrapped.normalize = copy.deepcopy(normalize).to(example.device)
    wrapped.surgery = replace(
        operation.surgery,
        plan=replace(operation.surgery.plan, modes=modes),
        normalizes=normalize is not None,
    )
    ratio = None if config is None else relative_start(config.theta_init)
    if ratio is not None and example.device.type != "meta":
        _start_relative(wrapped, ratio, example)
    return wrapped


@dataclass(frozen=True)
class Operation:
    """A surgery that is planned and not yet performed.

    Attributes:
        surgery: What will be done.
        constants: Tensors that tracing made, by name.
        device: Where a θ goes whose owner has no parameter.
        shareable: Whether copies of the network that share its parameters may run: no forward writes into them.
    """

    surgery: Surgery
    constants: Mapping[str, Tensor]
    device: torch.device
    shareable: bool

    def perform(self, network: nn.Module, *, thetas_of: Perturbed | None = None) -> Perturbed:
        """Makes a network's own modules into its wrapped form; the constants become buffers outside the state dict.

        Args:
            network: A copy of the source, or the source itself.
            thetas_of: Another wrapped form, to take the noise modules from.
        """
        plan = self.surgery.plan
        for module in network.modules():
            vars(module).pop("_compiled_call_impl", None)  # which would run the source's code
        for name, value in self.constants.items():
            network.register_buffer(name, value.clone(), persistent=False)
        for site in plan.sites:
            owner = network.get_submodule(site.owner)
            child = site.path.rpartition(".")[2]
            if hasattr(owner, child):
                raise SurgeryError(f"{site.owner or type(network).__name__} has an attribute {child!r} of its own.")
            made = thetas_of.get_submodule(site.path) if thetas_of else _perturbation(site, plan, owner, self.device)
            owner.add_module(child, made.train(owner.training))
        if plan.config is not None:
            before, numbered = plan.config.site == "input", plan.config.shared == "call"
            add_hooks(network, plan.hooked, before=before, numbered=numbered, first=plan.config.extent == "first")
            guard(network, plan.sites)
        return Perturbed.adopt(network, self.surgery)


def prepare(model: nn.Module, config: PerturbConfig | None, example: Example) -> Operation:
    """Plans a surgery and writes its programs; all of :func:`wrap` but the probe and the last step.

    Raises:
        NoConvolutions, SurgeryError, TraceError, ModelError: As for :func:`wrap`.
    """
    plan, seen = _survey(model, config, example)
    traced = seen.traced
    if config is not None and not plan.sites:
        why = (
            f"All {len(plan.skipped)} of its sites are skipped; see perturbify.plan(model)."
            if plan.skipped
            else "Noise goes behind convolutions; this network makes no convolution call."
            if config.site == "output"
            else f"Sites of the kind {config.site!r} are asked for, and this network has none."
        )
        raise NoConvolutions(f"{type(model).__name__} has nothing to put noise {_place(config)}.", why)
    constants = _name_constants(traced)
    programs = {"eval": _insert(traced["eval"], plan)}
    if "train" in traced:
        same = traced["train"] is traced["eval"]
        programs["train"] = programs["eval"] if same else _insert(traced["train"], plan)
        if programs["train"] == programs["eval"]:
            programs["train"] = programs["eval"]  # one graph serves both
    surgery = Surgery(type(model), plan, example.names, len(example.args), programs, tuple(constants))
    return Operation(surgery, constants, example.device, seen.shareable)


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
    unguard(contents, surgery.plan.sites)
    for site in surgery.plan.sites:
        owner, _, child = site.path.rpartition(".")
        delattr(contents.get_submodule(owner), child)
    return surgery.embody(contents.__dict__)


def _survey(model: nn.Module, config: PerturbConfig | None, example: Example) -> tuple[Plan, Survey]:
    why_whole = None
    if config is not None and config.on_weights:
        why_whole = "noise on weights leaves its forward as it is"
    elif config is not None and config.backend == "hook":
        why_whole = 'backend="hook"'
    elif example.variadic:
        why_whole = f"its forward takes {example.variadic}"
    adding = config is not None and config.site == "addition"
    seen = survey(model, example, why_whole, additions=adding)
    if adding and seen.traced["eval"].graph is None:
        raise SurgeryError(
            f"The additions of {type(model).__name__} cannot be found: torch.fx does not follow its forward "
            f"({seen.traced['eval'].opaque['']}).",
            'Use site="norm" or site="output".',
        )
    if config is not None and config.on_weights:
        sites, skipped = plan_weights(model, config)
        if sites and not seen.shareable:
            raise SurgeryError(
                f"{type(model).__name__} writes into its weights in its forward, where others stand in for them.",
                "Move that out of forward, or choose another site.",
            )
        if config.extent == "first":
            skipped += [Skipped(s.name, s.kind, "not the first") for s in sites[1:]]
            sites = sites[:1]
        opaque = dict(seen.traced["eval"].opaque)
        plan = Plan(config, tuple(sites), tuple(skipped), example.shapes, opaque, modes=tuple(seen.traced))
        return plan, seen
    return make_plan(seen.traced, config, example.shapes, _unseen(model, seen.traced)), seen


def _unseen(model: nn.Module, traced: Mapping[str, Traced]) -> list[str]:
    """Paths of the convolutions inside of opaque modules; one inside of another convolution belongs to that one."""
    inside = {m for one in traced.values() for path in one.opaque for m in model.get_submodule(path).modules()}
    nested = {m for c in model.modules() if isinstance(c, _ConvNd) for m in c.modules() if m is not c}
    return [p for p, m in model.named_modules() if isinstance(m, _ConvNd) and m in inside and m not in nested]


def _insert(traced: Traced, the_plan: Plan) -> Program | None:
    """Puts a call of the noise module at each site's node."""
    if traced.graph is None:
        return None
    config = the_plan.config
    paths = {(s.owner, s.call): s.path for s in the_plan.sites if s.way == "fx"}
    for spot in spots(traced, config.site) if config is not None and paths else ():
        path = paths.get(site_key(spot, config)) if config is not None and not spot.reason else None
        if path is None or spot.node is None:
            continue
        if config is not None and config.site == "input":
            _insert_before(spot.node, path)
        else:
            _insert_after(spot.node, path)
    return Program.from_graph(traced.graph)


def _insert_after(node: fx.Node, path: str) -> None:
    with node.graph.inserting_after(node):
        noisy = node.graph.call_module(path, (node,))
    node.replace_all_uses_with(noisy, delete_user_cb=partial(operator.is_not, noisy))


def _insert_before(node: fx.Node, path: str) -> None:
    """Noise on the first argument, for this node alone."""
    taken = node.args[0] if node.args else node.kwargs["input"]
    with node.graph.inserting_before(node):
        noisy = node.graph.call_module(path, (taken,))
    if node.args:
        node.update_arg(0, noisy)
    else:
        node.update_kwarg("input", noisy)


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


def _place(config: PerturbConfig) -> str:
    return {"output": "behind", "input": "before"}.get(config.site, "on")


def _start_relative(network: Perturbed, ratio: float, example: Example) -> None:
    """Starts every θ at so many times the standard deviation of what it perturbs."""
    args, kwargs = example.call()
    measured = starting_spreads(network, *args, **kwargs)
    first = network.surgery.plan.config and network.surgery.plan.config.theta_first
    sites = network.surgery.plan.sites
    for site in sites[1:] if first is not None else sites:
        perturbation = network.get_submodule(site.path)
        assert isinstance(perturbation, Perturbation)
        with torch.no_grad():
            perturbation.theta.fill_(ratio * measured[site.name])
            perturbation.project_()


def _perturbation(site: Site, plan: Plan, owner: nn.Module, device: torch.device) -> Perturbation:
    config = plan.config
    assert config is not None  # a plan without settings has no sites
    like = next((p for p in owner.parameters() if p.is_floating_point()), None)
    start = 1.0 if isinstance(config.theta_init, str) else config.theta_init
    if config.theta_first is not None and site is plan.sites[0]:
        start = config.theta_first
    return Perturbation(
        site.theta_shape,
        share="forward" if config.on_weights else config.share,
        scale=config.scale,
        theta_init=start,
        theta_min=config.theta_min,
        learnable=config.learnable,
        image_channels=site.map_shape[0] if site.batch_in_channels else None,
        device=like.device if like is not None else device,
        dtype=like.dtype if like is not None else None,
    )
