"""By what data are known again on another day, and what must not pass for the same."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import Arrays, honest
from PIL import Image

from perturbify.data import fingerprint, load
from perturbify.data.bundle import assemble
from perturbify.data.split import FloatSplit, MemorySplit


def of(folder: Path, content: Arrays, image_size: int | None = None) -> dict[str, Any]:
    np.savez(folder / "mine.npz", **content)
    return load(str(folder / "mine.npz"), image_size=image_size).fingerprint


def flipped(array: np.ndarray, at: int = -1) -> np.ndarray:
    changed = array.copy()
    changed.reshape(-1)[at] ^= 1
    return changed


def test_it_holds_counts_and_size_as_json(tmp_path: Path) -> None:
    found = of(tmp_path, honest())
    assert {key: found[key] for key in found if key != "digest"} == {
        "train_images": 12,
        "test_images": 4,
        "input_size": [3, 6, 5],
    }
    assert len(found["digest"]) == 32 and int(found["digest"], 16)
    assert json.loads(json.dumps(found)) == found


def test_the_digest_is_fixed_across_platforms() -> None:
    """On every platform; whoever changes how it is made ends everybody's runs."""
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    split = MemorySplit(images, torch.tensor([0, 1, 0, 1]))
    data = assemble("four", [split, split], ("é", "b"), (2, 2))
    assert data.fingerprint["digest"] == "bfdb278e92dbd308b47654e9908f60f8"


CHANGES: dict[str, Callable[[Arrays], Arrays]] = {
    "a pixel of training": lambda a: {"x_train": flipped(a["x_train"])},
    "a pixel of the test": lambda a: {"x_test": flipped(a["x_test"], 0)},
    "a label": lambda a: {"y_test": np.array([0, 1, 2, 1])},
    "the order": lambda a: {"x_train": a["x_train"][::-1].copy(), "y_train": a["y_train"][::-1].copy()},
    "the names": lambda a: {"classes": np.array(["0", "1", "two"])},
    "the order of names": lambda a: {"classes": np.array(["1", "0", "2"])},
    "an image less": lambda a: {"x_test": a["x_test"][:3], "y_test": a["y_test"][:3]},
    "the shape": lambda a: {key: a[key].transpose(0, 2, 1, 3).copy() for key in ("x_train", "x_test")},
}


@pytest.mark.parametrize("what", CHANGES)
def test_different_data_under_one_name_are_told_apart(what: str, tmp_path: Path) -> None:
    content = honest()
    assert of(tmp_path, content | CHANGES[what](content))["digest"] != of(tmp_path, content)["digest"]


def test_resizing_does_not_change_the_digest(tmp_path: Path) -> None:
    plain, fitted = of(tmp_path, honest()), of(tmp_path, honest(), image_size=9)
    assert fitted == plain | {"input_size": [3, 9, 9]}


def test_float_images_have_distinct_digests() -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 2
    digests = {FloatSplit(x, labels).digest() for x in (images, images.half(), images.bfloat16(), images + 1e-4)}
    assert len(digests) == 4
    assert FloatSplit(images.clone(), labels).digest() in digests


def test_a_large_dataset_is_sampled_at_even_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SAMPLE", 4 * 6 * 5 * 3)  # images 0, 3, 6 and 9 of the twelve
    content = honest()
    before = of(tmp_path, content)
    for image in range(12):
        changed = flipped(content["x_train"], image * 90)
        assert (of(tmp_path, content | {"x_train": changed}) != before) == (image in (0, 3, 6, 9))
    labels = np.array([0, 1, 2] * 3 + [0, 2, 1])
    assert of(tmp_path, content | {"y_train": labels}) != before, "all labels count"


def folder(root: Path) -> Path:
    for number, place in enumerate(("train/a", "train/b", "val/a", "val/b") * 3):
        (root / place).mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), number).save(root / place / f"{number}.bmp")
    return root


def of_folder(root: Path) -> dict[str, Any]:
    return load(str(root), image_size=8).fingerprint


def test_moving_a_folder_does_not_change_its_digest(tmp_path: Path) -> None:
    root = folder(tmp_path / "here")
    before = of_folder(root)
    moved = tmp_path / "elsewhere" / "here"
    shutil.copytree(root, moved)
    assert of_folder(moved) == before
    assert of_folder(tmp_path / "elsewhere" / ".." / "here") == before
    with (moved / "train/a/0.bmp").open("ab") as file:
        file.write(b"\0")
    assert of_folder(moved)["digest"] != before["digest"]
    (moved / "train/a/0.bmp").write_bytes((root / "train/a/0.bmp").read_bytes())
    assert of_folder(moved) == before
    (moved / "train/a/0.bmp").rename(moved / "train/a/00.bmp")
    assert of_folder(moved)["digest"] != before["digest"]
    for part in ("train", "val"):
        (root / part / "b").rename(root / part / "c")
    assert of_folder(root)["digest"] != before["digest"]


def test_subsets_of_a_folder_have_different_digests(tmp_path: Path) -> None:
    train = load(str(folder(tmp_path / "set")), image_size=8).train
    assert train.subset(torch.arange(3)).digest() != train.subset(torch.arange(3, 6)).digest()


def test_another_process_computes_the_same_digest(tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    (root / "train/a/0.bmp").rename(root / "train/a/\udcff\n.bmp")
    code = "import sys; from perturbify.data import load; print(load(sys.argv[1], image_size=8).fingerprint['digest'])"
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == of_folder(root)["digest"]


def test_fingerprinting_cifar_takes_under_half_a_second() -> None:
    parts = [
        MemorySplit(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.arange(n) % 10)
        for n in (50_000, 10_000)
    ]
    data = assemble("like cifar10", parts, tuple("0123456789"), (32, 32))
    taken = []
    for _ in range(3):
        began = time.process_time()
        assert data.fingerprint["train_images"] == 50_000
        taken.append(time.process_time() - began)
        del vars(data)["fingerprint"]  # which was kept
    assert min(taken) < 0.5
