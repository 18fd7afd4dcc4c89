"""Point clouds as PLY files, in text or binary of either byte order. Faces are not looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from patchbank.errors import ImageError
from patchbank.shape.files.records import Field, check_fields, read_binary, read_text
from patchbank.shape.files.stored import START, Cloud, Grid, Kind, Stored, check_size, first_bytes

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
_SIDE = re.compile(r"(?:obj_info|comment)\s+(width|num_cols|height|num_rows)\s*[:=]?\s*(\d{1,9})\s*", re.IGNORECASE)
_DAMAGED = "begins as a PLY file, but its header is damaged or cut off"


@dataclass
class _Element:
    """`fields` is empty where records have lists, whose lengths differ."""

    name: str
    count: int
    fields: list[Field] = field(default_factory=list)
    has_lists: bool = False


@dataclass(frozen=True)
class _Header:
    coding: str
    before: list[_Element]
    vertices: _Element
    size: tuple[int, int] | None  # (height, width) where it says them
    at: int  # where the values begin


def _header(data: bytes) -> _Header:
    lines: list[str] = []
    at = 0
    while not lines or lines[-1] != "end_header":
        end = data.find(b"\n", at, START)
        if end < 0:
            raise ImageError(_DAMAGED)
        lines.append(data[at:end].decode("latin-1").strip())
        at = end + 1
    coding, elements, sides = "", [], dict[str, int]()
    try:
        for line in lines[1:-1]:
            key, *words = line.split() or ["comment"]
            if key == "format":
                coding = words[0]
            elif key == "element":
                elements.append(_Element(words[0], int(words[1])))
            elif key == "property":
                _add_property(elements[-1], words, _ORDERS[coding])
            elif found := _SIDE.fullmatch(line):
                sides["width" if found[1].lower() in ("width", "num_cols") else "height"] = int(found[2])
    except (IndexError, ValueError, KeyError):
        raise ImageError(_DAMAGED) from None
    place = next((i for i, element in enumerate(elements) if element.name == "vertex"), None)
    if place is None or coding not in _ORDERS or any(element.count < 0 for element in elements):
        raise ImageError(_DAMAGED)
    size = (sides["height"], sides["width"]) if len(sides) == 2 else None
    return _checked(_Header(coding, elements[:place], elements[place], size, at))


def _add_property(element: _Element, words: list[str], order: str) -> None:
    """Raises IndexError or KeyError for a line that is damaged."""
    if words[0] == "list":
        element.has_lists = True
    else:
        element.fields.append((words[1], order + _TYPES[words[0]], 1))


def _checked(header: _Header) -> _Header:
    check_fields(header.vertices.fields)
    check_size(header.vertices.count, 1)
    if header.vertices.has_lists:
        raise ImageError("has lists among the values of its points, which is not supported: save it without them")
    if header.coding != "ascii" and any(element.has_lists for element in header.before):
        raise ImageError("has lists before its points, which is not supported: save it with the points first")
    if header.size:
        height, width = header.size
        check_size(height, width)
        if height * width != header.vertices.count:
            raise ImageError(
                f"says that it is a grid of {width}×{height} and has {header.vertices.count} points: save it with one "
                "point for each pixel, those that are missing as NaN"
            )
    return header


def _bytes_of(element: _Element) -> int:
    return element.count * sum(np.dtype(kind).itemsize for _, kind, _ in element.fields)


def _size(file: IO[bytes]) -> tuple[int, int] | None:
    return _header(first_bytes(file)).size


def _read(data: bytes) -> Stored:
    header = _header(data)
    fields, count = header.vertices.fields, header.vertices.count
    if header.coding == "ascii":
        points = read_text(data, header.at, fields, count, sum(element.count for element in header.before))
    else:
        points = read_binary(data, header.at + sum(map(_bytes_of, header.before)), fields, count)
    return Grid(points.reshape(*header.size, 3)) if header.size else Cloud(points)


PLY = Kind(lambda start, length: start.startswith((b"ply\n", b"ply\r\n")), _size, _read)
