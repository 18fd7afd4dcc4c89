"""How large a shape is, in words for people, and whether that can be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.shape import Pinhole, Shape

_LEAST_SIDE = 4  # pixels
_LEAST_VALID = 0.05
_SMALLEST, _LARGEST = 1e-3, 1e5  # millimetres across
_BLOCK = 1 << 20  # pixels whose points are in memory at a time

Numbers = NDArray[np.float64]


def extent(shape: Shape) -> tuple[float, float, float]:
    """Millimetres that the valid points span along x, y and z; zeros without any."""
    (height, width), camera = shape.size, shape.camera
    column_near, column_far = np.full(width, np.inf), np.full(width, -np.inf)
    row_near, row_far = np.empty(height), np.empty(height)
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        near, far = (np.where(shape.valid[part], shape.z[part], np.float32(none)) for none in (np.inf, -np.inf))
        column_near, column_far = np.minimum(column_near, near.min(axis=0)), np.maximum(column_far, far.max(axis=0))
        row_near[part], row_far[part] = near.min(axis=1), far.max(axis=1)
    if not row_near.min() <= row_far.max():
        return 0.0, 0.0, 0.0
    columns, lines = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    if isinstance(camera, Pinhole):  # in a column, x is largest or smallest where z is
        across = _span((columns - camera.cx) / camera.fx, column_near, column_far)
        down = _span((lines - camera.cy) / camera.fy, row_near, row_far)
    else:
        across = camera.x * float(np.ptp(columns[column_near <= column_far]))
        down = camera.y * float(np.ptp(lines[row_near <= row_far]))
    return across, down, float(row_far.max() - row_near.min())


def _span(slopes: Numbers, near: Numbers, far: Numbers) -> float:
    """From the smallest to the largest slope · z, with the least and the largest z of each slope."""
    there = near <= far
    return float(np.ptp(np.concatenate([slopes[there] * near[there], slopes[there] * far[there]])))


def describe(shape: Shape) -> str:
    """The extent, the valid share and the camera of a shape, in one line."""
    across, down, deep = (f"{side:.3g}" if side < 1000 else f"{side:.0f}" for side in extent(shape))
    camera = shape.camera
    if isinstance(camera, Pinhole):
        seen = f"pinhole fx {camera.fx:.4g}"
    elif camera.x == camera.y:
        seen = f"pitch {camera.x:.4g} mm"
    else:
        seen = f"pitch {camera.x:.4g} × {camera.y:.4g} mm"
    share = 100 * np.count_nonzero(shape.valid) / max(shape.valid.size, 1)
    return f"extent {across} × {down} × {deep} mm, {share:.0f} % valid, {seen}"


def check_points(valid: NDArray[np.bool_], behind: float) -> None:
    """Raise `ImageError` for a strip, and for a grid with hardly any points.

    Args:
        valid: H×W, which pixels have a point.
        behind: the share of pixels that were left out because their points lie behind a pinhole camera.
    """
    height, width = valid.shape
    if min(height, width) < _LEAST_SIDE:
        raise ImageError(
            f"is a strip of {width}×{height} pixels: a geometry has at least {_LEAST_SIDE} rows and columns"
        )
    share = np.count_nonzero(valid) / valid.size
    if share >= _LEAST_VALID:
        return
    if behind >= _LEAST_VALID:
        raise ImageError(
            f"has points behind the camera in {100 * behind:.0f} % of its pixels: its values grow towards the camera "
            "(set axis to height), or the offset is wrong"
        )
    raise ImageError(
        f"has a point in {100 * share:.2g} % of its pixels: check which values mean no point (invalid) and, of a cloud "
        "that is projected, take a coarser projection"
    )


def check_extent(shape: Shape) -> Shape:
    """The same. Raises `ImageError` where the points span less or more than any part does."""
    largest = max(extent(shape)[:2])
    if largest > _LARGEST:
        raise ImageError(
            f"has points that span {largest:.3g} mm, more than any part: check its unit, and which values mean no "
            "point (invalid)"
        )
    if largest < _SMALLEST:
        raise ImageError(f"has points that span {largest:.3g} mm, less than any part: check its unit and its axes")
    return shape
