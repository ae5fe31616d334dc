"""Copies of networks: whole, with shared parameters, or without memory on the meta device."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from perturbify.errors import SurgeryError

Network = TypeVar("Network", bound=nn.Module)

_IMMUTABLE = frozenset(
    (type(None), bool, int, float, str, type, FunctionType, BuiltinFunctionType, torch.dtype, torch.device, torch.Size)
)
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_DEFAULT_STATE = nn.Module.__getstate__  # inherited from object in older versions of torch


def copy_network(model: Network, tensors: Literal["copy", "share", "meta"] = "copy") -> Network:
    """Makes a deep copy of a network.

    A tensor that autograd computed (an attention bias that is cached in eval mode, a weight that an old-style
    ``weight_norm`` hook keeps) cannot be deep-copied; its value is, and the next forward computes it anew.

    Args:
        model: The network; it is left as it is.
        tensors: ``"copy"`` copies parameters and buffers; ``"share"`` copies the buffers and keeps the source's own
            parameters, for a network that runs once and is discarded; ``"meta"`` puts both on the meta device, which
            computes shapes but no values, so that nothing computed from weights can pass for a constant.

    Raises:
        SurgeryError: The network holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            holds = isinstance(value, Tensor) or (isinstance(value, (list, tuple, dict)) and value)
            if name in _REGISTRIES or not holds or _is_plain(value):
                continue
            for leaf in pytree.tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                    memo[id(leaf)] = leaf.detach().clone()
        if tensors == "copy":
            continue
        for parameter in module._parameters.values():
            if parameter is not None and not is_lazy(parameter):
                memo[id(parameter)] = _sharing(parameter) if tensors == "share" else _on_meta(parameter)
        for buffer in module._buffers.values() if tensors == "meta" else ():
            if buffer is not None and not is_lazy(buffer):
                memo[id(buffer)] = _on_meta(buffer)
    try:
        twin: Network = _copy(model, memo)
        return twin
    except Exception as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and perturbify works on copies.",
            "Make it support copy.deepcopy.",
        ) from error


def _sharing(parameter: nn.Parameter) -> nn.Parameter:
    """The same values with their own ``requires_grad``, which a network's ``train`` may set."""
    if type(parameter) is not nn.Parameter:
        return parameter
    twin = nn.Parameter(parameter.detach(), parameter.requires_grad)
    twin.__dict__.update(vars(parameter))
    return twin


def _on_meta(tensor: Tensor) -> Tensor:
    twin = torch.empty_like(tensor, device="meta")
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy``, several times faster on modules, whose attributes are mostly numbers and empty dicts."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if (known := memo.get(id(value))) is not None:
        return known
    if kind is dict or kind is OrderedDict:
        twin = memo[id(value)] = kind()
        for k, v in value.items() if value else ():
            twin[k if type(k) is str else _copy(k, memo)] = _copy(v, memo)
        return twin
    if isinstance(value, nn.Module) and _copies_by_attributes(getattr(kind, "perturbed_class", kind)):
        module = memo[id(value)] = object.__new__(kind)
        state = vars(module)
        for k, v in vars(value).items():
            state[k] = v if type(v) in _IMMUTABLE else _copy(v, memo)
        state.pop("_compiled_call_impl", None)  # as nn.Module itself leaves out
        return module
    if _is_plain(value):
        return value
    result = copy.deepcopy(value, memo)
    if isinstance(value, nn.Module):
        for original, copied in zip(value.modules(), result.modules(), strict=True):
            if copied.training != original.training:  # torchvision's extractors forget it
                copied.train(original.training)
    return result


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in _IMMUTABLE or (kind is tuple and all(type(v) in _IMMUTABLE for v in value))


def _copies_by_attributes(kind: type) -> bool:
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__getstate__ is _DEFAULT_STATE
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
    )
