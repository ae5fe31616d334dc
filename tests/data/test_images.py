"""Image files that lie or ask for too much, and that honest ones come out as they always did."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from perturbify.data import images
from perturbify.data.images import BYTES, PIXELS, Unreadable, as_rgb, decode, fit, fit_all, open_rgb


def resized_and_cropped(x: Tensor, size: int) -> Tensor:
    return F.center_crop(F.resize(x, [size], antialias=True), [size, size])


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(3, 40, 30), (3, 375, 500), (1, 28, 28), (3, 9, 900), (5, 3, 32, 20)], ids=str)
@pytest.mark.parametrize("size", [7, 32, 224])
def test_ordinary_images_match_plain_resize_and_crop(shape: tuple[int, ...], size: int) -> None:
    x = noise(*shape)
    assert torch.equal(fit(x, size), resized_and_cropped(x, size))


@pytest.mark.parametrize("shape", [(3, 1, 500), (3, 3, 700), (3, 900, 7), (1, 5, 5000), (2, 3, 300, 41)], ids=str)
def test_a_long_strip_matches_up_to_rounding(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(*shape)
    expected = resized_and_cropped(x, 32)
    monkeypatch.setattr(images, "PIXELS", 32 * 32)  # as if it were too long
    assert (fit(x, 32).int() - expected.int()).abs().max() <= 1


def test_a_batch_is_resized_like_single_images(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(50, 3, 32, 20)
    monkeypatch.setattr(images, "_AT_ONCE", 20_000)
    assert torch.equal(fit_all(x, 48), resized_and_cropped(x, 48))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, more: bytes = b"", rows: int | None = None) -> bytes:
    """A grey PNG of zeros, in as few bytes as can be."""
    squeezed = zlib.compressobj(9)
    pixels = squeezed.compress(bytes((width + 1) * (height if rows is None else rows))) + squeezed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def small(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (9, 7), 80 if len(mode) == 1 or mode.startswith("I") else None)


def patched(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


def tiff(*tags: tuple[int, int, int, int], data: bytes = bytes(100)) -> bytes:
    """A TIFF of 5×5 grey pixels with further tags, each (tag, type, count, value); the data come last."""
    honest = [(256, 3, 1, 5), (257, 3, 1, 5), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    honest += [(277, 3, 1, 1), (279, 4, 1, 25)]
    own = {tag[0]: tag for tag in honest} | {tag[0]: tag for tag in tags}
    entries = b"".join(struct.pack("<HHLL", *own[tag]) for tag in sorted(own))
    return struct.pack("<2sHLH", b"II", 42, 8, len(own)) + entries + bytes(4) + data


def jpeg_of_many_passes() -> bytes:
    content = saved(Image.new("L", (64, 64), 128), "jpeg", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 101 + content[-2:]


# What it is, and what is said of it.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PNG of 13,000²": (lambda: png(13_000, 13_000, rows=1), "169,000,000 pixels, more than 89,478,485"),
    "a PNG just too large": (lambda: png(PIXELS + 1, 1, rows=0), "89,478,486 pixels"),
    "a PNG of 2³¹": (lambda: png(2**31 - 1, 1, rows=0), "2,147,483,647 pixels"),
    "a PNG of nothing": (lambda: png(0, 5), "none of JPEG, PNG"),
    "a bomb of text": (lambda: png(5, 5, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24)))), "too large"),
    "a bomb of colours": (lambda: png(5, 5, more=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24)))), "too large"),
    "a PNG of many chunks": (lambda: png(5, 5, more=chunk(b"abcd", b"") * 100_001), "more than 100,000 chunks"),
    "a truncated PNG": (lambda: saved(Image.effect_noise((50, 50), 50), "png")[:1000], "truncated"),
    "a JPEG of 65,500²": (
        lambda: (lambda c: patched(c, c.index(b"\xff\xc0") + 5, struct.pack(">HH", 65_500, 65_500)))(
            saved(small(), "jpeg")
        ),
        "4,290,250,000 pixels",
    ),
    "a JPEG of many passes": (jpeg_of_many_passes, "more than 100 scans"),
    "a JPEG of much EXIF": (
        lambda: b"\xff\xd8" + b"\xff\xe1\0\x0aExif\0\0ab" * 101 + saved(small(), "jpeg")[2:],
        "101 segments of EXIF",
    ),
    "a JPEG of many parts": (
        lambda: b"\xff\xd8" + b"\xff\xfe\0\x02" * 10_001 + saved(small(), "jpeg")[2:],
        "more than 10,000 segments",
    ),
    "a GIF of 65,535²": (lambda: patched(saved(small("P"), "gif"), 6, b"\xff" * 4), "4,294,836,225 pixels"),
    "a BMP of 40,000²": (
        lambda: patched(saved(small(), "bmp"), 18, struct.pack("<ii", 40_000, 40_000)),
        "1,600,000,000 pixels",
    ),
    "a PPM of 100,000²": (lambda: b"P6\n100000 100000\n255\n", "10,000,000,000 pixels"),
    "a PPM of no end": (lambda: b"P6\n" + b"9" * 10**6, "Token too long|ValueError"),
    "a TIFF of 20,000²": (lambda: saved(Image.new("1", (20_000, 20_000)), "tiff", compression="group4"), "400,000,000"),
    "a TIFF of one vast tile": (
        lambda: tiff((322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 25)),
        "40,000×40,000 pixels",
    ),
    "a TIFF of many numbers": (
        lambda: tiff((273, 4, 2**20 + 1, 150), data=bytes(2**22 + 100)),
        "numbers in its tags, more than 1,048,576",
    ),
    "a TIFF that reads itself": (
        lambda: tiff(*((1000 + k, 7, 10**6, 150) for k in range(9)), data=bytes(10**6)),
        "9,000,000 bytes in its tags",
    ),
    "a TIFF that ends in its tags": (lambda: tiff()[:30], "unpack"),
    "a TIFF of the other big sort": (lambda: b"MM\0\x2b" + bytes(8), "tags|unpack|none of"),
    "a program for a printer": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n",
        "none of JPEG, PNG, GIF, BMP, PPM, TIFF, WEBP",
    ),
    "nothing": (lambda: b"", "none of JPEG"),
    "a drawing": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_corrupt_or_oversized_images_are_refused_with_reasons(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(Unreadable, match=reason):
        decode(make())


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("jpeg", mode) for mode in ("L", "RGB", "CMYK")),
        *(("tiff", mode) for mode in ("1", "L", "RGB", "CMYK", "LAB", "I;16")),
        *(("gif", "P"), ("bmp", "RGB"), ("ppm", "RGB"), ("webp", "RGBA")),
    ],
)
def test_decoded_pixels_match_pillow(kind: str, mode: str) -> None:
    content = saved(small(mode), kind)
    image = decode(content)
    with Image.open(io.BytesIO(content)) as expected:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(as_rgb(expected)))


@pytest.mark.parametrize("how", [{"save_all": True}, {"save_all": True, "compression": "tiff_lzw"}], ids=str)
def test_the_first_of_several_frames_is_read(how: dict) -> None:
    frames = [Image.new("RGB", (9, 9), (k, k, k)) for k in range(1, 30)]
    for kind in ("tiff",) if "compression" in how else ("tiff", "gif", "webp", "png"):
        lossless = {"lossless": True} if kind == "webp" else {}
        image = decode(saved(frames[0], kind, append_images=frames[1:], **how, **lossless))
        assert np.asarray(image).max() == 1


def test_a_photo_followed_by_video_is_read() -> None:
    content = saved(Image.effect_noise((64, 48), 50), "jpeg", progressive=True)
    film = np.random.default_rng(0).bytes(2**20) + b"\xff\xda" * 200
    assert decode(content + film).size == (64, 48)


def test_scan_markers_in_jpeg_metadata_do_not_count() -> None:
    content = saved(small(), "jpeg", icc_profile=b"\xff\xda" * 200, comment=b"\xff\xda" * 200)
    assert decode(content).size == (9, 7)


def test_an_honest_progressive_jpeg_with_exif_is_read() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a picture"
    exif[0x0112] = 6  # the camera was held sideways
    content = saved(Image.new("RGB", (64, 48)), "jpeg", progressive=True, exif=exif, icc_profile=bytes(200_000))
    assert decode(content).size == (48, 64)


@given(st.data())
def test_a_corrupted_file_gives_an_image_or_reason(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["png", "jpeg", "tiff", "gif", "bmp", "ppm", "webp"]))
    content = bytearray(saved(small(), kind))
    for at, by in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)):
        content[at] = by
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        image = decode(bytes(content))
    except Unreadable as refused:
        assert refused.reason and "\n" not in refused.reason
    else:
        assert image.mode == "RGB" and image.width * image.height <= PIXELS


def test_a_file_with_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vast.png"
    path.write_bytes(png(5, 5))
    with path.open("r+b") as file:
        file.truncate(BYTES + 1)  # sparse
    with pytest.raises(Unreadable, match="268,435,457 bytes, more than"):
        open_rgb(str(path))


MEASURED = """
import sys
from pathlib import Path
import torch
from torchvision.transforms.v2 import functional as F
from perturbify.data.images import fit, open_rgb

torch.set_num_threads(1)
def peak():  # of this process, since it was last asked; ru_maxrss begins with the parent's
    text = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(text.partition("VmHWM:")[2].split()[0]) // 1024

peak()
before = peak()
batch = torch.stack([fit(F.pil_to_tensor(open_rgb(path)), 224) for path in sys.argv[1:]])
print(peak() - before)
"""


def megabytes_for(*paths: Path) -> int:
    """What decoding and fitting these files takes at its peak, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, paths)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_largest_image_takes_under_2_gigabytes(tmp_path: Path) -> None:
    side = int(PIXELS**0.5)
    (tmp_path / "largest.png").write_bytes(png(side, side))
    assert 300 < megabytes_for(tmp_path / "largest.png") < 2_000


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_several_strips_take_no_more_than_one(tmp_path: Path) -> None:
    paths = []
    for width in (20_000, 1_000, 1_000, 1_000, 1_000, 1_000):
        paths.append(tmp_path / f"{len(paths)}.png")
        paths[-1].write_bytes(png(width, 1))
    assert paths[0].stat().st_size < 100
    assert megabytes_for(*paths) < 500
