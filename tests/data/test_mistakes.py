"""The user's own arrays and image folders, and each mistake that can be made with them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import Arrays, honest
from PIL import Image

from perturbify.data import load
from perturbify.errors import DataError

MINI = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10" / "cifar10_orig_mini.npz"


def write(folder: Path, content: Arrays) -> str:
    np.savez(folder / "mine.npz", **content)
    return str(folder / "mine.npz")


@pytest.mark.skipif(not MINI.exists(), reason="the project's shared CIFAR-10 images are not here")
def test_real_cifar_images_load_from_npz() -> None:
    data = load(str(MINI))
    assert data.name == "npz:cifar10_orig_mini"
    assert (len(data.train), len(data.test)) == (2_000, 1_017)
    assert data.input_size == (3, 32, 32)
    assert len(data.classes) == 10
    # Within the error of 1,000 images of the constants published for all 50,000.
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.02)
    part = data.test.balanced(100)
    assert part.labels.bincount().tolist() == [10] * 10


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1), (6, 5)])
def test_npz_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = honest(shape=shape)
    data = load(write(tmp_path, content))
    assert data.name == "npz:mine"
    assert data.classes == ("0", "1", "2")
    names = np.array(["a cat", "a dog", "Ä"])
    assert load(write(tmp_path, content | {"classes": names})).classes == ("a cat", "a dog", "Ä")
    assert data.input_size == (3, 6, 5)
    for split, part in ((data.train, "train"), (data.test, "test")):
        x, y = next(split.batches(100))
        expected = np.broadcast_to(content[f"x_{part}"].reshape(len(x), 6, 5, -1), (len(x), 6, 5, 3))
        assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(y.numpy(), content[f"y_{part}"])


def test_npz_images_of_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    content = honest() | {"x_test": np.zeros((4, 9, 9, 3), np.uint8)}
    path = write(tmp_path, content)
    with pytest.raises(DataError, match="Set an image size"):
        load(path)
    data = load(path, image_size=7)
    assert next(data.train.batches(1))[0].shape == next(data.test.batches(1))[0].shape == (1, 3, 7, 7)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, honest())
    assert load("~/mine.npz").name == "npz:mine"


def test_constant_pixels_leave_a_positive_std(tmp_path: Path) -> None:
    data = load(write(tmp_path, honest() | {"x_train": np.full((12, 6, 5, 3), 255, np.uint8)}))
    assert data.mean == (1.0, 1.0, 1.0)
    assert min(data.std) > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x_train": np.zeros((12, 6, 5, 3), np.float32)}, "x_train .* holds float32, not uint8"),
        ({"x_test": np.zeros((4, 3, 6, 5), np.uint8)}, r"x_test .* has the shape \(4, 3, 6, 5\)"),
        ({"x_train": np.zeros((12, 0, 5, 3), np.uint8)}, r"x_train .* has the shape \(12, 0, 5, 3\)"),
        ({"x_train": np.zeros(12, np.uint8)}, r"x_train .* has the shape \(12,\)"),
        ({"y_train": np.zeros(12)}, "y_train .* holds float64, not integer labels"),
        ({"y_train": np.zeros(12, bool)}, "y_train .* holds bool, not integer labels"),
        ({"y_train": np.arange(11)}, r"y_train .* has the shape \(11,\), but x_train holds 12 images"),
        ({"y_train": np.eye(12, dtype=int)}, r"y_train .* has the shape \(12, 12\)"),
        ({"y_train": np.zeros(12, int)}, "only one class, '0'"),
        ({"y_train": np.arange(12) - 1}, "12 different labels between -1 and 10"),
        ({"y_train": np.arange(12) * 10**9}, "12 different labels between 0 and 11000000000"),
        (
            {"y_test": np.array([0, 1, 2, 3])},
            "test split of npz:mine holds the label 3, outside the 3 classes",
        ),
        ({"classes": np.array(["a", "b"])}, r"classes in .* has the shape \(2,\) and holds <U1; y_train has 3 labels"),
        ({"classes": np.arange(3)}, "classes in .* holds int64"),
        ({"y_test": np.array([0, 1, 2, -1])}, "test split of npz:mine holds the label -1"),
        (
            {"x_train": np.zeros((0, 6, 5, 3), np.uint8), "y_train": np.zeros(0, int)},
            "training split of npz:mine holds no images",
        ),
        (
            {"x_test": np.zeros((0, 6, 5, 3), np.uint8), "y_test": np.zeros(0, int)},
            "test split of npz:mine holds no images",
        ),
    ],
)
def test_each_npz_error_is_one_sentence(tmp_path: Path, change: Arrays, sentence: str) -> None:
    path = write(tmp_path, honest() | change)
    for image_size in (None, 8):
        with pytest.raises(DataError, match=sentence):
            load(path, image_size=image_size)


def test_a_missing_key_suggests_the_nearest(tmp_path: Path) -> None:
    content = honest()
    content["X_tain"] = content.pop("x_train")
    with pytest.raises(DataError, match=r"has no array x_train\. Did you mean 'X_tain'"):
        load(write(tmp_path, content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_zip(path: Path) -> None:
    path.write_text("no zip at all")


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path: Path) -> None:
    np.savez(path, **honest() | {"y_test": np.array([{}, 1, 2, 3], dtype=object)})


@pytest.mark.parametrize("spoil", [truncate, corrupt, empty, no_zip, single_array, pickled])
def test_a_broken_npz_gives_one_sentence(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **honest())
    spoil(path)
    with pytest.raises(DataError, match=r"cannot be read as a \.npz file") as caught:
        load(str(path))
    assert str(path) in caught.value.message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cats are red and dogs are blue, in every format and mode that people have."""
    root = tmp_path / "pets"
    for part in ("train", "val"):
        for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
            place = root / part / name
            (place / "more").mkdir(parents=True)
            Image.new("RGB", (40, 30), colour).save(place / "a.png")
            Image.new("RGB", (20, 50), colour).save(place / "b.jpg", quality=95)
            Image.new("RGBA", (30, 30), (*colour, 128)).save(place / "c.png")
            Image.new("P", (30, 30)).save(place / "more" / "d.png")
            Image.new("L", (33, 31), 128).save(place / "more" / "e.JPEG")
            (place / "notes.txt").write_text("not an image")
    return root


