"""The surgery itself: plan, wrap, unwrap."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from perturbify.arguments import check_type
from perturbify.copying import copy_network
from perturbify.errors import AlreadyWrapped, ModelError, NoConvolutions, SurgeryError
from perturbify.example import Example
from perturbify.normalize import Normalize
from perturbify.perturbation import CHILD, Perturbation, Unplaced, perturbations, site_name
from perturbify.surgery.config import PerturbConfig, relative_start
from perturbify.surgery.noisy import (
    PART,
    Perturbed,
    Proceed,
    Step,
    Surgery,
    add_step,
    make_root,
    restore,
)
from perturbify.surgery.observe import Call, Observation, WritesParametersError, observe
from perturbify.surgery.plan import Plan, Site, left_out, theta_shape
from perturbify.surgery.sites import KINDS
from perturbify.surgery.sites.convolution import Behind
from perturbify.surgery.sites.inside import refuse_hidden
from perturbify.surgery.soundness import check_numbers, check_real, check_unpacked
from perturbify.surgery.verify import verify as verify_finished
from perturbify.text import times


def plan(model: nn.Module, config: PerturbConfig | None = PerturbConfig(), *, example_input: Any = None) -> Plan:
    """Returns what :func:`wrap` would do to a network, and changes nothing.

    Args:
        model: The network.
        config: The settings.
        example_input: As for :func:`wrap`.

    Returns:
        The sites, and the convolution calls that are skipped, with the reason.

    Raises:
        SurgeryError: The network is already wrapped, or cannot be copied.
        ModelError: The network fails on the example input, or none is known.
    """
    return _look(model, config, _example(model, example_input), values=False).plan


def wrap(
    model: nn.Module,
    config: PerturbConfig | None = PerturbConfig(),
    *,
    example_input: Any = None,
    normalize: Normalize | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> Perturbed:
    """Puts noise modules into a network: by default a learnable one behind every convolution call.

    The part of :func:`perturbify.wrap` that does not depend on the defence; guarantees and result are the same.

    Args:
        model: The network. It is left as it was, unless ``inplace``.
        config: The settings; None adds no noise.
        example_input: Inputs to run the network with.
        normalize: A normalisation layer to run first.
        inplace: Change the network itself rather than a copy.
        verify: Whether to compare the result with the source.

    Raises:
        NoConvolutions: There is nothing to put noise on.
        AlreadyWrapped: The network already has noise modules.
        SurgeryError: The settings ask for something that this network does not have.
        TraceError: A forward does more after a convolution, and torch.fx cannot trace it.
        ParityError: With the noise off, the result differs from the source.
        ModelError: The network fails on the example input, no input size is known, or a weight is not finite.
    """
    check_type(normalize, (Normalize, type(None)), "normalize is a layer", "Give perturbify.Normalize(mean, std).")
    example = _example(model, example_input)
    _refuse_names(model, normalize)
    check_numbers(model)
    check_unpacked(model)
    if normalize is not None:
        normalize = copy.deepcopy(normalize).to(example.device)
    looked = _look(model, config, example.normalized(normalize), values=verify)
    the_plan = looked.plan
    if config is not None and not the_plan.sites:
        raise _nothing_to_perturb(model, config, the_plan)
    check_real(model, the_plan.sites)
    network = model if inplace else copy_network(model)
    try:
        _insert(network, the_plan, looked, example.device)
        if normalize is not None:
            network.normalize = normalize
            add_step(network, _Normalizing())
        wrapped = make_root(network, Surgery(the_plan, _described(example), normalize is not None))
        if verify:
            ways = {s.way for s in the_plan.sites}
            verify_finished(
                model if not inplace else copy_network(model, "share"),
                wrapped,
                looked.seen,
                example,
                share_parameters=looked.share_parameters,
                gradients="graph" in ways and example.device.type != "meta",
            )
    except Exception:
        if inplace:
            _remove(network, normalize is not None)
        raise
    return wrapped


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the network without noise, with its current weights.

    Args:
        model: What :func:`wrap` returned; it is left as it is.

    Returns:
        A network of the source's own class and state-dict keys. A normalisation layer that was put in is removed, so
        it takes what the source network took.

    Raises:
        SurgeryError: The network is not a wrapped one.
    """
    if not isinstance(model, Perturbed):
        raise SurgeryError(f"{type(model).__name__} is not a wrapped network.", "Pass what wrap() returned.")
    network = copy_network(model)
    return _remove(network, network.surgery.normalizes)


