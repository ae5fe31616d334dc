"""Refuses image files whose headers would cost Pillow memory or time out of all proportion."""

from __future__ import annotations

import re
import struct

_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a JPEG: between its segments, not in the pixels of one
_SCAN, _END, _SHORT = 0xDA, 0xD9, (0x01, 0xD8)  # marks of a JPEG; the last ones have no content
_SCANS = 100  # passes over a JPEG, each over the whole image: ten or so are usual
_PARTS = 10_000  # of a JPEG: its colour profile and depth maps may be some hundreds
_EXIF = 100  # in a JPEG: one is usual; Pillow joins them in quadratic time
_CHUNKS = 100_000  # of a PNG, without those of pixels: ten or so are usual, animations have some per frame
_TAGS = 1000  # of a TIFF: a hundred at most are usual
_NUMBERS = 2**20  # in a TIFF's tags: one or two per tile
_BYTE_TYPES = (1, 2, 7)  # of a TIFF's tags: bytes, text and undefined, which are kept as they are


def excess(content: bytes) -> str | None:
    """What a file has far too much of, to follow "it has "; None if nothing is wrong with it.

    Args:
        content: The whole file.

    Raises:
        struct.error: A TIFF ends too early.
    """
    if content.startswith(b"\xff\xd8"):
        return _excess_of_jpeg(content)
    if content.startswith(b"\x89PNG"):
        return _excess_of_png(content)
    if content.startswith((b"II", b"MM")):
        # Pillow reads a BigTIFF of the other byte order as a TIFF.
        ways = {content[2:3] == b"\x2b", b"\x2b" in content[:4]}
        return next(filter(None, (_excess_of_tiff(content, big) for big in ways)), None)
    return None


def _excess_of_jpeg(content: bytes) -> str | None:
    if (exif := content.count(b"Exif\0\0")) > _EXIF:
        return f"{exif:,} segments of EXIF, more than the limit of {_EXIF}"
    # Up to the image's end: what phones append to it, such as a video, does not count.
    at, parts, scans = 2, 0, 0
    while found := _MARK.search(content, at):
        mark, at = content[found.end() - 1], found.end()
        if mark == _END:
            break
        parts, scans = parts + 1, scans + (mark == _SCAN)
        if scans > _SCANS:
            return f"more than {_SCANS} scans, where a JPEG usually has about ten"
        if parts > _PARTS:
            return f"more than {_PARTS:,} segments, where a JPEG usually has about a hundred"
        if mark not in _SHORT:
            at += int.from_bytes(content[at : at + 2], "big")
    return None


def _excess_of_png(content: bytes) -> str | None:
    at, chunks = 8, 0
    while at < len(content) and chunks <= _CHUNKS:
        chunks += content[at + 4 : at + 8] != b"IDAT"
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return f"more than {_CHUNKS:,} chunks" if chunks > _CHUNKS else None


def _excess_of_tiff(content: bytes, big: bool) -> str | None:
    order = "<>"[content[0] == ord("M")]
    (at,) = struct.unpack_from(order + ("Q" if big else "L"), content, 8 if big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if big else "H"), content, at)
    if tags > _TAGS:
        return f"{tags:,} tags, more than the limit of {_TAGS:,}"
    tag = struct.Struct(order + ("2xHQ8x" if big else "2xHL4x"))
    numbers = held = 0
    for index in range(tags):
        kind, count = tag.unpack_from(content, at + (8 if big else 2) + index * tag.size)
        numbers, held = (numbers, held + count) if kind in _BYTE_TYPES else (numbers + count, held)
    if numbers > _NUMBERS:
        return f"{numbers:,} numbers in its tags, more than {_NUMBERS:,}"
    return f"{held:,} bytes in its tags, more than in the file" if held > len(content) else None
