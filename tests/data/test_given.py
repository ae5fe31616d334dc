"""Images in the forms that Python has them in, their channels, and networks that take grey, colours or four bands."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from data_samples import honest
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

import perturbify
from perturbify import recipe, training
from perturbify.channels import channels
from perturbify.data import as_data, as_test, load
from perturbify.data.map_style import MapStyleSplit
from perturbify.errors import DataError, SurgeryError

X, Y = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for k in range(4):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                    tmp_path / "pets" / part / name / f"{k}.png"
                )
    return tmp_path / "pets"


def small(deep: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(deep, 4, 3), nn.Flatten(), nn.Linear(144, 2))


def npz(folder: Path, *shape: int) -> Path:
    y = np.arange(12) % 2
    np.savez(folder / "mine.npz", **honest(shape=shape) | {"y_train": y, "y_test": y[:4]})
    return folder / "mine.npz"


def test_data_sets_of_torch_are_read_lazily(folder: Path) -> None:
    val = ImageFolder(str(folder / "val"), ToTensor())
    forms = [val, DataLoader(val, 3, shuffle=True), Subset(val, range(8)), ImageFolder(str(folder / "val"))]
    expected = torch.stack([x for x, _ in val])
    for form in forms:
        part = as_test(form)
        assert isinstance(part.split, MapStyleSplit) and part.classes == ("cat", "dog")
        x, y = next(part.split.batches(8))
        assert torch.equal(x, expected) and y.tolist() == [0] * 4 + [1] * 4


class Dicts(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> dict:
        return {"pixel_values": X[row].numpy(), "labels": np.int64(Y[row])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def test_dicts_and_numbers_of_numpy_are_pairs() -> None:
    x, y = next(as_test(Dicts()).split.batches(8))
    assert torch.equal(x, X) and torch.equal(y, Y)


def test_a_loader_gives_what_it_yields() -> None:
    twice = DataLoader(TensorDataset(X, Y), 4, collate_fn=lambda items: (X[:2] / 2, Y[:2]))
    x, _ = next(as_test(twice).split.batches(9))
    assert torch.equal(x, torch.cat([X[:2] / 2] * 2))


PAIRS = {
    "tensors": lambda: ((X, Y), (X.numpy(), Y.tolist())),
    "a dict": lambda: {"train": TensorDataset(X, Y), "validation": DataLoader(TensorDataset(X, Y))},
    "random parts": lambda: random_split(TensorDataset(X, Y), [5, 3]),
}


@pytest.mark.parametrize("form", PAIRS)
def test_training_takes_both_parts(form: str, tmp_path: Path) -> None:
    settings = recipe.load("smoke", {"train.epochs": 1})
    result = training.finetune(small(), settings, tmp_path / "run", data=PAIRS[form](), device="cpu")
    assert len(result.metrics) == 1


WRONG = {
    "one part": (lambda: TensorDataset(X, Y), "others to test on"),
    "a stream": (lambda: (Stream(), Stream()), "stream that cannot be indexed"),
    "no test": (lambda: {"train": TensorDataset(X, Y)}, "no 'test'"),
    "two sizes": (lambda: ((X, Y), (X[..., :5], Y)), "3×8×5, but others are 3×8×8"),
    "grey levels": (lambda: ((255 * X).byte(), Y), "pixels are uint8|others to test"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_trained_on(what: str) -> None:
    given, said = WRONG[what]
    with pytest.raises(DataError, match=said):
        as_data(given())


def test_normalised_images_are_told() -> None:
    with pytest.raises(DataError, match=r"Image 0 .* from -.*seem to be normalised already.*--mean"):
        as_test(TensorDataset(X * 4 - 2, Y))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (8, 8, 4)], ids=str)
def test_networks_get_the_channels_they_take(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = npz(tmp_path, *shape)
    stored = shape[2] if len(shape) == 3 else 1
    for deep in {1, 3} if stored < 4 else {4}:
        report = perturbify.check(small(deep), path)
        assert any("channel" in remark for remark in report.remarks) == (deep != stored)
    settings = recipe.load("smoke", {"train.epochs": 1})
    result = training.finetune(small(stored), settings, tmp_path / "run", data=load(str(path)), device="cpu")
    assert result.model.surgery.plan.input_shapes == ((stored, 8, 8),)


def test_grey_stays_as_it_was_stored(tmp_path: Path) -> None:
    path = npz(tmp_path, 8, 8)
    repeated, grey = load(str(path)), load(str(path), channels=1)
    assert repeated.input_size == (3, 8, 8) and "grey" in repeated.notes[0]
    assert grey.input_size == (1, 8, 8) and len(grey.mean) == 1 and not grey.notes
    x, _ = next(grey.test.batches(4))
    assert np.array_equal((x[:, 0] * 255).round().byte().numpy(), np.load(path)["x_test"])
    assert grey.fingerprint["digest"] == repeated.fingerprint["digest"]


def test_four_bands_are_not_made_three(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="have 4 channels, not 3"):
        load(str(npz(tmp_path, 8, 8, 4)), channels=3)


def test_a_grey_network_of_timm_is_wrapped() -> None:
    network = perturbify.wrap(timm.create_model("test_resnet", in_chans=1))
    assert network.surgery.plan.input_shapes == ((1, 160, 160),) and channels(network) == 1
    with pytest.raises(SurgeryError, match=r"uint8.*images\.float\(\) / 255"):
        perturbify.predict(network, torch.zeros(1, 1, 160, 160, dtype=torch.uint8))
