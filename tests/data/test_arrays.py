"""Arrays in .npz and .npy files that lie, and those that are too many for the memory."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import Arrays, honest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perturbify.data import Data, arrays, load, stored
from perturbify.data.split import MemorySplit
from perturbify.data.stored import StoredSplit
from perturbify.errors import DataError

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def made(shape: str, *, of: str = "|u1", data: bytes = b"", version: int = 1, fortran: bool = False) -> bytes:
    """A .npy file whose header says what it likes."""
    return raw(f"{{'descr': {of!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}", data, version)


def raw(header: str, data: bytes = b"", version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode("latin1") + data


def write(path: Path, *changes: tuple[str, bytes | np.ndarray | None], how: int = STORED) -> Path:
    """An archive as numpy's, some of its arrays replaced, left out, or added."""
    content = {f"{key}.npy": npy(array) for key, array in honest().items()}
    more = []
    for name, change in changes:
        given = npy(change) if isinstance(change, np.ndarray) else change
        if name not in content:
            more.append((name, given))
        elif given is None:
            del content[name]
        else:
            content[name] = given
    with zipfile.ZipFile(path, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        for name, given in [*content.items(), *more]:
            archive.writestr(name, given or b"")
    return path


X = "x_train.npy"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([(X, np.zeros(12, [("a", "u1")]))], r"x_train in .* holds \[\('a', 'u1'\)\], not uint8"),
        ([(X, np.zeros((12, 6, 5, 3), complex))], "x_train in .* holds complex128, not uint8"),
        ([(X, np.array(3, np.uint8))], r"x_train in .* has the shape \(\), not"),
        ([("y_train.npy", np.array(3))], r"y_train in .* has the shape \(\), but x_train holds 12 images"),
        ([("y_train.npy", np.arange(12).astype("m8[s]"))], "y_train in .* holds timedelta64.*, not integer labels"),
        ([("y_train.npy", np.array(list("abc" * 4)))], "y_train in .* holds <U1, not integer labels"),
        ([("y_train.npy", np.arange(12).astype(np.uint64) + 2**63)], "labels between 9223372036854775808 and"),
        ([("y_test.npy", np.array([0, 1, 2, 2**64 - 1], np.uint64))], "holds the label 18446744073709551615"),
        ([(X, made("(-12, -6, 5, 3)", data=bytes(1080)))], r"x_train has the shape \(-12, -6, 5, 3\)"),
        ([(X, made(f"({10**18}, 6, 5, 3)", data=bytes(1080)))], "90,000,000,000,000,000,000 bytes.* holds 1,080"),
        ([(X, made(f"({2**32}, {2**32}, 1, 3)"))], "bytes, but the file holds 0"),
        ([(X, made(f"(0, {2**40}, {2**40}, 3)")), ("y_train.npy", np.zeros(0, int))], "limit of 89,478,485 in all"),
        ([(X, made("(12, 6, 5, 3)", data=bytes(1079)))], "1,080 bytes, but the file holds 1,079"),
        ([(X, made("(12, 6, 5, 3)", data=bytes(1081)))], "1,080 bytes, but the file holds 1,081"),
        ([(X, made("(12, 6, 5, 3)", data=bytes(1080), version=3))], r"x_train has version \(3, 0\)"),
        ([(X, made("(12, 6, 5, 3)", data=bytes(1080), version=9))], r"x_train has version \(9, 0\)"),
        ([(X, raw("(" * 9000 + ")" * 900))], "cannot be read"),
        ([(X, raw("{'descr': print('run'), 'fortran_order': False, 'shape': (1,)}"))], "malformed node"),
        ([(X, raw(r"{'descr': '\q', 'fortran_order': False, 'shape': (1,)}"))], "descr is not a valid dtype"),
        ([(X, npy(honest()["x_train"])), ("x_train", b"")], "holds x_train twice"),
        ([(X, npy(honest()["x_train"])), (X[:-4] + ".npy", None)], "has no array x_train"),
        ([(X, None), ("/x_train.npy", npy(honest()["x_train"]))], "has no array x_train"),
        ([(X, None), ("../x_train.npy", npy(honest()["x_train"]))], "has no array x_train"),
        ([(f"more/{k}", b"") for k in range(1000)], "holds 1,004 files, more than 1,000"),
        ([("classes.npy", np.array(["a", "b", "a"]))], "Classes 0 and 2 of npz:mine have the same name: 'a' and 'a'"),
        ([("classes.npy", np.array(["a", "a ", "b"]))], "same name, except for spaces or accents: 'a' and 'a '"),
        ([("classes.npy", np.array(["é", "e\u0301", "b"]))], "same name, except for spaces or accents"),
        ([("classes.npy", np.array(["a", "a\u200b", "b"]))], "same name, except for spaces or accents"),
        ([("classes.npy", np.array(["a", "", "b"]))], "Class 1 of npz:mine has no name"),
        ([("classes.npy", np.array(["a", " \t", "b"]))], "Class 1 of npz:mine has no name"),
        ([("classes.npy", np.array(["a", "\udcff", "b"]))], "class 1 of npz:mine, .*, is not UTF-8"),
        ([("classes.npy", np.array(["a" * 1001, "b", "c"]))], "names of up to 1,001 characters, more than 1,000"),
        ([("classes.npy", np.array([b"a", b"b", b"c"]))], r"classes in .* holds \|S1"),
        ([("classes.npy", made("(3,)", of="<U1", data=struct.pack("<3I", 65, 0x110000, 66)))], "invalid characters"),
        ([("classes.npy", made("(3,)", of="<U0"))], "Class 0 of npz:mine has no name"),
    ],
)
def test_each_archive_error_is_one_sentence(
    changes: list[tuple[str, bytes | np.ndarray | None]], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        load(str(write(tmp_path / "mine.npz", *changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", [STORED, DEFLATED])
@pytest.mark.parametrize("header", ["objects", "text"])
def test_pickles_are_not_read(how: int, header: str, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    file = io.BytesIO()
    np.save(file, np.array([Runs()] * 12, object), allow_pickle=True)
    content = file.getvalue()
    if header == "text":
        content = content.replace(b"'|O'", b"'|u1'", 1).replace(b"} ", b"}", 1)
    with pytest.raises(DataError, match="cannot be read as"):
        load(str(write(tmp_path / "mine.npz", (X, content), how=how)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("(12, 6, 5, 3)", "has the shape .*, 1,080 bytes, but the file holds 268,435,456"),
        (f"(12, {2**22}, 1)", "bytes, but the file holds 268,435,456"),
        (f"(16, {2**24}, 1)", "needs 0.2 GiB of memory; only 0.1 GiB.*numpy.savez, not savez_compressed"),
    ],
)
def test_a_zip_bomb_is_recognised_by_its_header(
    shape: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {X: made(shape, data=bytes(2**28)), "y_train.npy": np.arange(16), "x_test.npy": made(f"(0, {2**24}, 1)")}
    path = write(tmp_path / "mine.npz", *content.items(), ("y_test.npy", np.zeros(0, int)), how=DEFLATED)
    assert path.stat().st_size < 2**20
    monkeypatch.setattr(arrays, "memory_to_use", lambda: 2**27)
    with pytest.raises(DataError, match=sentence):
        load(str(path))


def test_a_gigabyte_header_is_not_decompressed(tmp_path: Path) -> None:
    content = b"\x93NUMPY\2\0" + struct.pack("<I", 2**28) + bytes(2**28)
    with pytest.raises(DataError, match="expected 268435456 bytes got 65524"):
        load(str(write(tmp_path / "mine.npz", (X, content), how=DEFLATED)))


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(how: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x_train is compressed in a way that numpy does not use"):
        load(str(write(tmp_path / "mine.npz", how=how)))


# Fields of the first member in the archive's list, by their place there: struct formats and lies.
LIES = {
    "encrypted": (8, "<H", 1),
    "another method": (10, "<H", 99),
    "another checksum": (16, "<L", 1),
    "more compressed bytes": (20, "<L", 2**31),
    "more bytes": (24, "<L", 2**31),
    "endless bytes": (24, "<L", 2**32 - 1),
    "another place": (42, "<L", 10**6),
    "the second's place": (42, "<L", 1208 + 41),
    "a newer version": (6, "<H", 99),
}


@pytest.mark.parametrize("how", [STORED, DEFLATED])
@pytest.mark.parametrize("lie", LIES)
def test_an_archive_with_a_false_directory(lie: str, how: int, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", how=how)
    content = bytearray(path.read_bytes())
    at, form, value = LIES[lie]
    struct.pack_into(form, content, content.index(b"PK\1\2") + at, value)
    if lie == "encrypted":
        struct.pack_into("<H", content, 6, 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a \.npz file without pickle"):
        load(str(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_corrupted_archive_never_yields_other_data(tmp_path: Path, data: st.DataObject) -> None:
    path = write(tmp_path / "mine.npz", how=data.draw(st.sampled_from([STORED, DEFLATED])))
    content = bytearray(path.read_bytes())
    for at, by in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[at] = by
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    path.write_bytes(content)
    try:
        found = load(str(path))
    except DataError:
        return
    # Bytes between the arrays, and times, may change; what is read may not, for each array has its checksum.
    x = next(found.train.batches(12))[0] * 255
    assert np.array_equal(x.round().byte().permute(0, 2, 3, 1).numpy(), honest()["x_train"])


def contents(data: Data) -> list[torch.Tensor]:
    return [tensor for part in (data.train, data.test) for pair in part.batches(5) for tensor in pair]


def same(one: Data, other: Data) -> bool:
    pairs = zip(contents(one), contents(other), strict=True)
    return one.mean == other.mean and all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def left_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if few images were many."""
    monkeypatch.setattr(arrays, "STAYS", 0)


def as_folder(folder: Path, content: Arrays) -> Path:
    folder.mkdir(exist_ok=True)
    for key, array in content.items():
        np.save(folder / f"{key}.npy", array)
    return folder


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1), (6, 5)], ids=str)
@pytest.mark.parametrize("image_size", [None, 4, 9])
def test_images_left_on_disk_are_bit_identical(
    shape: tuple[int, ...], image_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = honest(shape=shape) | {"classes": np.array(["cat", "dog", "cow"])}
    np.savez(tmp_path / "mine.npz", **content)
    ways = [str(tmp_path / "mine.npz"), str(as_folder(tmp_path / "mine", content))]
    channels = 3 if shape[2:] == (3,) else 1
    held = [load(way, image_size=image_size, channels=channels) for way in ways]
    assert [data.name for data in held] == ["npz:mine", "npy:mine"]
    monkeypatch.setattr(arrays, "STAYS", 0)
    for data in [load(way, image_size=image_size, channels=channels) for way in ways]:
        train = data.train
        assert isinstance(train, StoredSplit) and isinstance(held[0].train, MemorySplit)
        assert all(same(data, one) and data.fingerprint == one.fingerprint for one in held)
        assert train.bytes == held[0].train.bytes
        on_device = train.to(torch.device("cpu"))
        assert isinstance(on_device, MemorySplit) and torch.equal(on_device.images, held[0].train.images)
        for one, other in zip(train.divided(5), held[0].train.divided(5), strict=True):
            assert one.digest() == (other.digest() if image_size is None else one.digest())
            assert torch.equal(next(one.batches(9))[0], next(other.batches(9))[0])
        assert torch.equal(train.balanced(4).labels, held[0].train.balanced(4).labels)


def test_compressed_or_fortran_arrays_are_read_whole(tmp_path: Path, left_in_files: None) -> None:
    content = honest()
    np.savez(tmp_path / "c.npz", **content)
    np.savez(tmp_path / "fortran.npz", **content | {"x_train": np.asfortranarray(content["x_train"])})
    np.savez_compressed(tmp_path / "compressed.npz", **content)
    first = load(str(tmp_path / "c.npz"))
    for name in ("fortran", "compressed"):
        data = load(str(tmp_path / f"{name}.npz"))
        assert isinstance(data.train, MemorySplit) and same(data, first)


def test_labels_may_have_any_integer_type(tmp_path: Path) -> None:
    for kind in ("<i2", ">i8", "u1", "<u8"):
        np.savez(tmp_path / "mine.npz", **honest() | {"y_train": (np.arange(12) % 3).astype(kind)})
        assert load(str(tmp_path / "mine.npz")).train.labels.tolist() == [0, 1, 2] * 4


def test_an_archive_after_other_bytes_is_read_correctly(tmp_path: Path, left_in_files: None) -> None:
    np.savez(tmp_path / "mine.npz", **honest())
    before = load(str(tmp_path / "mine.npz"))
    (tmp_path / "late.npz").write_bytes(b"#!/bin/sh\n" * 50 + (tmp_path / "mine.npz").read_bytes())
    assert same(load(str(tmp_path / "late.npz")), before)


def test_enlarged_images_beyond_memory_are_resized_per_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "mine.npz", **honest())
    held = load(str(tmp_path / "mine.npz"), image_size=16)
    monkeypatch.setattr(stored, "memory_to_use", lambda: 12 * 3 * 16 * 16 - 1)
    data = load(str(tmp_path / "mine.npz"), image_size=16)
    assert isinstance(held.train, MemorySplit) and isinstance(data.train, StoredSplit)
    assert same(data, held) and data.fingerprint == held.fingerprint


def cut(path: Path) -> None:
    os.truncate(path, 1_000)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def replace(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(cut, "has changed"), (grow, "has changed"), (Path.unlink, "No such file"), (replace, "is a pipe")],
)
def test_a_file_that_changes_during_reading_is_named(
    spoil: Callable[[Path], None], sentence: str, tmp_path: Path, left_in_files: None
) -> None:
    folder = as_folder(tmp_path / "mine", honest())
    batches = load(str(folder)).train.batches(2)
    next(batches)
    spoil(folder / X)
    with pytest.raises(DataError, match=rf"x_train\.npy.*{sentence}"):
        next(batches)


def test_an_incomplete_folder_of_arrays(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "mine", honest())
    (folder / "y_test.npy").rename(folder / "y_tset.npy")
    with pytest.raises(DataError, match=r"mine has no array y_test\. Did you mean 'y_tset'"):
        load(str(folder))
    (folder / "y_test.npy").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"y_test\.npy cannot be read: No such file"):
        load(str(folder))
    (folder / "y_test.npy").unlink()
    os.mkfifo(folder / "y_test.npy")
    with pytest.raises(DataError, match=r"y_test\.npy is a pipe, not a file"):
        load(str(folder))


MILLION = """
import resource, sys
import torch
from perturbify import data

torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = data.load(sys.argv[1])
assert len(found.train) == 10**6 and len(found.train.balanced(100)) == 100
order = torch.randperm(10**6, generator=torch.Generator().manual_seed(0))[:20_000]
assert sum(len(x) for x, _ in found.train.batches(128, order=order)) == 20_000
print(found.fingerprint["digest"], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_million_images_cost_no_memory(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "mine", honest(shape=(16, 16, 3)) | {"y_train": np.arange(10**6) % 3})
    with (folder / X).open("wb") as file:
        file.write(made("(1000000, 16, 16, 3)"))
        file.seek(10**6 * 16 * 16 * 3 - 1, os.SEEK_CUR)  # sparse: it takes no room on the disk either
        file.write(b"\1")
    done = subprocess.run([sys.executable, "-c", MILLION, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[1]) < 200  # of 768 MB; some is for labels and orders
