"""Batches, orders and parts of a split, in memory and decoded."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from perturbify.data.folders import ImageFiles
from perturbify.data.split import DecodedSplit, MemorySplit, Split, as_rgb, fit
from perturbify.errors import DataError


def numbered(n: int) -> Split:
    """A split whose image k holds the pixel value k everywhere."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 4, 4)
    return MemorySplit(images, torch.arange(n) % 3)


def decoded(folder: Path, n: int, workers: int | None = None) -> Split:
    """The same, from PNG files on disk."""
    for k in range(n):
        path = folder / "abc"[k % 3] / f"{k:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (k, k, k)).save(path)
    dataset = ImageFolder(folder)
    split = DecodedSplit(dataset, torch.tensor(dataset.targets), 4, workers=workers)
    by_number = sorted(range(n), key=lambda k: Path(dataset.samples[k][0]).name)
    return split.subset(torch.tensor(by_number))


@pytest.fixture(params=["memory", "decoded", "workers"])
def ten(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    if request.param == "memory":
        return numbered(10)
    return decoded(tmp_path, 10, workers=2 if request.param == "workers" else None)


def pixel_values(split: Split, *args, **kwargs) -> list[list[int]]:
    return [(x[:, 0, 0, 0] * 255).round().int().tolist() for x, _ in split.batches(*args, **kwargs)]


def test_batches_hold_unit_interval_floats_and_int64_labels(ten: Split) -> None:
    batches = list(ten.batches(4))
    assert [tuple(x.shape) for x, _ in batches] == [(4, 3, 4, 4), (4, 3, 4, 4), (2, 3, 4, 4)]
    assert all(x.dtype == torch.float32 and y.dtype == torch.int64 for x, y in batches)
    assert torch.equal(torch.cat([y for _, y in batches]), ten.labels)
    for number, pixels in enumerate(torch.cat([x for x, _ in batches])):
        assert torch.equal(pixels, torch.full((3, 4, 4), number / 255))


def test_batches_follow_a_full_or_partial_order(ten: Split) -> None:
    order = torch.tensor([7, 0, 3, 9, 2])
    assert pixel_values(ten, 2, order=order) == [[7, 0], [3, 9], [2]]
    labels = torch.cat([y for _, y in ten.batches(2, order=order)])
    assert torch.equal(labels, order % 3)


@pytest.mark.parametrize("start", range(6))
def test_start_skips_batches_in_the_same_order(ten: Split, start: int) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    whole = pixel_values(ten, 3, order=order)
    assert pixel_values(ten, 3, order=order, start=start) == whole[start:]


def test_an_empty_order_gives_no_batch(ten: Split) -> None:
    assert list(ten.batches(4, order=torch.empty(0, dtype=torch.int64))) == []


def test_reading_leaves_the_global_random_state_alone(ten: Split) -> None:
    before = torch.get_rng_state()
    list(ten.batches(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_nested_subsets_keep_images_with_their_labels(ten: Split) -> None:
    part = ten.subset(torch.tensor([8, 1, 5])).subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert pixel_values(part, 2) == [[5, 8]]
    assert part.labels.tolist() == [2, 2]


def test_reading_does_not_change_what_is_stored() -> None:
    split = numbered(5)
    for x, _ in split.batches(5):
        x.zero_()
    assert pixel_values(split, 5) == [[0, 1, 2, 3, 4]]


def test_balanced_subsets_are_equal_by_class_and_nested() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    split = MemorySplit(torch.arange(73, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2), labels)
    assert split.balanced(6).labels.bincount().tolist() == [2, 2, 2]
    assert split.balanced(15).labels.bincount().tolist() == [6, 3, 6], "a small class gives what it has"
    values = pixel_values(split.balanced(15), 15)[0]
    assert values == sorted(values)
    assert set(pixel_values(split.balanced(7), 7)[0]) <= set(values)
    assert pixel_values(split.balanced(15), 15)[0] == values
    assert split.balanced(73) is split
    assert split.balanced(1_000) is split
    with pytest.raises(DataError, match="at least one image, not 0"):
        split.balanced(0)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_balanced_subsets_hold_exactly_n_images(ten: Split, n: int) -> None:
    part = ten.balanced(n)
    counts = part.labels.bincount(minlength=3)
    assert len(part) == n
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_in_one_sentence(tmp_path: Path, workers: int) -> None:
    split = decoded(tmp_path, 6, workers=workers)
    broken = tmp_path / "b" / "004.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError) as caught:
        list(split.batches(2))
    assert str(broken) in caught.value.message
    assert "Traceback" not in str(caught.value)


def on_disk(split: Split) -> list[Path]:
    return [Path(split.dataset.samples[row][0]) for row in split.rows.tolist()]


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("spoil", "sentence"), [(Path.unlink, "No such file or directory"), (become_a_pipe, "it is a pipe, not a file")]
)
def test_a_file_that_changes_mid_epoch_is_named(
    workers: int, spoil: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    decoded(tmp_path, 40)
    files = ImageFiles(tmp_path)
    split = DecodedSplit(files, files.labels, 4, workers=workers)
    batches = split.batches(2)
    next(batches)
    spoil(on_disk(split)[38])
    with pytest.raises(DataError, match=sentence) as caught:
        list(batches)
    assert str(on_disk(split)[38]) in caught.value.message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGBUS], ids=str)
def test_a_killed_worker_gives_one_clear_error(
    how: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = decoded(tmp_path, 200, workers=2).batches(2)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, how)
        child.join(10)
        child.kill()  # torch handles SIGBUS in its workers, and once that did not come to an end
        child.join()
    sum(range(10**6))  # the signal of its end has come, and stopped nothing
    with pytest.raises(DataError, match=r"A process that decodes images was killed.*shm-size"):
        list(batches)


def test_fit_resizes_the_shorter_side_and_centre_crops() -> None:
    image = torch.zeros(3, 10, 30, dtype=torch.uint8)
    image[:, :, 10:20] = 200
    assert torch.equal(fit(image, 10), torch.full((3, 10, 10), 200, dtype=torch.uint8))
    assert fit(image, 5).shape == (3, 5, 5)
    assert fit(image, 40).shape == (3, 40, 40)
    assert fit(image, 5)[:, :, 2:3].eq(200).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 32_896, 65_535]], dtype=np.uint16))
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [0, 128, 255]
