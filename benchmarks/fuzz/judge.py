"""Judges a changed file: refused in one sentence, read correctly, or a bug of ours."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import perturbify
from perturbify import checkpoint, recipe, zoo
from perturbify.checkpoint import container
from perturbify.cli.main import run as command
from perturbify.errors import PerturbifyError
from perturbify.training import state

LONGEST = 3_000
"""Maximum number of characters in a message."""
GOOD = ("refused", "the same", "another, and consistent", "not sealed, and said so")


@dataclass(frozen=True)
class Honest:
    """An unchanged file, and its contents."""

    path: Path
    key: str
    metadata: dict[str, object]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, path: Path) -> Honest:
        """Reads it."""
        contents = container.read(path)
        key = next(key for key in contents.metadata if key != "format")
        return cls(path, key, _parsed(contents), dict(contents.tensors))


def honest_files(folder: Path) -> tuple[list[Honest], list[Honest]]:
    """Writes checkpoints of several kinds, and the states of a short run."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    small = {"num_classes": 3, "stem_width": 4, "channels": (4, 4, 8, 8), "layers": (1, 1, 1, 1)}
    made = {
        "timm": perturbify.wrap(zoo.create("timm:test_resnet", **small), example_input=x),
        "ours": perturbify.wrap(
            zoo.create("cifar_resnet20", num_classes=10),
            perturbify.PerturbConfig("channel"),
            example_input=x[..., :8, :8],
            normalize=perturbify.Normalize([0.5] * 3, [0.2] * 3),
        ),
        "weights": perturbify.wrap(zoo.create("timm:test_resnet", **small), method="pni", example_input=x),
        "baseline": perturbify.wrap(zoo.create("timm:test_resnet", **small), None, example_input=x),
    }
    checkpoints = []
    for name, network in made.items():
        classes = list("abcdefghij")[: 10 if name == "ours" else 3]
        perturbify.save(network, folder / f"{name}.safetensors", classes=classes)
        checkpoints.append(Honest.of(folder / f"{name}.safetensors"))
    short = recipe.load("smoke", {"data.train_images": 100, "data.held_out": None})
    run = perturbify.finetune(zoo.create("cifar_resnet20", num_classes=10), short, folder / "run").folder
    perturbify.save(perturbify.load(run.model), folder / "trained.safetensors", recipe=recipe.to_toml(short))
    checkpoints.append(Honest.of(run.model))
    return checkpoints, [Honest.of(run.state), Honest.of(run.state_before)]


def judge_checkpoint(honest: Honest, path: Path, sealed: bool) -> tuple[str, str]:
    """Opens a changed checkpoint as users do, and returns the outcome; ``sealed``: whether it was resealed."""
    said = _printed(lambda: command(["inspect", str(path)]))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        network = perturbify.load(path)
    header, contents = checkpoint.read(path)
    if _parsed(contents) == honest.metadata and _equal(contents.tensors, honest.tensors):
        return "the same", said
    if not contents.sealed:
        return ("not sealed, and said so" if any("not sealed" in str(w.message) for w in warned) else "unsealed"), said
    if not sealed:
        return "accepted with a change", said
    stored = dict(contents.tensors) | {a: contents.tensors[k] for a, k in header.aliases.items()}
    if not _equal(network.state_dict(), stored):
        return "loaded with other tensors than it holds", said
    about = checkpoint.describe(network)
    for key in ("inputs", "dtype", "dtypes", "normalize", "source_class"):
        if getattr(about, key) != getattr(header, key):
            return f"loaded with another {key} than it says", said
    if about.settings() != header.settings():
        return "loaded with another config than it says", said
    if any("without running" in str(w.message) for w in warned):
        return "another, and consistent", said
    args, kwargs = header.example()
    with torch.no_grad(), perturbify.noise(network, enabled=False):
        if not bool(network(*args, **kwargs).isfinite().all()):
            return "answers with NaN", said
    return "another, and consistent", said


def judge_state(honest: Honest, path: Path, sealed: bool) -> tuple[str, str]:
    """Reads the changed state of a run as ``--resume`` does."""
    saved = state.read(path)
    contents = container.read(path)
    if _parsed(contents) == honest.metadata and _equal(contents.tensors, honest.tensors):
        return "the same", ""
    if not sealed:
        return "accepted with a change", ""
    position = saved.position
    if not (0 <= position.epoch <= 2 and 0 <= position.step < 10**6):
        return f"a position of {position.epoch}, {position.step}", ""
    return "another, and consistent", ""


def judge_recipe(path: Path) -> tuple[str, str]:
    """Reads a changed recipe as ``recipes validate`` and ``finetune`` do."""
    said = _printed(lambda: command(["recipes", "validate", str(path)]))
    said += _printed(lambda: command(["recipes", "show", str(path)]))
    found = recipe.load(path)
    if recipe.from_toml(recipe.to_toml(found), found.name) != found:
        return "another recipe after writing it", said
    return "another, and consistent", said


def outcome(judge: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A judge's outcome, including refusals and our bugs; the second string has details if something is wrong."""
    canary = "canary" in sys.modules
    try:
        found, said = judge()
    except PerturbifyError as error:
        found, said = "refused", f"{error}"
    except Exception as error:
        return f"uncaught {type(error).__name__}", str(error)[:300]
    if "canary" in sys.modules and not canary:
        return "ran foreign code", ""
    if len(said) > 40 * LONGEST or (found == "refused" and len(said) > LONGEST):
        return "a message without end", said[:300]
    if any(not c.isprintable() and c not in "\n\t" for c in said):
        return "raw control characters printed", repr(said[:300])
    if "mistake in perturbify" in said:
        return "called a mistake in perturbify", said[-500:]
    return found, ""


def _printed(call: Callable[[], int]) -> str:
    """A command's output on both streams."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        call()
    return out.getvalue()


def _parsed(contents: container.Contents) -> dict[str, object]:
    def value(text: str) -> object:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text

    return {key: value(text) for key, text in contents.metadata.items() if key != "format"}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and one[k].shape == other[k].shape and _bits(one[k]) == _bits(other[k])
        for k in one
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
