"""The header of a checkpoint: the JSON object in its metadata."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import fastjsonschema
import torch

from perturbify import __version__, strict_json, zoo
from perturbify.display import lines, some
from perturbify.errors import CheckpointError, ModelError
from perturbify.example import from_description
from perturbify.normalize import Normalize
from perturbify.surgery.config import PerturbConfig, current_names
from perturbify.surgery.plan import theta_shape
from perturbify.text import counted, input_in_words, noise_in_words

FORMAT = 3
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
"""Floating dtypes that a file's weights may have."""
MOST_TEXT = 2**22
"""Maximum number of characters in a header: enough for 100,000 class names."""
MOST_INPUTS = 64
MOST_DEPTH = 32
MOST_GLOBS = 20_000
"""Maximum number of characters in all globs together."""
MOST_PIXELS = 2**26
"""Maximum number of values in all inputs for one image."""


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint.

    Attributes:
        model: How to build the source network again (:class:`perturbify.zoo.ModelSpec` as a dict); None for a network
            of unknown origin, which must then be passed to ``load``.
        source_class: Dotted name of the source network's class.
        inputs: What the network takes, by argument name, as :mod:`perturbify.example` describes inputs: ``shape`` for
            one image, a ``whole`` shape, a ``value``, a ``list`` or a ``dict`` of these; ``"*"`` for ``*args``.
        dtype: Floating dtype of the network.
        dtypes: Dtype of each floating tensor that differs from ``dtype``, by state-dict key.
        config: The settings of the surgery; None: a baseline without noise.
        sites: ``name``, ``path``, ``map_shape`` of the feature map, and ``theta_shape`` of every site.
        normalize: ``mean`` and ``std`` per channel of the normalisation layer inside; None: there is none.
        classes: Names of the classes in the order of the logits, where known.
        method: The defence it was trained by; None: not trained here.
        recipe: The resolved recipe as TOML; None: not trained here.
        trained: Epochs and steps completed.
        check: Summary of the last robustness check.
        aliases: State-dict keys mapped to the key that holds their shared tensor.
        versions: Versions of the packages that wrote the file.
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
    dtypes: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __repr__(self) -> str:
        kind = self.source_class.rpartition(".")[2]
        name = kind if self.model is None else f"{self.model['name']} ({kind})"
        entries = counted(sum(math.prod(site["theta_shape"]) for site in self.sites), "entry")
        classes = self.classes or []
        checked = self.check or {}
        return lines(
            f"Header: {name}, {self.method or 'not trained here'}, format {self.format}",
            [
                ("input", ", ".join(map(input_in_words, self.inputs.values()))),
                ("noise", noise_in_words(self.config)),
                ("θ", f"{counted(len(self.sites), 'site')}, {entries}" if self.sites else ""),
                ("normalize", "" if self.normalize is None else _vectors(self.normalize)),
                ("classes", some(classes, len(classes))),
                ("trained", ", ".join(f"{n:,} {what}" for what, n in self.trained.items())),
                ("check", ", ".join(f"{checked[key]}" for key in ("verdict", "dataset", "preset") if key in checked)),
                ("versions", ", ".join(f"{package} {version}" for package, version in self.versions.items())),
            ],
        )

    def to_json(self) -> str:
        """The metadata entry.

        Raises:
            CheckpointError: A reader would not accept it: a field has the wrong type or size, or a string is not valid
                Unicode.
        """
        text = json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            start, end = text.rfind('"', 0, error.start), text.find('"', error.end)
            raise CheckpointError(
                f"The text {text[start + 1 : end]!r:.200} cannot be stored in a checkpoint: it is not valid Unicode.",
                "Name classes, files and settings in UTF-8.",
            ) from error
        try:
            _read(text)
        except CheckpointError as error:
            raise CheckpointError(f"This header cannot be written: {error.message}") from error
        return text

    @classmethod
    def from_json(cls, text: str, path: Path) -> Header:
        """Reads the metadata entry of the file ``path``.

        Raises:
            CheckpointError: It is damaged or of a newer format.
        """
        try:
            return _read(text)
        except _NewerError as error:
            raise CheckpointError(
                f"{path} has checkpoint format {error}; this version of perturbify reads formats up to {FORMAT}.",
                "Install a newer perturbify.",
            ) from error
        except CheckpointError as error:
            raise CheckpointError(
                f"The metadata of {path} is damaged: {error.message}", "Download the file again."
            ) from error

    def verify(self) -> None:
        """Checks the fields against each other, which the schema cannot do.

        Raises:
            ValueError: Two of them contradict each other, or one is out of bounds.
        """
        inputs = list(self.input_shapes())
        sizes = inputs + [site[key] for site in self.sites for key in ("map_shape", "theta_shape")]
        # To JSON Schema, and in Python's comparisons, 3.0 is an integer; to torch it is not.
        if any(type(n) is not int for shape in sizes for n in shape) or type(self.format) is not int:
            raise ValueError("a size is not an integer")
        globs = [glob for key in ("include", "exclude") for glob in (self.config or {}).get(key, ())]
        if sum(map(len, globs)) > MOST_GLOBS:
            raise ValueError(f"globs of more than {MOST_GLOBS:,} characters")
        if "list" not in self.inputs.get("*", {"list": []}):
            raise ValueError("positional inputs that are not a list")
        for nested in (self.inputs, (self.model or {}).get("kwargs")):
            if _depth(nested) > MOST_DEPTH:
                raise ValueError(f"values nested deeper than {MOST_DEPTH}")
        if len(inputs) > MOST_INPUTS or sum(map(math.prod, inputs)) > MOST_PIXELS:
            raise ValueError(f"more than {MOST_INPUTS} inputs, or more than {MOST_PIXELS:,} values in them")
        if (self.config is None) != (not self.sites):
            raise ValueError(
                f"config is {'' if self.config is None else 'not '}null, but there are {len(self.sites)} sites"
            )
        for key in ("name", "path"):
            twice = _twice(site[key] for site in self.sites)
            if twice is not None:
                raise ValueError(f"two sites share the {key} {twice!r:.200}")
        for site in self.sites:
            if list(theta_shape(tuple(site["map_shape"]), self.config["grain"])) != site["theta_shape"]:  # type: ignore[index]
                raise ValueError(
                    f"θ of {site['name']!r:.200} has shape {site['theta_shape']} for feature map {site['map_shape']}"
                )

    def input_shapes(self) -> Iterator[list[int]]:
        """The shapes of all inputs: of one image, or whole if an input is described that way."""
        waiting = list(self.inputs.values())
        while waiting:
            about = waiting.pop(0)
            if "list" in about or "dict" in about:
                waiting += about["list"] if "list" in about else about["dict"].values()
            elif "value" not in about:
                yield about["whole"] if "whole" in about else about["shape"]

    def example(self, device: str = "cpu") -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs for the network, with random pixels, two images each."""
        made = from_description(self.inputs, DTYPES[self.dtype], device)
        return (made, {}) if isinstance(made, tuple) else ((), made)

    def image_size(self) -> int | None:
        """Side of the square images that the network was wrapped for; None if they are not square."""
        first = next(iter(self.inputs.values())).get("shape", [])
        return first[-1] if len(first) == 3 and first[-1] == first[-2] else None

    def provenance(self) -> dict[str, Any]:
        """The network's origin, as a robustness report must state it."""
        keys = ("model", "config", "normalize", "method", "trained", "recipe")
        return {key: getattr(self, key) for key in keys}

    def spec(self) -> zoo.ModelSpec | None:
        """How to build the source network, if known."""
        return None if self.model is None else zoo.ModelSpec.from_dict(self.model)

    def settings(self) -> PerturbConfig | None:
        """The settings of the surgery; None for a baseline."""
        if self.config is None:
            return None
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config.items()}
        return PerturbConfig(**settings)

    def normalization(self) -> Normalize | None:
        """The layer inside, if there is one."""
        return None if self.normalize is None else Normalize(**self.normalize)


