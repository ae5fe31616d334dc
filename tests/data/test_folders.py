"""Image folders with links, pipes, and names that nobody should meet in a training."""

import os
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from perturbify.data import load
from perturbify.data.folders import ImageFiles
from perturbify.errors import DataError


def grow(root: Path, classes: str | list[str] = "ab", each: int = 3) -> Path:
    number = 0
    for part in ("train", "val"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for k in range(each):
                number += 1
                Image.new("L", (9, 9), number).save(root / part / name / f"{k}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return grow(tmp_path / "set")


def counts(root: Path) -> tuple[int, int]:
    data = load(str(root), image_size=8)
    assert sum(len(x) for x, _ in data.train.batches(64)) == len(data.train)
    return len(data.train), len(data.test)


def test_the_order_matches_torchvision(root: Path) -> None:
    for place in ("a/deep/er", "a/deep", "a/deep-", "b/.hidden", "a/x.png"):
        (root / "train" / place).mkdir(parents=True, exist_ok=True)
        for name in ("10.png", "9.PNG", "c.jpeg", "d.tiff", "no.txt", "no", ".png"):
            Image.new("L", (9, 9)).save(root / "train" / place / name, "png")
    ours, theirs = ImageFiles(root / "train"), ImageFolder(root / "train")
    shown = [(path, label) for path, label in theirs.samples if not path.endswith("/.png") and "/.hidden/" not in path]
    assert ours.samples == shown and ours.classes == theirs.classes


LINKS: dict[str, tuple[list[tuple[str, str]], tuple[int, int]]] = {
    "to its own folder": ([("train/a/up", ".")], (6, 6)),
    "to the folder above": ([("train/a/up", ".."), ("train/a/up2", "..")], (6, 6)),
    "to everything": ([("train/a/all", "/")], (6, 6)),
    "to each other": ([("train/a/x", "../b"), ("train/b/x", "../a")], (6, 6)),
    "out and back": ([("pool/back", "../train/a"), ("pool/up", ".."), ("train/a/pool", "../../pool")], (7, 6)),
    "twice to one place": ([("train/a/p1", "../../pool"), ("train/a/p2", "../../pool")], (7, 6)),
    "to a file outside": ([("train/a/p.png", "../../pool/p.png")], (7, 6)),
    "to a file, twice": ([("train/a/p1.png", "../../pool/p.png"), ("train/a/p2.png", "../../pool/p.png")], (7, 6)),
    "to a file of its own class": ([("train/a/again.png", "0.png")], (6, 6)),
}


@pytest.mark.parametrize("name", LINKS)
def test_each_file_counts_once_despite_links(name: str, root: Path) -> None:
    links, expected = LINKS[name]
    (root / "pool").mkdir()
    Image.new("L", (9, 9)).save(root / "pool" / "p.png")
    for at, to in links:
        (root / at).symlink_to(to)
    assert counts(root) == expected


def test_parts_and_classes_may_be_links(tmp_path: Path) -> None:
    grow(tmp_path / "real")
    (tmp_path / "parts").mkdir()
    for part in ("train", "val"):
        (tmp_path / "parts" / part).symlink_to(tmp_path / "real" / part)
        (tmp_path / "classes" / part).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "classes" / part / name).symlink_to(tmp_path / "real" / part / name)
    prints = [load(str(tmp_path / kind), image_size=8).fingerprint for kind in ("real", "parts", "classes")]
    assert prints[0] == prints[1] == prints[2]


def linked(at: str, to: str) -> Callable[[Path], None]:
    return lambda root: (root / at).symlink_to(to)


def hard(at: str, to: str) -> Callable[[Path], None]:
    return lambda root: (root / at).hardlink_to(root / to)


def pipe(root: Path) -> None:
    os.mkfifo(root / "train" / "a" / "x.png")


def pipe_by_link(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "train" / "a" / "x.png").symlink_to("../../pipe")


def listens(root: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as opened:
        os.chdir(root / "train" / "a")  # a socket's path must be short
        opened.bind("x.png")
        os.chdir(here)


def test_is_train(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")


def class_of_test_is_of_train(root: Path) -> None:
    shutil.rmtree(root / "val" / "a")
    (root / "val" / "a").symlink_to("../train/a")


def two_classes_one_place(root: Path) -> None:
    (root / "pool").mkdir()
    for name in "cd":
        (root / "train" / name).symlink_to("../pool")


def file_of_two_classes_outside(root: Path) -> None:
    (root / "pool").mkdir()
    Image.new("L", (9, 9)).save(root / "pool" / "p.png")
    for name in "ab":
        (root / "train" / name / "more").symlink_to("../../pool")


test_is_train.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (pipe, r"train/a/x\.png is a pipe, not an image file"),
        (pipe_by_link, r"train/a/x\.png is a pipe"),
        (listens, r"train/a/x\.png is a socket"),
        (linked("train/a/x.png", "/dev/zero"), r"train/a/x\.png is a device"),
        (linked("train/a/x.png", "nowhere"), r"train/a/x\.png is a link that leads nowhere"),
        (linked("train/a/x.png", "x.png"), r"train/a/x\.png is a link that leads nowhere"),
        (linked("train/a/more", "/mnt/nowhere"), "train/a/more is a link that leads nowhere"),
        (linked("train/c", "/mnt/nowhere"), "train/c is a link that leads nowhere"),
        (linked("train/c", "a"), "train/c is a link to .*train/a, whose images belong to other classes"),
        (linked("train/c", "."), "train/c is a link to .*train, whose images belong to other classes"),
        (linked("train/c", ".."), "train/c is a link to .*, whose images belong to other classes"),
        (linked("train/c", "/"), "train/c is a link to /, whose images belong to other classes"),
        (two_classes_one_place, "The class folders .*train/c and .*train/d are the same folder"),
        (file_of_two_classes_outside, r"a/more/p\.png and .*b/more/p\.png are the same file, in two classes"),
        (linked("train/a/x.png", "../b/0.png"), "are the same file, in two classes"),
        (hard("train/a/x.png", "train/b/0.png"), "are the same file, in two classes"),
        (test_is_train, "train and val in .* are the same folder"),
        (class_of_test_is_of_train, "3 of the 6 test images are training images"),
        (linked("val/a/9.png", "../../train/a/1.png"), "val/a/9.png is the same file as .*train/a/1.png: 1 of the 7"),
        (linked("train/a/more", "../../val/b"), "3 of the 6 test images are training images"),
        (hard("val/a/9.png", "train/a/1.png"), "val/a/9.png is the same file as .*train/a/1.png: 1 of the 7"),
    ],
)
def test_invalid_entries_in_a_folder_are_named(spoil: Callable[[Path], None], sentence: str, root: Path) -> None:
    spoil(root)
    with pytest.raises(DataError, match=sentence) as caught:
        load(str(root), image_size=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            ["Cat", "cat"],
            "Classes 0 and 1 of .* have the same name, except for case, spaces or accents: 'Cat' and 'cat'",
        ),
        (["cat", "cat "], "have the same name, except for"),
        (["é", unicodedata.normalize("NFD", "é")], "have the same name, except for"),
        (["a", "a\u200b"], "have the same name, except for"),
        ([" ", "b"], "Class 0 of .* has no name"),
        (["\udcff", "b"], "is not UTF-8"),
    ],
)
def test_names_that_are_ambiguous_or_cannot_be_written(classes: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        load(str(grow(tmp_path / "set", classes)), image_size=8)


def test_a_folder_name_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name of the dataset .* is not UTF-8"):
        load(str(grow(tmp_path / "\udcff")), image_size=8)


def test_files_may_have_any_name(root: Path) -> None:
    for name in ("\udcff.png", "a\nb.png", "\x1b[31m.png", "x" * 251 + ".png"):
        Image.new("L", (9, 9)).save(root / "train" / "a" / name)
    assert counts(root) == (10, 6)
    broken = root / "train" / "a" / "\udcff.png"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"\\udcff\.png cannot be decoded"):
        list(load(str(root), image_size=8).train.batches(64))