def test_an_image_folder_accepts_any_image_format(folder: Path) -> None:
    data = load(str(folder), image_size=24)
    assert data.name == "folder:pets"
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (10, 10)
    assert data.input_size == (3, 24, 24)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    x, _ = next(data.train.batches(10))
    assert x.shape == (10, 3, 24, 24)
    for row in (0, 1, 2):
        assert torch.allclose(x[row].mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.01)
    assert torch.allclose(x[4], torch.tensor(128 / 255), atol=0.01)
    assert data.mean[0] == pytest.approx(x[:, 0].mean().item(), abs=1e-4)


def test_images_of_mixed_sizes_need_an_image_size(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is 30×40, .* is .*--image-size"):
        load(str(folder))
    data = load(str(folder), default_size=20)
    assert data.input_size == (3, 20, 20)
    assert "Images of several sizes are fitted to the network's 20×20." in data.notes


def test_a_dataset_is_named_after_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load(".", image_size=8).name == "folder:pets"


@pytest.mark.parametrize("name", ["test", "validation"])
def test_the_test_split_has_three_possible_names(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / name)
    assert len(load(str(folder), image_size=8).test) == 10


def test_val_wins_over_test(folder: Path) -> None:
    (folder / "test").mkdir()
    assert len(load(str(folder), image_size=8).test) == 10


def no_train(folder: Path) -> None:
    shutil.rmtree(folder / "train")


def no_val(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def more_classes(folder: Path) -> None:
    shutil.copytree(folder / "val" / "cat", folder / "val" / "cow")
    (folder / "val" / "dog").rename(folder / "val" / "pig")


def empty_class(folder: Path) -> None:
    (folder / "train" / "cow").mkdir()
    (folder / "train" / "cow" / "README.md").touch()


def flat(folder: Path) -> None:
    for entry in list((folder / "val").iterdir()):
        shutil.rmtree(entry)
    Image.new("RGB", (8, 8)).save(folder / "val" / "a.png")


def one_class(folder: Path) -> None:
    for part in ("train", "val"):
        shutil.rmtree(folder / part / "dog")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_train, "has no folder train/"),
        (no_val, "has no folder val/ or test/"),
        (more_classes, "only train/ has dog; only val/ has cow, pig"),
        (empty_class, "There are no images in .*train for cow"),
        (flat, "val has no class folders"),
        (one_class, "only one class, 'cat'"),
    ],
)
def test_each_folder_error_is_one_sentence(folder: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=sentence):
        load(str(folder), image_size=8)


def test_a_truncated_image_is_named(folder: Path) -> None:
    broken = folder / "train" / "dog" / "b.jpg"
    os.truncate(broken, 200)
    with pytest.raises(DataError, match=r"dog/b\.jpg cannot be decoded"):
        load(str(folder), image_size=8)
