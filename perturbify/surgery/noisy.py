"""Modules that perturb: each becomes a dynamic subclass of its own class, as torch's parametrizations do.

What such a module does around its own forward is a tuple of *steps*, kept on the instance. The subclass is made once
per class, has the source's name, and copies and pickles by the source's class, which is importable.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from types import FunctionType, new_class
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_module_registration_hook

from perturbify.errors import SurgeryError
from perturbify.normalize import Normalize
from perturbify.perturbation import Perturbation, Unplaced
from perturbify.surgery.plan import Plan

Proceed = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""The rest of a call: the inner steps and, innermost, the module's own code."""

STEPS, CALLS, PART = "_perturb_steps", "_perturb_calls", "_perturb_part"
"""Attributes that surgery leaves on modules: the steps, the call counter, the path of one with noise below."""

_INNER = "_conv_forward"
"""The method through which torch's convolutions make the call itself; a subclass may do more before and after."""
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Step(ABC):
    """Something that a module does around its own code."""

    order: ClassVar[int]
    """Steps of lower order are further out."""
    methods: ClassVar[bool] = False
    """Whether it goes around the public methods as well, rather than around one only."""
    around_what: str = "forward"
    """That one."""

    @abstractmethod
    def around(
        self, module: nn.Module, name: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a call of the module's method of that name, with what this step adds to it."""


@dataclass(frozen=True)
class Surgery:
    """What was done to a network, kept with it.

    Attributes:
        plan: The sites.
        inputs: The inputs it was wrapped with, as :meth:`perturbify.example.Example.describe` returns them.
        normalizes: Whether a normalisation layer, ``normalize``, runs first.
        method: Name of the defence that the noise belongs to.
    """

    plan: Plan
    inputs: Mapping[str, Any]
    normalizes: bool = False
    method: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Surgery:
        return self  # nothing in it changes


class Perturbed(nn.Module):
    """A network with noise: an instance of a subclass of this class and of its source's.

    It has its source's parts, methods, attributes and state-dict keys, and a θ below each module that
    perturbs. :func:`perturbify.wrap` makes it; it is not made by hand.

    Attributes:
        surgery: What was done to it.
        normalize: The normalisation layer, where one is inside.
    """

    surgery: Surgery
    normalize: Normalize

    def train(self, mode: bool = True) -> Perturbed:
        """Switches the mode as the source does; where that freezes layers, it freezes the weights, not θ."""
        thetas = [(m.theta, m.theta.requires_grad) for m in self.modules() if isinstance(m, Perturbation)]
        super().train(mode)
        if self.surgery.normalizes:  # which children() leaves out
            self.normalize.train(mode)
        for theta, learns in thetas:
            theta.requires_grad_(learns)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Perturbed:
        super()._apply(fn, recurse)
        if self.surgery.normalizes and recurse:  # which children() leaves out
            self._modules["normalize"]._apply(fn)  # type: ignore[union-attr]
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: θ, and those the source names."""
        theirs: set[str] = getattr(super(), "no_weight_decay", set)()
        return {*theirs, *(f"{path}.theta" for path, m in self.named_modules() if isinstance(m, Perturbation))}


def noisy_sites(network: Perturbed) -> list[tuple[Perturbation, nn.Parameter | None]]:
    """The noise modules of a network, each with the weight that its noise is on; None for a feature map.

    Raises:
        SurgeryError: One is gone, because the network was changed after wrapping.
    """
    found: list[tuple[Perturbation, nn.Parameter | None]] = []
    modules = dict(network.named_modules(remove_duplicate=False))
    for site in network.surgery.plan.sites:
        noise = modules.get(site.path)
        if not isinstance(noise, Perturbation):
            raise SurgeryError(
                f"The noise of {site.name} is gone: this {type(network).__name__} was changed after wrapping.",
                "Unwrap it, then wrap it again.",
            )
        found.append((noise, modules[site.owner]._parameters[site.parameter] if site.parameter else None))
    return found


def source_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before surgery; its own class if there was none."""
    kind: type[nn.Module] = getattr(type(module), "perturbed_class", type(module))
    return kind


def add_step(module: nn.Module, step: Step) -> None:
    """Makes a module do something around its own code.

    Raises:
        SurgeryError: Its forward was replaced on the instance, or it is scripted, so a subclass has no effect.
    """
    if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
        how = "is scripted" if isinstance(module, torch.jit.ScriptModule) else "was replaced on the instance"
        raise SurgeryError(
            f"The forward of this {type(module).__name__} {how}, so noise cannot be added to it.",
            "Undo the replacement first (accelerate: remove_hook_from_module), or define it in a subclass.",
        )
    steps: tuple[Step, ...] = tuple(sorted((*vars(module).get(STEPS, ()), step), key=lambda s: s.order))
    vars(module)[STEPS] = steps
    root = isinstance(module, Perturbed)
    module.__class__ = subclass(source_class(module), root, any(s.methods for s in steps))


def make_root(network: nn.Module, surgery: Surgery) -> Perturbed:
    """Marks a network, with its steps in place, as perturbed, and records what was done to it."""
    steps = vars(network).setdefault(STEPS, ())
    network.__class__ = subclass(source_class(network), True, any(s.methods for s in steps))
    vars(network)["surgery"] = surgery
    assert isinstance(network, Perturbed)
    return network


def restore(module: nn.Module) -> None:
    """Restores a module's source class, without steps.

    Raises:
        SurgeryError: Something else has subclassed it since (FSDP, a parametrization).
    """
    kind = type(module)
    for name in (STEPS, CALLS, PART, "surgery"):
        vars(module).pop(name, None)
    if "perturbed_class" in vars(kind):
        module.__class__ = source_class(module)
    elif hasattr(kind, "perturbed_class"):
        raise SurgeryError(f"This module became a {kind.__name__} after wrapping.", "Undo that first, then unwrap.")


def subclass(base: type[nn.Module], root: bool, methods: bool) -> type[nn.Module]:
    """The class of perturbing modules whose source is of class ``base``.

    Args:
        base: The source's class.
        root: Whether it is for a whole network, a :class:`Perturbed`.
        methods: Whether steps go around public methods, too.
    """
    made = _SUBCLASSES.get((base, root, methods))
    if made is not None:
        return made

    def fill(body: dict[str, Any]) -> None:
        body[STEPS] = ()  # for a module made by calling this class
        body.update({name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")})
        body.update(
            perturbed_class=base, forward=_method(base, "forward"), __reduce_ex__=_reduce_ex(base, root, methods)
        )
        body.update(named_children=_named_children, children=_children)
        if issubclass(base, fx.GraphModule):
            body.update(recompile=_recompile(base), __deepcopy__=_deepcopy_graph(base, root, methods))
        elif hasattr(base, "__deepcopy__"):
            body["__deepcopy__"] = _deepcopy
        if issubclass(base, _CONTAINERS):
            body.update(__iter__=_iter(base), __len__=_len, __getitem__=_getitem(base))
        if hasattr(base, _INNER):
            body[_INNER] = _method(base, _INNER)
        if methods:
            body.update({name: _method(base, name) for name in _public_methods(base)})

    made = new_class(base.__name__, (Perturbed, base) if root else (base,), exec_body=fill)
    _SUBCLASSES[base, root, methods] = made
    return made


_SUBCLASSES: dict[tuple[type, bool, bool], type[nn.Module]] = {}
"""Each is made once: compiled code is cached per class."""


def _run(
    module: nn.Module, steps: tuple[Step, ...], name: str, base: type, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not steps:
        return getattr(base, name)(module, *args, **kwargs)
    return steps[0].around(module, name, partial(_run, module, steps[1:], name, base), args, kwargs)


def _method(base: type[nn.Module], name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps = tuple([s for s in self._perturb_steps if s.around_what == name or (s.methods and name != _INNER)])
        return _run(self, steps, name, base, args, kwargs)

    # torch.compile counts what it compiles by code object, and gives up after eight.
    method.__code__ = method.__code__.replace()
    return wraps(getattr(base, name))(method)


def _public_methods(base: type[nn.Module]) -> list[str]:
    """The methods that a network has in addition to those of every module."""
    names = {name for kind in base.__mro__ if kind not in nn.Module.__mro__ for name in vars(kind)}
    names = {n for n in names if not n.startswith("_") and not hasattr(nn.Module, n)}
    return [n for n in sorted(names) if isinstance(getattr(base, n), FunctionType) and _is_bound(base, n)]


def _is_bound(base: type[nn.Module], name: str) -> bool:
    return next(isinstance(vars(k)[name], FunctionType) for k in base.__mro__ if name in vars(k))


# Parts of the source only, for tools that list layers and group parameters; torch itself walks through children()
# when it moves, switches and shards.


def _named_children(self: nn.Module) -> Any:
    for name, child in nn.Module.named_children(self):
        if not isinstance(child, (Perturbation, Unplaced)) and child is not _normalize(self):
            yield name, child


def _children(self: nn.Module) -> Any:
    for _, child in nn.Module.named_children(self):
        if child is not _normalize(self):
            yield child


def _normalize(self: nn.Module) -> nn.Module | None:
    """The network's normalisation layer, which is not part of the source either."""
    surgery = self.__dict__.get("surgery")
    return self._modules["normalize"] if surgery is not None and surgery.normalizes else None


def _iter(base: type[nn.Module]) -> Callable[..., Any]:
    def iterate(self: nn.Module) -> Any:
        parts = dict(_parts(self))
        return iter(parts) if issubclass(base, nn.ModuleDict) else iter(parts.values())

    return iterate


def _len(self: nn.Module) -> int:
    return len(_parts(self))


def _getitem(base: type[nn.Module]) -> Callable[..., Any]:
    def get(self: nn.Module, which: Any) -> Any:
        if isinstance(which, str):
            return self._modules[which]
        parts = _parts(self)
        if isinstance(which, slice):
            some = [m for _, m in parts[which]]
            return nn.Sequential(*some) if issubclass(base, nn.Sequential) else nn.ModuleList(some)
        return parts[which.__index__()][1]

    return get


def _parts(self: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in self._modules.items()
        if module is not None and module is not _normalize(self) and not isinstance(module, (Perturbation, Unplaced))
    ]


# Copies and pickles name the source's class: the subclass is not importable, and need not be the same object there.


def _reduce_ex(base: type[nn.Module], root: bool, methods: bool) -> Callable[..., Any]:
    def reduce(self: nn.Module, protocol: Any) -> Any:
        reduced = base.__reduce_ex__(self, protocol)
        assert isinstance(reduced, tuple)  # a string would name a global, which no module is
        make, args, *rest = reduced
        args = tuple(base if arg is type(self) else arg for arg in args)
        return _revive, (root, methods, make, args), *rest

    return reduce


def _revive(root: bool, methods: bool, make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    module = make(*args)
    module.__class__ = subclass(source_class(module), root, methods)
    return module


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copies by attributes, whatever the source's class defines: a copy that it builds anew would lack the noise."""
    twin: nn.Module = object.__new__(type(self))
    memo[id(self)] = twin
    vars(twin).update(copy.deepcopy(vars(self), memo))
    return twin


def _deepcopy_graph(base: type[fx.GraphModule], root: bool, methods: bool) -> Callable[..., Any]:
    """Each GraphModule has its own class, which its copy must not share, and keeps what its graph names."""

    def deepcopy(self: fx.GraphModule, memo: dict[int, Any]) -> nn.Module:
        kind: Any = type(self)
        self.__class__ = base
        try:
            twin: nn.Module = base.__deepcopy__(self, memo)
        finally:
            self.__class__ = kind
        vars(twin).update({name: vars(self)[name] for name in (STEPS, CALLS, PART, "surgery") if name in vars(self)})
        for name, child in self._modules.items():
            if name not in twin._modules and child is not None:
                twin._modules[name] = memo[id(child)]
        twin.__class__ = subclass(source_class(twin), root, methods)
        return twin

    return deepcopy


def _recompile(base: type[fx.GraphModule]) -> Callable[..., Any]:
    """It writes a forward into the module's class, which must be the source's and not this."""

    def recompile(self: fx.GraphModule) -> Any:
        kind: Any = type(self)
        self.__class__ = base
        try:
            return base.recompile(self)
        finally:
            self.__class__ = kind

    return recompile


def _refuse_lost_noise(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Raises if a module inside a wrapped network is replaced by, or gets, a convolution without noise.

    Raises:
        SurgeryError: It would.
    """
    if new is None:
        return
    old, part = parent._modules.get(name), vars(parent).get(PART)
    if old is new or (old is None and part is None):
        return
    lost = [] if old is None else [m for m in old.modules() if isinstance(m, (Perturbation, Unplaced))]
    inside = list(new.modules())
    plain = any(isinstance(m, _ConvNd) for m in inside) and not any(isinstance(m, Perturbation) for m in inside)
    if not plain or (old is not None and any(m is old for m in inside)) or (part is None and not lost):
        return
    site = lost[0].site if lost else f"{part}.{name}".lstrip(".")
    raise SurgeryError(
        f"{site} is part of a wrapped network, and {'its new' if lost else 'this'} {type(new).__name__} would convolve "
        "without noise.",
        "Change the source before perturbify.wrap, or unwrap; or wrap the new module itself.",
    )


register_module_module_registration_hook(_refuse_lost_noise)
