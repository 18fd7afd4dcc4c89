"""A source of geometry → what it holds, told by its content, and its size from the header alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import Image

from patchbank._system.files import reason
from patchbank.data.opening import open_file
from patchbank.data.read import image_size, read_raw
from patchbank.errors import ImageError, MemoryBudgetError
from patchbank.sample import Data, Sample
from patchbank.shape.files.arrays import CSV, NPY, NPZ, PFM
from patchbank.shape.files.pcd import PCD
from patchbank.shape.files.ply import PLY
from patchbank.shape.files.stl import STL
from patchbank.shape.files.stored import (
    START,
    Grid,
    Kind,
    Stored,
    as_grid,
    check_packed,
    check_shape,
    check_size,
)

KINDS = (NPY, NPZ, PFM, PCD, PLY, STL, CSV)  # those without a signature come last


@contextmanager
def about(name: str) -> Iterator[None]:
    """Have the errors of the block name their source, and be such as a user can mend."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except MemoryError as error:
        raise _no_memory(name, error) from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _no_memory(name, MemoryError()) from None
        raise ImageError(f"{name}: cannot be read ({reason(error)})") from None


def load(data: Data, name: str) -> Stored:
    """What a source holds. Raises `ImageError`, which names it, for one that cannot be read."""
    with about(name):
        if isinstance(data, np.ndarray):
            return as_grid(data)
        kind = None
        if not isinstance(data, Image.Image):
            with open_file(data) as file:
                length = _length_of(file)
                kind = _kind_of(file, length)
                if kind:
                    return kind.read(data if isinstance(data, bytes) else file.read())
    sample = Sample.of(name, data)
    if not isinstance(data, Image.Image):
        height, width = image_size(sample)
        with about(name):
            check_size(height, width)
            check_packed(height * width, length)
    values = read_raw(sample).values
    with about(name):
        return as_grid(values)


def stored_size(data: Data, name: str) -> tuple[int, int] | None:
    """(height, width) of what `load` gives, from the header where the kind allows; None for a cloud or mesh."""
    with about(name):
        if isinstance(data, np.ndarray):
            shape = check_shape(data.shape, data.dtype)
            return shape[0], shape[1]
        if not isinstance(data, Image.Image):
            with open_file(data) as file:
                if kind := _kind_of(file, _length_of(file)):
                    return kind.size(file)
    return image_size(Sample.of(name, data))


def check_values(stored: Stored, name: str) -> Stored:
    """The same. Raises `ImageError` for what is a picture by its values: 8 bits, or colours of 16."""
    if isinstance(stored, Grid):
        values = stored.values
        is_picture = values.dtype.itemsize == 1 or (values.ndim == 3 and values.dtype == np.uint16)
        if is_picture:
            channels = "three channels" if values.ndim == 3 else "one channel"
            raise ImageError(
                f"{name}: has {channels} of {values.dtype}, as a picture or a normal map has: a geometry needs points, "
                "or depths or heights of at least 16 bits"
            )
    return stored


def _length_of(file: IO[bytes]) -> int:
    """Of a file in bytes; it stands at its beginning then."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


def _kind_of(file: IO[bytes], length: int) -> Kind | None:
    """The kind of a file, None for a picture; the file stands at its beginning before and after."""
    start = file.read(START)
    file.seek(0)
    return next((kind for kind in KINDS if kind.accepts(start, length)), None)


def _no_memory(name: str, error: MemoryError) -> MemoryBudgetError:
    if isinstance(error, MemoryBudgetError):
        return error
    return MemoryBudgetError(
        f"{name}: there is not enough memory for this geometry: end other programs, cut it into parts, or use a "
        "machine with more memory"
    )
