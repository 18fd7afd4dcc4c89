"""Points as records of named values, in text or binary: what PCD and PLY files have in common."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.files.stored import check_length

Field = tuple[str, str, int]  # name, type as numpy writes it, how many
AXES = ("x", "y", "z")


def check_fields(fields: Sequence[Field]) -> None:
    """Raise `ImageError` unless records have x, y and z, one of each."""
    if any([(name, count) for name, _, count in fields if name == axis] != [(axis, 1)] for axis in AXES):
        names = ", ".join(name for name, _, _ in fields[:12])
        raise ImageError(f"must have x, y and z for each point, and has {names or 'no values'}")


def read_binary(data: bytes, at: int, fields: Sequence[Field], count: int) -> NDArray[np.float64]:
    """N×3 points of the records that begin at byte `at`. Raises `ImageError` where some are missing."""
    formats = [(f"{i}", kind, (number,)) for i, (_, kind, number) in enumerate(fields)]  # names may repeat
    dtype = np.dtype(formats)
    check_length(count * dtype.itemsize, len(data) - at)
    records = np.frombuffer(data, dtype, count, at)
    points = np.empty((count, 3), np.float64)
    with np.errstate(invalid="ignore"):  # some NaN are said to be invalid
        for axis, name in enumerate(AXES):
            points[:, axis] = records[f"{_place(fields, name)}"][:, 0]
    return points


def read_text(data: bytes, at: int, fields: Sequence[Field], count: int, skipped: int = 0) -> NDArray[np.float64]:
    """N×3 points of the lines that begin at byte `at`, after some that are skipped. Raises `ImageError` where some are
    missing or are no numbers."""
    check_length(2 * (count + skipped), len(data) - at + 1)  # a digit and the end of a line
    before = [sum(number for _, _, number in fields[: _place(fields, name)]) for name in AXES]
    text = io.TextIOWrapper(io.BytesIO(memoryview(data)[at:]), "latin-1")
    try:
        points = np.loadtxt(text, np.float64, comments=None, usecols=before, max_rows=count, skiprows=skipped, ndmin=2)
    except ValueError as error:
        raise ImageError(f"has a line that is no point ({str(error).splitlines()[0]})") from None
    if len(points) != count:
        raise ImageError(f"is cut off, or its header is wrong: it promises {count} points and has {len(points)}")
    return points


def _place(fields: Sequence[Field], name: str) -> int:
    return next(i for i, field in enumerate(fields) if field[0] == name)
