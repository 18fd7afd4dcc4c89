"""Normal maps: pictures whose colours are the directions of a surface."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.sample import Data
from patchbank.shape.files.load import about, load
from patchbank.shape.files.stored import Grid

_SHORTEST, _LONGEST = 0.8, 1.2  # length of most normals before they are made 1 long


def read_normals(data: Data, name: str) -> NDArray[np.float32]:
    """H×W×3 unit vectors x, y, z of a normal map; 0 where it has none (black, zero or not finite).

    Whole numbers of 8 or 16 bits mean 2·value/maximum − 1, floating-point ones the coordinates themselves. Raises
    `ImageError`, one sentence, for a file that cannot be read, and for one whose vectors are not about 1 long.
    """
    stored = load(data, name)
    with about(name):
        if not isinstance(stored, Grid) or stored.values.ndim != 3:
            raise ImageError("is not a normal map: it must have three channels, x, y and z")
        values = stored.values
        if values.dtype.kind != "f" and values.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"has normals as {values.dtype}: save them with 8 or 16 bits or as floating-point numbers")
        normals = values.astype(np.float32)
        there = np.isfinite(normals).all(axis=2) & (normals != 0).any(axis=2)
        if values.dtype.kind == "u":
            normals = normals * np.float32(2 / np.iinfo(values.dtype).max) - np.float32(1)
        normals[~there] = 0
        with np.errstate(over="ignore"):
            lengths = np.sqrt((normals**2).sum(axis=2))
        if not there.any() or not _SHORTEST <= float(np.median(lengths[there])) <= _LONGEST:
            raise ImageError("is not a normal map: most of its vectors are not 1 long")
        there &= lengths > 0
        lengths[~there] = 1
        normals /= lengths[..., None]
        return normals
