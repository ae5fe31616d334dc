"""Names, and the datasets behind them."""

import hashlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from perturbify.data import Data, dataset_names, load
from perturbify.data.builtin import default_root
from perturbify.data.timm_datasets import _classes
from perturbify.errors import DataError


def pixels(data: Data) -> torch.Tensor:
    return torch.cat([x for part in (data.train, data.test) for x, _ in part.batches(512)])


def test_digits_are_complete_and_split_evenly() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test)) == (1_442, 355)
    assert data.classes == tuple("0123456789")
    assert data.input_size == (3, 8, 8)
    total = data.train.labels.bincount() + data.test.labels.bincount()
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the source counts them
    assert torch.equal(data.test.labels.bincount(), total // 5)
    x = pixels(data)
    assert x.min() == 0
    assert x.max() == 1
    assert torch.equal(x[:, 0], x[:, 2])
    assert torch.equal(pixels(load("digits")), x)


def test_digits_match_earlier_versions() -> None:
    """Which took them from scikit-learn: pixels, labels and order bit for bit, so that old figures stay comparable."""
    data, seen = load("digits"), hashlib.sha256()
    for part in (data.train, data.test):
        for x, y in part.batches(512):
            seen.update((x * 255).round().to(torch.uint8).numpy().tobytes())
            seen.update(y.numpy().tobytes())
    assert seen.hexdigest() == "84cdb802c28767f42130e798cd42c5f5795fa65e3889b017ba8d8aa535fcbb6b"
    assert data.fingerprint["digest"] == "efd5eb6baefd61bb7124e521eeb63d8a"


def test_mean_and_std_match_the_training_pixels() -> None:
    data = load("digits")
    (x, _) = next(data.train.batches(len(data.train)))
    assert data.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=0.005)
    assert data.std == pytest.approx(x.std((0, 2, 3)).tolist(), abs=0.005)


def test_an_image_size_enlarges_images_in_memory() -> None:
    data = load("digits", image_size=12)
    assert data.input_size == (3, 12, 12)
    assert next(data.test.batches(2))[0].shape == (2, 3, 12, 12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar-10", "Did you mean 'cifar10'"),
        ("digit", "Did you mean 'digits'"),
        ("CIFAR100", "'cifar100'"),
        ("no/such/path", "There is no dataset, file or folder 'no/such/path'"),
        ("~nobody-here/x.npz", "There is no dataset"),
        ("a\0b", "There is no dataset"),
        ("\udcff", "There is no dataset"),
        ("pyproject.toml/x", "There is no dataset"),
    ],
)
def test_an_unknown_name_suggests_names_and_paths(name: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name)
    assert expected in str(caught.value)
    assert "A path to a .npz file or to an image folder works too." in str(caught.value)


def test_a_misspelt_path_suggests_nearby_files(tmp_path: Path) -> None:
    (tmp_path / "flowers.npz").touch()
    with pytest.raises(DataError, match=r"Did you mean 'flowers\.npz'"):
        load(str(tmp_path / "flower.npz"))


def test_an_unsupported_file_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.txt").touch()
    with pytest.raises(DataError, match=r"neither a \.npz file nor a folder"):
        load(str(tmp_path / "data.txt"))


def test_paths_that_lead_to_no_usable_file(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.npz").symlink_to("pipe")
    (tmp_path / "x_train.npy").touch()
    for name, sentence in {
        "": "The name of the dataset is empty",
        f"{tmp_path}/broken": "broken is a link that leads nowhere",
        f"{tmp_path}/loop": "loop cannot be read: Too many levels of symbolic links",
        f"{tmp_path}/pipe": "pipe is neither a .npz file nor a folder, but a pipe",
        f"{tmp_path}/pipe.npz": "but a pipe",
        f"{tmp_path}/x_train.npy": "A folder with x_train.npy, y_train.npy, x_test.npy, y_test.npy works, too",
        "/dev/zero": "/dev/zero is neither a .npz file nor a folder, but a device",
        "n" * 256: "cannot be read: File name too long",
        "/".join(["n" * 200] * 30): "cannot be read: File name too long",
    }.items():
        with pytest.raises(DataError) as caught:
            load(name)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["~nobody-here", "\0", "n" * 300, "/dev/null"])
@pytest.mark.parametrize("name", ["cifar10", "torch/mnist", "torch/image_folder"])
def test_an_invalid_root(root: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError):
        load(name, root=root)
    monkeypatch.setenv("PERTURBIFY_DATA", "~nobody-here")
    with pytest.raises(DataError):
        load(name)


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(DataError, match="must be at least one pixel"):
        load("digits", image_size=size)


