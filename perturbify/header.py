"""What a checkpoint says of itself: the JSON object in its metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from perturbify import zoo
from perturbify.errors import CheckpointError, ModelError
from perturbify.normalize import Normalize
from perturbify.surgery.config import PerturbConfig

FORMAT = 1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
"""The floating dtypes that a file's weights may have."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        model: How to build the source network again (:class:`perturbify.zoo.ModelSpec` as a dict); None for a network
            whose origin is not known: ``load`` then needs it.
        source_class: Dotted name of the source network's class.
        inputs: What the network takes, by argument name, as :mod:`perturbify.example` describes inputs: ``shape`` for
            one image, a ``whole`` shape, a ``value``, a ``list`` or a ``dict`` of such; ``"*"`` for ``*args``.
        dtype: Floating dtype of the network; a tensor that was stored in another one keeps its own.
        config: The settings of the surgery; None: a baseline without noise.
        sites: ``name``, ``path``, ``map_shape`` of the feature map, and ``theta_shape`` of every site.
        normalize: ``mean`` and ``std`` per channel of the layer inside; None: there is none.
        classes: Names of the classes in the order of the logits, where known.
        method: The defence it was trained by; None: not trained here.
        recipe: The resolved recipe as TOML; None: not trained here.
        trained: Epochs and steps done.
        check: Summary of the last robustness check.
        aliases: State-dict keys that share their tensor with another key, which holds it.
        versions: Of the packages that wrote the file.
        format: Version of this format.
    """

    model: dict[str, Any] | None
    source_class: str
    inputs: dict[str, dict[str, Any]]
    dtype: str
    config: dict[str, Any] | None
    sites: list[dict[str, Any]]
    normalize: dict[str, list[float]] | None
    classes: list[str] | None = None
    method: str | None = None
    recipe: str | None = None
    trained: dict[str, int] = field(default_factory=dict)
    check: dict[str, Any] | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        """The metadata entry."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Header:
        """Reads the metadata entry of the file ``path``.

        Raises:
            CheckpointError: It is damaged or of a newer format.
        """
        try:
            raw = json.loads(text)
            version = raw["format"]
            if version > FORMAT:
                raise CheckpointError(
                    f"{path} has checkpoint format {version}; this perturbify reads up to {FORMAT}.",
                    "Install a newer perturbify.",
                )
            header = cls(**{f.name: raw[f.name] for f in fields(cls)})
            header.verify()
        except (ValueError, KeyError, TypeError, RecursionError, ModelError) as error:
            raise CheckpointError(f"The metadata of {path} is damaged ({error!r}).", "Fetch the file again.") from error
        return header

    def verify(self) -> None:
        """Makes sure that every field is what it should be, so that whoever reads it may rely on that.

        Raises:
            ValueError, KeyError, TypeError, ModelError: One is not.
        """
        for name, hint in get_type_hints(Header).items():
            if not _is(getattr(self, name), hint):
                raise TypeError(f"{name} is {getattr(self, name)!r:.80}")
        _ = self.spec(), self.settings(), self.normalization()  # each of which looks for itself
        if self.dtype not in DTYPES or self.format < 1:
            raise ValueError(f"dtype is {self.dtype!r:.80}, format {self.format}")
        shapes = [shape for about in self.inputs.values() for shape in _shapes(about)]
        shapes += [site[key] for site in self.sites for key in ("map_shape", "theta_shape")]
        if not all(_is(shape, list[int]) and min(shape, default=1) > 0 for shape in shapes):
            raise ValueError("a shape has something other than positive integers")
        if not all(isinstance(site[key], str) for site in self.sites for key in ("name", "path")):
            raise TypeError("a site has no name")

    def image_size(self) -> int | None:
        """Side of the square images the network was made for; None where they are not square."""
        first = next(iter(self.inputs.values())).get("shape", [])
        return first[-1] if len(first) == 3 and first[-1] == first[-2] else None

    def provenance(self) -> dict[str, Any]:
        """Where the network comes from: what a report of its robustness has to say."""
        keys = ("model", "config", "normalize", "method", "trained", "recipe")
        return {key: getattr(self, key) for key in keys}

    def spec(self) -> zoo.ModelSpec | None:
        """How to build the source network, where that is known."""
        return None if self.model is None else zoo.ModelSpec.from_dict(self.model)

    def settings(self) -> PerturbConfig | None:
        """The settings of the surgery; None for a baseline."""
        if self.config is None:
            return None
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config.items()}
        settings.pop("backend", None)  # of earlier versions; both put the noise where it is put now
        return PerturbConfig(**settings)

    def normalization(self) -> Normalize | None:
        """The layer inside, if there is one."""
        return None if self.normalize is None else Normalize(**self.normalize)


def _shapes(about: Any) -> list[Any]:
    """The shapes in the description of an input."""
    if "list" in about:
        return [shape for item in about["list"] for shape in _shapes(item)]
    if "dict" in about:
        return [shape for item in about["dict"].values() for shape in _shapes(item)]
    if about.get("dtype", "float32") not in _INPUT_DTYPES:
        raise ValueError(f"an input is of dtype {about['dtype']!r:.80}")
    return [] if "value" in about else [about["whole"] if "whole" in about else about["shape"]]


_INPUT_DTYPES = (*DTYPES, "bool", "uint8", "int8", "int16", "int32", "int64")


def _is(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_is(value, arg) for arg in args)
    if origin is list:
        return isinstance(value, list) and all(_is(v, args[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(v, args[1]) for v in value.values())
    if hint is Any or isinstance(value, bool):
        return hint in (Any, bool)
    return isinstance(value, (int, float) if hint is float else hint)
