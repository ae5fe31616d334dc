"""What a folder or table of images leaves open: the order of its classes, the size of its images, what is white."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perturbify.data import load
from perturbify.data.images import Unreadable, decode
from perturbify.errors import DataError


def grow(root: Path, classes: list[str], side: int = 8) -> str:
    for part in ("train", "val"):
        for k, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            Image.new("L", (side, side), 20 * k).save(root / part / name / "x.png")
    return str(root)


NUMBERS = [str(k) for k in range(12)]


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    root = grow(tmp_path, ["cat", "dog", ".ipynb_checkpoints", "__MACOSX"])
    (tmp_path / "train" / "cat" / "._x.png").write_text("of a file manager")
    data = load(root)
    assert data.classes == ("cat", "dog") and len(data.train) == 2
    assert any(".ipynb_checkpoints, __MACOSX" in note for note in data.notes)


def test_timms_order_is_offered_and_taken(tmp_path: Path) -> None:
    root = grow(tmp_path, NUMBERS)
    by_name, natural = load(root), load(root, class_order="natural")
    assert by_name.classes == tuple(sorted(NUMBERS)) and natural.classes == tuple(NUMBERS)
    assert any(note.startswith("warning: timm's order differs") for note in by_name.notes)
    assert not any(note.startswith("warning") for note in load(root, class_order="sorted").notes)
    x, y = next(natural.test.batches(12))
    assert (x[:, 0, 0, 0] * 255 / 20).round().long().tolist() == y.tolist()


@pytest.mark.parametrize(
    "text", ["dog\ncat\n", '["dog", "cat"]', json.dumps({"cat": 1, "dog": 0})], ids=["lines", "list", "object"]
)
def test_a_file_says_the_order(text: str, tmp_path: Path) -> None:
    root = grow(tmp_path / "set", ["cat", "dog"])
    (tmp_path / "classes.txt").write_text(text)
    data = load(root, class_order=str(tmp_path / "classes.txt"))
    assert data.classes == ("dog", "cat")
    x, y = next(data.train.batches(2))
    assert y.tolist() == [0, 1] and x[0].max() > x[1].max() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat\n", "lacks dog"),
        ("cat\ndog\ncow\n", "names cow"),
        ("cat\ncat\n", "twice"),
        ("[1", "not valid JSON"),
        ("", "no cl"),
    ],
)
def test_a_wrong_order_is_told(text: str, said: str, tmp_path: Path) -> None:
    root = grow(tmp_path / "set", ["cat", "dog"])
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        load(root, class_order=str(tmp_path / "classes.txt"))
    with pytest.raises(DataError, match="Did you mean 'natural'"):
        load(root, class_order="naturl")


def test_a_common_size_is_kept(tmp_path: Path) -> None:
    data = load(grow(tmp_path, ["a", "b"], side=64), default_size=224)
    assert data.input_size == (3, 64, 64) and "Images keep their own size, 64×64." in data.notes


def test_an_odd_image_behind_the_look_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perturbify.data.looking.LOOKED_AT", 1)
    root = grow(tmp_path, ["a", "b"])
    Image.new("L", (9, 8)).save(tmp_path / "train" / "b" / "y.png")
    with pytest.raises(DataError, match=r"y\.png is 8×9, but others are 8×8.*--image-size"):
        list(load(root).train.batches(9))


def saved(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_by_their_range(kind: str) -> None:
    deep = np.array([[0, 257 * 100], [257 * 200, 65_535]], np.uint16)
    content = b"P5\n2 2\n65535\n" + deep.astype(">u2").tobytes() if kind == "pgm" else saved(deep, kind)
    assert np.asarray(decode(content))[..., 0].tolist() == [[0, 100], [200, 255]]


def test_floats_are_pixels_or_refused() -> None:
    assert np.asarray(decode(saved(np.array([[0, 1.0]], np.float32), "tiff")))[0, :, 0].tolist() == [0, 255]
    for values in (np.array([[0, 300.0]], np.float32), np.array([[0, 70_000]], np.int32), np.full((1, 2), np.nan, "f")):
        with pytest.raises(Unreadable, match="nothing says which value is white"):
            decode(saved(values, "tiff"))


def manifest(folder: Path, rows: list[str], head: str = "path,label,split") -> str:
    for k in range(4):
        Image.new("L", (8, 8), k).save(folder / f"{k}.png")
    (folder / "m.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder / "m.csv")


ROWS = ["0.png,cat,train", "1.png,dog,train", "2.png,dog,val", "3.png,cat,val"]


def test_a_manifest_names_images_and_parts(tmp_path: Path) -> None:
    data = load(manifest(tmp_path, ROWS))
    assert data.name == "manifest:m" and data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1] and data.test.labels.tolist() == [1, 0]
    text = (tmp_path / "m.csv").read_text()
    for name, between in (("m.tsv", "\t"), ("spreadsheet.csv", ";"), ("bom.csv", ",")):
        (tmp_path / name).write_text("\ufeff" + text.replace(",", between), encoding="utf-8")
        assert load(str(tmp_path / name)).fingerprint["digest"] == data.fingerprint["digest"]
    numbers = load(manifest(tmp_path, [row.replace("cat", "0").replace("dog", "1") for row in ROWS]))
    assert numbers.classes == ("0", "1") and numbers.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("path,label,split", "../x.png,cat,train", "Row 6 .* leaves the manifest's folder"),
        ("path,label,split", "no.png,cat,train", "Row 6 .* no such file"),
        ("path,label,split", "0.txt,cat,train", "Row 6 .* does not end like an image file"),
        ("path,label,split", "0.png,cat,later", "Row 6 .* split 'later'"),
        ("path,label,split", "0.png,,train", "Row 6 .* no label"),
        ("path,label,split", "0.png,cat", "Row 6 .* 2 cells"),
        ("path,label,split", "0.png,cat,val", "Rows 2 and 6 .* both splits"),
        ("path,label,what", "0.png,cat,x", "no column split"),
        ("path,lable,split", "0.png,cat,train", "no column label.*Did you mean 'lable'"),
    ],
)
def test_a_wrong_row_is_named(head: str, row: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        load(manifest(tmp_path, [*ROWS, row], head))


def test_a_parquet_manifest(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    manifest(tmp_path, ROWS)
    columns = zip(*(row.split(",") for row in ROWS), strict=True)
    parquet.write_table(
        pyarrow.table(dict(zip(("path", "label", "split"), columns, strict=True))), tmp_path / "m.parquet"
    )
    assert load(str(tmp_path / "m.parquet")).classes == ("cat", "dog")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_shards_are_read_into_memory(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    splits = {}
    for part in ("train", "validation"):
        with webdataset.TarWriter(str(tmp_path / f"{part}.tar")) as shard:
            for k in range(4):
                shard.write({"__key__": f"{k}", "png": saved(np.full((8, 8), k, np.uint8), "png"), "cls": k % 2})
        splits[part] = {"name": part, "num_samples": 4, "filenames": [f"{part}.tar"], "shard_lengths": [4]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    data = load(f"wds/{tmp_path.name}", root=tmp_path.parent)
    assert data.input_size == (3, 8, 8) and data.test.labels.tolist() == [0, 1, 0, 1]
