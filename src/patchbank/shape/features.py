"""Features of a surface that need no network, and their means over the cells of a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from patchbank._system.numba_jit import jit
from patchbank._system.threads import spread
from patchbank.errors import OptionError
from patchbank.shape.fpfh import fpfh
from patchbank.shape.normals import box_normals
from patchbank.shape.plane import Mask
from patchbank.shape.shape import Pinhole
from patchbank.shape.surface import Floats, Surface

ShapeFeature: TypeAlias = Callable[[Surface], tuple[Floats, Mask]]

_NORMAL_RADIUS = 3  # pixels, the same reach as the window of FPFH


def fpfh_feature(surface: Surface) -> tuple[Floats, Mask]:
    """H×W×33 FPFH of the part's trusted points with 36 neighbours, and which pixels have one.

    Points of the background are no neighbours: the outline of a part is the same wherever it lies.
    """
    shape, trusted = surface.shape, surface.part & surface.trusted
    xyz = shape.xyz()
    normals = box_normals(xyz, surface.part, _NORMAL_RADIUS, isinstance(shape.camera, Pinhole))
    return fpfh(xyz, normals, trusted), trusted


def valid_feature(surface: Surface) -> tuple[Floats, Mask]:
    """H×W×1, 1 where a pixel of the part has a point and 0 where it has none. Its mean over a cell is the share of
    valid points. It shows where points are missing that good parts have."""
    return surface.shape.valid[..., None].astype(np.float32), surface.filled_part


SHAPE_FEATURES: dict[str, ShapeFeature] = {
    "fpfh": fpfh_feature,  # 33 numbers: how the normals of 36 neighbours are turned against each other
    "valid": valid_feature,  # 1 number: whether there is a point
}
FEATURE_LENGTHS = {"fpfh": 33, "valid": 1}


def masked_cell_means(features: Floats, mask: Mask, rows: int, columns: int) -> tuple[Floats, Floats]:
    """Mean over the pixels of each cell that count. Pixel y lies in the row of cells ⌊y·rows/H⌋, and x likewise.

    Args:
        features: H×W×D float32.
        mask: H×W, which pixels count.
        rows, columns: Number of cells down and across, 1 or more.

    Returns:
        rows×columns×D float32 means, 0 where no pixel counts, and rows×columns float32, the share of each cell's pixels
        that count.

    Raises:
        OptionError: There are no rows or no columns.
    """
    if rows < 1 or columns < 1:
        raise OptionError(f"a grid of {rows}×{columns} cells: needs one or more each way")
    means = np.zeros((rows, columns, features.shape[2]), np.float32)
    share = np.zeros((rows, columns), np.float32)
    tops, lefts = (-(-np.arange(n + 1) * side // n) for n, side in zip((rows, columns), mask.shape, strict=True))
    spread(lambda start, stop: _cell_means(features, mask, tops, lefts, means, share, start, stop), rows)
    return means, share


@jit()
def _cell_means(features, mask, tops, lefts, means, share, start, stop):  # type: ignore[no-untyped-def]
    dimension = features.shape[2]
    total = np.empty(dimension, np.float64)
    for row in range(start, stop):
        for column in range(len(lefts) - 1):
            total[:] = 0
            count = 0
            for y in range(tops[row], tops[row + 1]):
                for x in range(lefts[column], lefts[column + 1]):
                    if mask[y, x]:
                        count += 1
                        for k in range(dimension):
                            total[k] += features[y, x, k]
            if count:
                pixels = (tops[row + 1] - tops[row]) * (lefts[column + 1] - lefts[column])
                share[row, column] = count / pixels
                for k in range(dimension):
                    means[row, column, k] = total[k] / count