def test_a_path_that_is_too_long(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root / "train" / "a")
    try:
        for _ in range(25):
            os.mkdir("d" * 200)  # noqa: PTH102 (the whole path is too long for any call)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        load(str(root), image_size=8)


@contextmanager
def without_roots_powers() -> Iterator[None]:
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "mode", "sentence"),
    [
        ("", 0o000, "cannot be read: Permission denied"),
        ("", 0o444, "cannot be read: Permission denied"),
        ("train", 0o000, "train cannot be read: Permission denied"),
        ("train/a", 0o111, "train/a cannot be read: Permission denied"),
        ("train/a/more", 0o000, "train/a/more cannot be read: Permission denied"),
        ("train/a", 0o444, r"train/a/more cannot be read: Permission denied"),
        ("train/a/1.png", 0o000, r"train/a/1\.png cannot be decoded: Permission denied"),
    ],
)
def test_unreadable_files_are_named(closed: str, mode: int, sentence: str) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to others
        Path(place).chmod(0o755)
        root = grow(Path(place) / "set")
        (root / "train" / "a" / "more").mkdir()
        list(load(str(root), image_size=8).train.batches(64))  # whatever is imported for it is
        (root / closed).chmod(mode)
        try:
            with without_roots_powers(), pytest.raises(DataError, match=sentence):
                load(str(root), image_size=8)
        finally:
            (root / closed).chmod(0o755)
