"""Meshes of triangles as STL files, in text or binary. They have no grid: a projection must be given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.files.stored import Kind, Mesh, Stored, as_numbers, check_size

_HEAD = 84  # bytes: 80 of any text, then the number of triangles
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def _accepts(start: bytes, length: int) -> bool:
    return _is_binary(start, length) or (start.startswith(b"solid") and b"facet" in start)


def _is_binary(start: bytes, length: int) -> bool:
    """A binary file has no signature, but a length that follows from its number of triangles."""
    return len(start) >= _HEAD and length == _HEAD + _TRIANGLE.itemsize * int.from_bytes(start[80:84], "little")


def _read(data: bytes) -> Stored:
    if _is_binary(data, len(data)):
        corners = np.frombuffer(data, _TRIANGLE, offset=_HEAD)["corners"].astype(np.float64)
    else:
        corners = _of_text(data)
    check_size(len(corners), 1)
    return Mesh(corners)


def _of_text(data: bytes) -> NDArray[np.float64]:
    """N×3×3 corners of the lines `vertex x y z`."""
    rows = [words[1:] for line in data.splitlines() if (words := line.split(None, 4)) and words[0] == b"vertex"]
    if len(rows) % 3 or b"endsolid" not in data[-1024:]:
        raise ImageError("begins as a STL file of text and is cut off: it has no endsolid, or a triangle lacks corners")
    try:
        if any(len(row) != 3 for row in rows):
            raise ValueError
        return as_numbers([word for row in rows for word in row]).reshape(-1, 3, 3)
    except ValueError:
        raise ImageError("is a STL file in which a line `vertex` has not three numbers") from None


STL = Kind(_accepts, lambda file: None, _read)
