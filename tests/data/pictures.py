"""Files of kinds that Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

Tags = dict[int, tuple[int, list[int]]]


def tiff(*pages: np.ndarray | tuple[np.ndarray, Tags], order: str = "<", planar: int = 1) -> bytes:
    """An uncompressed TIFF of H×W or H×W×C pages of any type, each with further tags {number: (type, values)}."""
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8))
    for number, page in enumerate(pages):
        values, more = page if isinstance(page, tuple) else (page, {})
        values = values if values.ndim == 3 else values[:, :, None]
        height, width, channels = values.shape
        form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        stored = values if planar == 1 else values.transpose(2, 0, 1)
        data = stored.astype(values.dtype.newbyteorder(order)).tobytes()
        strips = channels if planar == 2 else 1
        tags: Tags = {
            256: (4, [width]), 257: (4, [height]), 258: (3, [8 * values.dtype.itemsize] * channels), 259: (3, [1]),
            262: (3, [2 if channels >= 3 else 1]), 277: (3, [channels]), 278: (4, [height]), 284: (3, [planar]),
            339: (3, [form] * channels), 279: (4, [len(data) // strips] * strips), **more,
        }  # fmt: skip
        if channels not in (1, 3):
            tags[338] = (3, [0] * (channels - (3 if channels > 3 else 1)))
        start, beside = len(out) + 2 + 12 * (len(tags) + 1) + 4, bytearray()

        def placed(kind: int, values: list[int], start: int = start, beside: bytearray = beside) -> bytes:
            raw = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
            if len(raw) <= 4:
                return raw.ljust(4, b"\0")
            beside += raw + b"\0" * (len(raw) % 2)
            return struct.pack(order + "I", start + len(beside) - len(raw) - len(raw) % 2)

        rows = {tag: struct.pack(order + "HHI", tag, k, len(v)) + placed(k, v) for tag, (k, v) in tags.items()}
        at = start + len(beside) + (4 * strips if strips > 1 else 0)
        offsets = [at + i * (len(data) // strips) for i in range(strips)]
        rows[273] = struct.pack(order + "HHI", 273, 4, strips) + placed(4, offsets)
        end = at + len(data) + len(data) % 2
        out += struct.pack(order + "H", len(rows)) + b"".join(rows[tag] for tag in sorted(rows))
        out += struct.pack(order + "I", end if number < len(pages) - 1 else 0) + beside + data + b"\0" * (len(data) % 2)
    return bytes(out)


def png16(values: np.ndarray, exif: bytes = b"", behind: bool = False) -> bytes:
    """A PNG of H×W×C uint16, with EXIF data before or behind the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels: Any = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [chunk(b"IDAT", zlib.compress(pixels))]
    if exif:
        chunks.insert(1 if behind else 0, chunk(b"eXIf", exif))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")