def _vectors(normalize: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(f"{key} {some([f'{v:.4g}' for v in values], len(values), 4)}" for key, values in normalize.items())


def versions() -> dict[str, str]:
    """Versions of the packages that build a network and write its file."""
    others = {package: importlib.metadata.version(package) for package in ("torch", "torchvision", "timm")}
    return {"perturbify": __version__, **others}  # no metadata when run from the source tree


class _NewerError(Exception):
    """A newer, unknown format."""


def _read(text: str) -> Header:
    """Reads a header and checks it against the schema and for consistency.

    Raises:
        CheckpointError: A check fails.
        _NewerError: Its format is newer.
    """
    if len(text) > MOST_TEXT:
        raise CheckpointError(f"its header has {len(text):,} characters; the maximum is {MOST_TEXT:,}.")
    try:
        raw = strict_json.loads(text)
        version = raw.get("format") if isinstance(raw, dict) else None
        if isinstance(version, (int, float)) and version > FORMAT:
            raise _NewerError(f"{version:g}")
        if isinstance(raw, dict) and isinstance(raw.get("config"), dict):
            raw["config"] = current_names(raw["config"])
        _schema()(raw)
        header = Header(**raw)
        _ = header.spec(), header.settings(), header.normalization()  # each of which validates itself
        header.verify()
    except fastjsonschema.JsonSchemaValueException as error:
        raise CheckpointError(f"{error.message.removeprefix('data.')}.") from error
    except (ValueError, TypeError, ModelError) as error:
        raise CheckpointError(f"{str(error).rstrip('.')}.") from error
    except RecursionError as error:
        raise CheckpointError("its values are nested too deeply.") from error
    return header


@cache
def _schema() -> Callable[[Any], Any]:
    """The compiled check against header.schema.json."""
    text = (resources.files(__package__) / "header.schema.json").read_text(encoding="utf-8")
    check: Callable[[Any], Any] = fastjsonschema.compile(json.loads(text), use_default=False)
    return check


def _depth(value: Any) -> int:
    """How deeply lists and objects are nested."""
    level, depth = [value], 0
    while level := [v for item in level if isinstance(item, (dict, list)) for v in _items(item)]:
        depth += 1
    return depth


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _twice(names: Iterable[str]) -> str | None:
    """The first repeated name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
