"""What a network is, in words that JSON can keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from perturbify.errors import ModelError
from perturbify.normalize import Normalize

# The two attributes that the zoo leaves on a module. They are plain entries of its ``__dict__``, so that
# deepcopy, pickle and whoever copies a model's attributes take them along, and no state dict sees them.
SPEC = "perturbify_spec"  # the ModelSpec it was built from
NORMALIZATION = "perturbify_normalization"  # (mean, std) as its weights file stated them, where it did


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build the same architecture again.

    Attributes:
        name: The qualified name, such as ``"timm:resnet18"`` or ``"package.module:factory"``.
        kwargs: The constructor's arguments, JSON values only (tuples become lists); ``num_classes`` if given.
        weights: Where the weights came from, for people to read: ``"fresh"``, ``"pretrained"``, or
            ``"file:NAME (sha256 0123abcd…)"``, with ``", head fresh"`` behind it where that is so.

    Raises:
        ModelError: An argument is no JSON value.
    """

    name: str
    kwargs: dict[str, Any]
    weights: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", {k: self._as_json(k, v) for k, v in self.kwargs.items()})

    def _as_json(self, key: str, value: Any) -> Any:
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"The argument {key}={value!r} of {self.name} cannot be written into a checkpoint.",
                "Give numbers, strings, booleans, lists and dicts; put the rest into a factory of yours.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the three fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ModelSpec:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            ModelError: A field is missing, unknown, or of another type.
        """
        fields = {"name": str, "kwargs": dict, "weights": str}
        wrong = [k for k in fields | dict(d) if k not in fields or not isinstance(d.get(k), fields[k])]
        if wrong:
            raise ModelError(
                f"A model's description has {', '.join(map(repr, wrong))} missing, unknown, or mistyped.",
                "It needs 'name', 'kwargs' and 'weights'.",
            )
        return cls(**d)


def tag(model: nn.Module, spec: ModelSpec, normalization: Normalize | None = None) -> nn.Module:
    """Writes onto a model what it was built from; returns it."""
    vars(model)[SPEC] = spec
    if normalization is not None:
        vars(model)[NORMALIZATION] = normalization.constants
    return model
