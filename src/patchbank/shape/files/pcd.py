"""Point clouds as the Point Cloud Library writes them (PCD 0.7), in text or binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from patchbank.errors import ImageError
from patchbank.shape.files.records import Field, check_fields, read_binary, read_text
from patchbank.shape.files.stored import START, Cloud, Grid, Kind, Stored, check_size, first_bytes

_TYPES = {"F": ("f4", "f8"), "I": ("i1", "i2", "i4", "i8"), "U": ("u1", "u2", "u4", "u8")}
_DAMAGED = "begins as a PCD file, but its header is damaged or cut off"


@dataclass(frozen=True)
class _Header:
    fields: list[Field]
    height: int
    width: int
    coding: str
    at: int  # where the values begin

    @property
    def is_organised(self) -> bool:
        return self.height > 1


def _header(data: bytes) -> _Header:
    words: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in words:
        end = data.find(b"\n", at, START)
        if end < 0:
            raise ImageError(_DAMAGED)
        key, *rest = data[at:end].decode("latin-1").split() or ["#"]
        words[key] = rest
        at = end + 1
    try:
        fields = _fields(words)
        height, width = int(words["HEIGHT"][0]), int(words["WIDTH"][0])
        points = int(words.get("POINTS", [str(height * width)])[0])
        coding = words["DATA"][0]
    except (KeyError, IndexError, ValueError):
        raise ImageError(_DAMAGED) from None
    check_fields(fields)
    check_size(height, width)
    if points != height * width:
        raise ImageError(f"has a wrong header: {width}×{height} are not {points} points")
    if coding not in ("ascii", "binary"):
        raise ImageError(f"has its values as {coding}, which is not supported: save it as ascii or binary")
    return _Header(fields, height, width, coding, at)


def _fields(words: dict[str, list[str]]) -> list[Field]:
    """Raises KeyError, IndexError or ValueError for a header that is damaged."""
    names = words["FIELDS"]
    counts = [int(count) for count in words.get("COUNT", ["1"] * len(names))]
    fields = []
    for name, size, kind, count in zip(names, words["SIZE"], words["TYPE"], counts, strict=True):
        code = f"{kind.lower()}{int(size)}"
        if code not in _TYPES[kind] or not 1 <= count <= START:
            raise ValueError
        fields.append((name, f"<{code}", count))
    return fields


def _size(file: IO[bytes]) -> tuple[int, int] | None:
    header = _header(first_bytes(file))
    return (header.height, header.width) if header.is_organised else None


def _read(data: bytes) -> Stored:
    header = _header(data)
    count = header.height * header.width
    read = read_text if header.coding == "ascii" else read_binary
    points = read(data, header.at, header.fields, count)
    return Grid(points.reshape(header.height, header.width, 3)) if header.is_organised else Cloud(points)


def _accepts(start: bytes, length: int) -> bool:
    return start.startswith((b"# .PCD", b"VERSION", b"FIELDS"))


PCD = Kind(_accepts, _size, _read)
