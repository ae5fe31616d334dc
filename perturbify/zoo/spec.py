"""What a network was built from, as JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from perturbify.errors import ModelError
from perturbify.normalize import Normalize

# The two attributes that the zoo sets on a module. They are plain entries of its ``__dict__``, so that
# deepcopy, pickle and code that copies a model's attributes keep them, and no state dict contains them.
SPEC = "perturbify_spec"  # the ModelSpec it was built from
NORMALIZATION = "perturbify_normalization"  # (mean, std) from its weights file, if stated there


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build the same architecture again.

    Attributes:
        name: The qualified name, such as ``"timm:resnet18"`` or ``"package.module:factory"``.
        kwargs: The constructor's arguments, JSON values only (tuples become lists); ``num_classes`` if given.
        weights: Where the weights came from, for display: ``"fresh"``, ``"pretrained"``, or
            ``"file:NAME (sha256 0123abcd…)"``, with ``", head fresh"`` appended if so.

    Raises:
        ModelError: An argument is not a JSON value.
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
                "Use numbers, strings, booleans, lists and dicts; set everything else in a factory of your own.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the three fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ModelSpec:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            ModelError: A field is missing, unknown, or has another type.
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
    """Sets a model's spec; returns the model."""
    vars(model)[SPEC] = spec
    if normalization is not None:
        vars(model)[NORMALIZATION] = normalization.constants
    return model