@dataclass(frozen=True)
class _Normalizing(Step):
    """The network's normalisation layer, on its first input."""

    order = 0

    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs the network on normalised images."""
        if args:
            return proceed((module._modules["normalize"](args[0]), *args[1:]), kwargs)  # type: ignore[misc]
        first = next(iter(kwargs))
        return proceed(args, {**kwargs, first: module._modules["normalize"](kwargs[first])})  # type: ignore[misc]


@dataclass(frozen=True)
class _Looked:
    """The results of running a network once in each mode.

    Attributes:
        plan: What will be done to it.
        seen: A forward in each mode that accepts the example input.
        spreads: Standard deviation of what is perturbed, by site name.
        share_parameters: Whether copies may share the network's parameters: no forward writes into them.
    """

    plan: Plan
    seen: Mapping[str, Observation]
    spreads: Mapping[str, float]
    share_parameters: bool


def _example(model: nn.Module, given: Any) -> Example:
    if isinstance(model, nn.Module) and (isinstance(model, Perturbed) or next(perturbations(model), None) is not None):
        raise AlreadyWrapped(f"This {type(model).__name__} is already wrapped.", "Call perturbify.unwrap(model) first.")
    return Example.of(model, given)


def _refuse_names(model: nn.Module, normalize: Normalize | None) -> None:
    for name in ("surgery", *(["normalize"] if normalize is not None else [])):
        if hasattr(model, name):
            raise SurgeryError(
                f"{type(model).__name__} has an attribute {name!r} of its own, a name that the wrapped network needs.",
                "Rename it, or leave the normalisation outside." if name == "normalize" else "Rename it.",
            )


def _look(model: nn.Module, config: PerturbConfig | None, example: Example, *, values: bool) -> _Looked:
    """Runs copies of a network in both modes, on the meta device if it runs there, else with values."""
    ratio = None if config is None else relative_start(config.theta_init)
    share_parameters = not any(map(is_lazy, model.parameters()))
    needs_values = values or (config is not None and (config.site == "addition" or ratio is not None))
    watch = _Watching(model, example, needs_values, share_parameters, config)
    seen = {"eval": watch.observe("eval")}
    notes: tuple[str, ...] = ()
    try:
        seen["train"] = watch.observe("train")
    except ModelError as error:
        notes = (f"{error.message.rstrip('.')}, so train mode was not observed",)
    if config is None:
        _, skipped, _ = KINDS["output"].find(watch.copy(), seen, PerturbConfig(exclude=("*",)))
        none = tuple(replace(s, reason="no noise asked for") for s in skipped)
        return _Looked(Plan(None, (), none, example.shapes, tuple(seen), notes=notes), seen, {}, watch.share_parameters)
    if config.on_weights and not watch.share_parameters and not any(map(is_lazy, model.parameters())):
        raise SurgeryError(
            f"{type(model).__name__} writes into its weights in its forward, where noisy ones replace them.",
            "Move that out of forward, or choose another site.",
        )
    sites, skipped, spreads = KINDS[config.site].find(watch.copy(), seen, config)
    at_convolutions = config.site in ("output", "input") and config.extent == "all"
    unseen = _unseen(model, seen, config) if at_convolutions else ()
    the_plan = Plan(config, tuple(sites), tuple(skipped), example.shapes, tuple(seen), unseen, notes)
    return _Looked(the_plan, seen, spreads, watch.share_parameters)


class _Watching:
    """Observes copies of a network."""

    def __init__(
        self, model: nn.Module, example: Example, values: bool, share_parameters: bool, config: PerturbConfig | None
    ) -> None:
        self._model, self._example, self._values, self._config = model, example, values, config
        self.share_parameters = share_parameters

    def copy(self) -> nn.Module:
        """A copy that may run."""
        return copy_network(self._model, "share" if self.share_parameters else "copy")

    def observe(self, mode: str) -> Observation:
        """One forward in a mode.

        Raises:
            ModelError: The network fails on the example input in it.
        """
        seen = self._once(mode, self._example)
        images = self._example.images
        if images and any(c.leading == 1 != images for c in seen.calls):
            more = self._once(mode, self._example.with_more(1))
            for one, other in zip(seen.calls, more.calls, strict=False):
                _per_image(one, other, images)
                self._refuse_growing(one, other)
        return seen

    def _refuse_growing(self, one: Call, other: Call) -> None:
        config = self._config
        if config is None or config.on_weights or one.batch_in_channels or left_out(one.owner, config):
            return
        if theta_shape(one.shape, config.grain) != theta_shape(other.shape, config.grain):
            raise SurgeryError(
                f"The feature map of {site_name(one.owner, one.number)} changes its shape with the batch size: it is "
                f"{times(one.shape)}, and {times(other.shape)} with one more image.",
                'Leave it out with exclude=("…",), or wrap with grain="layer".',
            )

    def _once(self, mode: str, example: Example) -> Observation:
        if not self._values and self._example.device.type != "meta" and self.share_parameters:
            try:
                return self._run(copy_network(self._model, "meta"), mode, example.on_meta(), own_parameters=True)
            except ModelError:  # it reads values, or uses a kernel without shape inference
                pass
        try:
            return self._run(self.copy(), mode, example, own_parameters=not self.share_parameters)
        except WritesParametersError:
            self.share_parameters = False
            return self._run(self.copy(), mode, example, own_parameters=True)

    def _run(self, network: nn.Module, mode: str, example: Example, *, own_parameters: bool) -> Observation:
        config = self._config
        return observe(
            network.train(mode == "train"),
            example.args,
            example.kwargs,
            own_parameters=own_parameters,
            additions=config is not None and config.site == "addition",
            measure=config is not None and relative_start(config.theta_init) is not None,
        )


def _per_image(one: Call, other: Call, images: int) -> None:
    """Records that a call has the batch in its channels, from the same call with one more image."""
    channels = one.shape[0] // images
    shapes = (channels * images, *one.shape[1:]), (channels * (images + 1), *one.shape[1:])
    if one.leading == other.leading == 1 and (one.shape, other.shape) == shapes:
        one.shape = (channels, *one.shape[1:])
        one.input_shape = (one.input_shape[0] // images, *one.input_shape[1:])
        one.batch_in_channels = True


def _unseen(model: nn.Module, seen: Mapping[str, Observation], config: PerturbConfig) -> tuple[str, ...]:
    """Convolutions that no forward called; those inside another are that one's concern."""
    called = {c.owner for one in seen.values() for c in one.calls}
    return tuple(
        path
        for path, module in model.named_modules()
        if isinstance(module, _ConvNd)
        and path not in called
        and not left_out(path, config)
        and "forward" not in vars(module)
        and not isinstance(module, torch.jit.ScriptModule)
        and not any(p.startswith(f"{path}.") for p in called)
    )