def test_an_enormous_image_size_is_refused() -> None:
    for sizes in ({"image_size": 10**9}, {"default_size": 10_001}):
        with pytest.raises(DataError, match="must be at most 10,000 pixels"):
            load("digits", **sizes)


def test_the_built_in_dataset_names() -> None:
    assert dataset_names() == ("cifar10", "cifar100", "digits")


def test_the_default_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERTURBIFY_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("PERTURBIFY_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache/perturbify/data"


class Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar_is_reported_and_nothing_created(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(name, root=tmp_path / "data")
    assert str(tmp_path / "data" / "cifar-10") in str(caught.value)
    assert "--download" in caught.value.hint
    assert "--data FOLDER" in caught.value.hint
    assert not (tmp_path / "data").exists()


def test_cifar_without_network_access_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # a port where nobody answers
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DataError, match=r"cifar10 cannot be downloaded to .*Offline"):
        load("cifar10", root=tmp_path, download=True)


@pytest.mark.parametrize("as_path", [True, False])
def test_cifar_files_with_another_md5_are_refused(as_path: bool, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    ran = tmp_path / "ran"
    for part in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / part).write_bytes(pickle.dumps(Runs(ran)))
    with pytest.raises(DataError, match="its md5 differs"):
        load(str(tmp_path)) if as_path else load("cifar10", root=tmp_path)
    assert not ran.exists()
    assert pickle.loads((folder / "test_batch").read_bytes()) is None and ran.exists(), "which is what it would do"


def test_a_pipe_in_place_of_cifar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    os.mkfifo(tmp_path / "cifar-100-python" / "train")
    with pytest.raises(DataError, match="its md5 differs"):
        load(str(tmp_path))


def write_mnist(root: Path, count: int = 30) -> np.ndarray:
    """MNIST's own file format, as torchvision unpacks it."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())
    return images


def test_a_torchvision_set_keeps_its_own_size(tmp_path: Path) -> None:
    images = write_mnist(tmp_path)
    data = load("torch/mnist", root=tmp_path)
    assert data.name == "torch/mnist"
    assert data.input_size == (3, 28, 28)
    assert data.classes[3] == "3 - three"
    x, y = next(data.train.batches(30))
    assert torch.equal((x * 255).round().byte(), torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(y, torch.arange(30) % 10)
    assert load("torch/mnist", root=tmp_path, image_size=16).input_size == (3, 16, 16)


def test_qmnist_labels_are_the_digits(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    table = np.full((20, 8), 77, dtype=">i4")
    table[:, 0] = np.arange(20) % 10
    for part in ("train", "test"):
        (raw / f"qmnist-{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, 20, 28, 28) + bytes(20 * 28 * 28)
        )
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(struct.pack(">3i", 0xC02, 20, 8) + table.tobytes())
    data = load("torch/qmnist", root=tmp_path)
    assert data.train.labels.tolist() == [*range(10), *range(10)]


def test_torchvisions_image_folder_keeps_its_splits_apart(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for k, name in enumerate("ab" * count):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"{k}.png")
    data = load("torch/image_folder", root=tmp_path, image_size=8)
    assert (len(data.train), len(data.test)) == (6, 4)


def test_a_missing_torchvision_set_explains_the_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train split of torch/qmnist cannot be loaded") as caught:
        load("torch/qmnist", root=tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "\n" not in str(caught.value)
    assert "--download" in caught.value.hint


def test_an_unknown_torchvision_set_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'qmnist'"):
        load("torch/qmnits", root=tmp_path)


@pytest.mark.parametrize("name", ["tfds/mnist", "hfids/user/name"])
def test_streams_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="is a stream that cannot be indexed"):
        load(name)


def test_a_local_folder_is_not_a_hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user" / "set").mkdir(parents=True)
    (tmp_path / "user" / "set" / "set.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="names a file or folder here"):
        load("hfds/user/set")


def test_classes_with_equal_names_are_told_apart() -> None:
    cranes = SimpleNamespace(classes=[("crane", "wader"), ("crate",), ("crane",)])
    assert _classes(cranes, np.arange(3)) == ("crane (0)", "crate", "crane (2)")


def test_importing_the_data_package_stays_light() -> None:
    code = "import sys, perturbify.data; print({'torchvision', 'timm', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
