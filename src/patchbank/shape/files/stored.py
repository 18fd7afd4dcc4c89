"""What a file of geometry holds, before anybody says what its numbers mean, and the checks that all kinds share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.format import MOST_PIXELS

START = 1 << 16  # bytes at the beginning of a file that its header must lie in
_MOST_PACKED = 1100  # deflate packs 1032 bytes into one, at most; LZW fewer than that of 16-bit pixels

_LONGEST = 64  # characters of a number


@dataclass(frozen=True, eq=False)
class Grid:
    """H×W depths or heights, or H×W×3 points, of any numeric type."""

    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cloud:
    """N×3 points in no order."""

    points: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Mesh:
    """N×3×3: triangles, their corners, x y z."""

    corners: NDArray[Any]


Stored: TypeAlias = "Grid | Cloud | Mesh"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        accepts: whether a file of so many bytes that begins so is of this kind.
        size: its (height, width) from the header, None where it has no grid; the file stands at its beginning.
        read: all of its bytes → what they hold. Both raise `ImageError` for a file that is not intact.
    """

    accepts: Callable[[bytes, int], bool]
    size: Callable[[IO[bytes]], tuple[int, int] | None]
    read: Callable[[bytes], Stored]


def check_size(height: int, width: int) -> None:
    """Raise `ImageError` for a grid without pixels, or with more than anything here is made for."""
    if height < 1 or width < 1:
        raise ImageError("is empty: it has no points")
    if height * width > MOST_PIXELS:
        raise ImageError(f"has {width}×{height} pixels, more than {MOST_PIXELS}: cut it into parts")


def check_length(needed: int, there: int) -> None:
    """Raise `ImageError` where a header promises more bytes than follow."""
    if needed > there:
        raise ImageError(f"is cut off, or its header is wrong: it promises {needed} bytes of values and has {there}")


def check_packed(size: int, packed: int) -> None:
    """Raise `ImageError` where a header promises more than a compressed file of so many bytes can hold. `size`: bytes,
    or the pixels of a picture."""
    if size > _MOST_PACKED * packed:
        raise ImageError(f"is cut off, or its header is wrong: it promises far more than its {packed} bytes can hold")


def as_grid(values: NDArray[Any]) -> Grid:
    """An array as a grid; what follows the third channel is left out. Raises `ImageError` for one that is none."""
    shape = check_shape(values.shape, values.dtype)
    return Grid(values.reshape(shape[:2]) if len(shape) < 3 or shape[2] == 1 else values[:, :, :3])


def check_shape(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """The shape of an array that is a grid. Raises `ImageError` for one that is none."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        turned = len(shape) == 3 and shape[0] in (1, 3)
        hint = ": bring the channels to the end with array.transpose(1, 2, 0)" if turned else ""
        raise ImageError(f"must be an array H×W of depths or H×W×3 of points, not {'×'.join(map(str, shape))}{hint}")
    if dtype.kind not in "iuf":
        raise ImageError(f"has values of the type {dtype}: a geometry has integers or floating-point numbers")
    check_size(shape[0], shape[1])
    return shape


def as_numbers(words: list[bytes]) -> NDArray[np.float64]:
    """Words as numbers. Raises ValueError where one is none."""
    if max(map(len, words), default=0) > _LONGEST:  # numpy gives each word the room of the longest
        raise ValueError
    return np.array(words, dtype=np.bytes_).astype(np.float64)


def first_bytes(file: IO[bytes]) -> bytes:
    """The bytes that a header must lie in; the file stands at its beginning before and after."""
    start = file.read(START)
    file.seek(0)
    return start