def _insert(network: nn.Module, the_plan: Plan, looked: _Looked, device: torch.device) -> None:
    for module in network.modules():
        vars(module).pop("_compiled_call_impl", None)  # which would run the source's code
    config = the_plan.config
    if config is None:
        return
    refuse_hidden(network, the_plan.sites)
    for site in the_plan.sites:
        owner = network.get_submodule(site.owner)
        child = site.path.rpartition(".")[2]
        if hasattr(owner, child):
            raise SurgeryError(f"{site.owner or type(network).__name__} has an attribute {child!r} of its own.")
        noise = _perturbation(site, the_plan, owner, looked.spreads.get(site.name, math.nan), device)
        owner.add_module(child, noise.train(owner.training))
    KINDS[config.site].insert(network, list(the_plan.sites), looked.seen)
    for path in the_plan.unseen:
        convolution = network.get_submodule(path)
        convolution.add_module(CHILD, Unplaced(path))
        add_step(convolution, Behind(path))
    for path, module in network.named_modules():
        if not isinstance(module, (Perturbation, Unplaced)) and next(perturbations(module), None) is not None:
            vars(module)[PART] = path


def _remove(network: nn.Module, normalizes: bool) -> nn.Module:
    """Removes, in place, whatever :func:`_insert` and :func:`wrap` put in."""
    for module in list(network.modules()):
        for name in [n for n, m in module._modules.items() if isinstance(m, (Perturbation, Unplaced))]:
            del module._modules[name]
        restore(module)
    if normalizes:
        network._modules.pop("normalize", None)
    return network


def _perturbation(site: Site, the_plan: Plan, owner: nn.Module, spread: float, device: torch.device) -> Perturbation:
    config = the_plan.config
    assert config is not None  # a plan without settings has no sites
    like = next((p for p in owner.parameters() if p.is_floating_point()), None)
    ratio, start = relative_start(config.theta_init), config.theta_init
    if config.theta_first is not None and site is the_plan.sites[0]:
        start = config.theta_first
    elif ratio is not None:
        start = _relative_start(ratio, spread, config.theta_min, device)
    assert not isinstance(start, str)
    return Perturbation(
        site.theta_shape,
        site=site.name,
        draw_per=config.draw_per,
        of_weight=config.on_weights,
        scale=config.scale,
        theta_init=start,
        theta_min=config.theta_min,
        learnable=config.learnable,
        inputs=the_plan.input_shapes[0] if the_plan.input_shapes else (),
        image_channels=site.map_shape[0] if site.batch_in_channels else None,
        device=like.device if like is not None else device,
        dtype=like.dtype if like is not None else None,
    )


def _relative_start(ratio: float, spread: float, theta_min: float | None, device: torch.device) -> float:
    """θ as a multiple of the standard deviation of what it perturbs; 1 where nothing can be measured."""
    if device.type == "meta":
        return 1.0
    return max(ratio * spread, -math.inf if theta_min is None else theta_min)


def _nothing_to_perturb(model: nn.Module, config: PerturbConfig, the_plan: Plan) -> NoConvolutions:
    why = (
        f"All {len(the_plan.skipped)} of its sites are skipped; see perturbify.plan(model)."
        if the_plan.skipped
        else "Noise goes behind convolutions; this network makes no convolution call."
        if config.site == "output"
        else f"The settings ask for sites of the kind {config.site!r}, and this network has none."
    )
    where = {"output": "behind", "input": "before"}.get(config.site, "on")
    return NoConvolutions(f"{type(model).__name__} has nothing to put noise {where}.", why)


def _described(example: Example) -> Mapping[str, Any]:
    """The inputs as a file describes them; empty if it cannot."""
    try:
        return example.describe()
    except ValueError:
        return {}
