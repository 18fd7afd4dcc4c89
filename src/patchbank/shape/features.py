"""Features of a surface that need no network, and their means over the cells of a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system.numba_jit import jit
from patchbank._system.threads import spread
from patchbank.errors import OptionError
from patchbank.shape.fpfh import fpfh
from patchbank.shape.normals import box_normals
from patchbank.shape.plane import Mask
from patchbank.shape.shape import Pinhole
from patchbank.shape.surface import Floats, Surface

ShapeFeature: TypeAlias = Callable[[Surface, float], tuple[Floats, Mask]]

_SQUARES = (16, 7)  # sides of squares, as parts of the shorter side of the geometry
_NORMAL_RADIUS = 3  # pixels, the same reach as the window of FPFH


def fpfh_feature(surface: Surface, top_mm: float) -> tuple[Floats, Mask]:
    """H×W×33 FPFH of the part's trusted points with 36 neighbours, and which pixels have one.

    Points of the background are no neighbours: the outline of a part is the same wherever it lies.
    """
    shape, trusted = surface.shape, surface.part & surface.trusted
    xyz = shape.xyz()
    normals = box_normals(xyz, surface.part, _NORMAL_RADIUS, isinstance(shape.camera, Pinhole))
    return fpfh(xyz, normals, trusted), trusted


def valid_feature(surface: Surface, top_mm: float) -> tuple[Floats, Mask]:
    """H×W×1, 1 where a pixel of the part has a point and 0 where it has none. Its mean over a cell is the share of
    valid points. It knows no sizes: a wide hole looks like many small ones (`holes_feature` tells them apart)."""
    return surface.shape.valid[..., None].astype(np.float32), surface.filled_part


def holes_feature(surface: Surface, top_mm: float) -> tuple[Floats, Mask]:
    """H×W×3, which share of the part's pixels has a point: of the pixel alone, and of squares of 1/16 and 1/7 of the
    shorter side around it; 1 where there is nothing of the part. All pixels count.

    Good parts lose single points and narrow shadows, where the pixel alone has none. A hole that is wider than theirs
    leaves the squares empty, too.
    """
    inside = surface.filled_part.astype(np.float32)
    found = inside * surface.shape.valid
    shares = [_share_around(found, inside, max(1, round(min(inside.shape) / n))) for n in (np.inf, *_SQUARES)]
    return np.stack(shares, axis=-1), np.ones(inside.shape, bool)


def _share_around(found: Floats, inside: Floats, side: int) -> Floats:
    """Sum of `found` over the sum of `inside`, in a square around each pixel; 1 where nothing is inside."""
    sums = [
        cv2.boxFilter(each, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for each in (found, inside)
    ]
    return np.asarray(np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), 1), np.float32)


def relief_feature(surface: Surface, top_mm: float) -> tuple[Floats, Mask]:
    """H×W×2, the height above the plane as a share of `top_mm` millimetres, and 1; and which pixels have a point.

    A cell's mean is then the mean height of its points, and 1 where it has one, or 0 and 0. A background is the ideal
    plane everywhere, 0 and 1: its noise and its holes are not inspected, as in shape images.
    """
    heights, known = surface.height / np.float32(top_mm), surface.shape.valid
    if surface.plane.is_background:
        outside = ~surface.filled_part
        heights, known = np.where(outside, np.float32(0), heights), known | outside
    return np.stack([heights, np.ones_like(heights)], axis=-1), known


SHAPE_FEATURES: dict[str, ShapeFeature] = {
    "fpfh": fpfh_feature,  # 33 numbers: how the normals of 36 neighbours are turned against each other
    "valid": valid_feature,  # 1 number: whether there is a point
    "holes": holes_feature,  # 3 numbers: the share of pixels with a point, near and farther around
    "relief": relief_feature,  # 2 numbers: the height, not rounded to grey levels, and whether there is one
}
FEATURE_LENGTHS = {"fpfh": 33, "valid": 1, "holes": 3, "relief": 2}
# A cell's mean is rounded to 1/16: most have an equal one in the memory, and the search ends there.
STEPS = {"holes": 16}


def masked_cell_means(features: Floats, mask: Mask, rows: int, columns: int) -> tuple[Floats, Floats]:
    """Mean over the pixels of each cell that count. Pixel y lies in the row of cells ⌊y·rows/H⌋, and x likewise. Where
    there are as many rows as pixels or more, each has the pixel row below its middle alone.

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
    down, across = _spans(rows, mask.shape[0]), _spans(columns, mask.shape[1])
    spread(lambda start, stop: _cell_means(features, mask, down, across, means, share, start, stop), rows)
    return means, share


def _spans(cells: int, pixels: int) -> NDArray[np.int64]:
    """cells×2: the first pixel of each cell along one side, and the one after its last."""
    if cells >= pixels:
        nearest = (2 * np.arange(cells) + 1) * pixels // (2 * cells)
        return np.stack([nearest, nearest + 1], axis=1)
    edges = -(-np.arange(cells + 1) * pixels // cells)
    return np.stack([edges[:-1], edges[1:]], axis=1)


@jit()
def _cell_means(features, mask, down, across, means, share, start, stop):  # type: ignore[no-untyped-def]
    dimension = features.shape[2]
    total = np.empty(dimension, np.float64)
    for row in range(start, stop):
        for column in range(len(across)):
            total[:] = 0
            count = 0
            for y in range(down[row, 0], down[row, 1]):
                for x in range(across[column, 0], across[column, 1]):
                    if mask[y, x]:
                        count += 1
                        for k in range(dimension):
                            total[k] += features[y, x, k]
            if count:
                pixels = (down[row, 1] - down[row, 0]) * (across[column, 1] - across[column, 0])
                share[row, column] = count / pixels
                for k in range(dimension):
                    means[row, column, k] = total[k] / count
