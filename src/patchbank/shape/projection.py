"""Clouds and meshes that have no grid, seen along their z axis by parallel rays: an orthographic z-buffer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.shape import Pitch, Shape

_MOST_PAIRS = 1 << 28  # of a triangle and a pixel that it may cover
_AT_ONCE = 1 << 19
Numbers = NDArray[np.float64]


def project_cloud(points: Numbers, size: tuple[int, int], pitch: Pitch | None, upwards: bool) -> Shape:
    """The nearest point in each pixel of a grid.

    Args:
        points: N×3, millimetres, z away from the camera.
        size: (height, width) of the grid.
        pitch: None for square pixels, as small as the cloud allows; the cloud lies in the middle of the grid.
        upwards: whether rows go against y, as heights are seen from above; otherwise with it, as a camera sees depths.
    """
    points = points[np.isfinite(points).all(axis=1)]
    places, pitch = _on_grid(points, size, pitch, upwards)
    depths = np.full(size, np.inf)
    columns, rows = np.rint(places[:, 0]).astype(np.int64), np.rint(places[:, 1]).astype(np.int64)
    inside = (columns >= 0) & (columns < size[1]) & (rows >= 0) & (rows < size[0])
    np.minimum.at(depths.reshape(-1), rows[inside] * size[1] + columns[inside], points[inside, 2])
    return _shape(depths, pitch)


def project_mesh(corners: Numbers, size: tuple[int, int], pitch: Pitch | None, upwards: bool) -> Shape:
    """The nearest triangle at the middle of each pixel of a grid. `corners`: N×3×3; the rest as `project_cloud`."""
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    flat, pitch = _on_grid(corners.reshape(-1, 3), size, pitch, upwards)
    places, z = flat.reshape(-1, 3, 2), corners[:, :, 2]
    depths = np.full(size, np.inf)
    for triangles, columns, rows in _candidates(places, size):
        a, b, c = (places[triangles, i] for i in range(3))
        here = np.stack([columns, rows], axis=1)
        area = _cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):  # a triangle seen from its edge has no area
            second, third = _cross(here - a, c - a) / area, _cross(b - a, here - a) / area
        first = 1 - second - third
        hit = np.minimum(np.minimum(first, second), third) >= -1e-9
        weights = np.stack([first, second, third], axis=1)[hit]
        seen = (weights * z[triangles[hit]]).sum(axis=1)
        np.minimum.at(depths.reshape(-1), rows[hit] * size[1] + columns[hit], seen)
    return _shape(depths, pitch)


def _on_grid(points: Numbers, size: tuple[int, int], pitch: Pitch | None, upwards: bool) -> tuple[Numbers, Pitch]:
    """N×2: the column and row of each point, in parts of a pixel, and the pitch of the grid."""
    if not len(points):
        raise ImageError("has no points with finite coordinates")
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    steps = np.array([max(size[1] - 1, 1), max(size[0] - 1, 1)])
    if pitch is None:
        side = float(((high - low) / steps).max())
        if not (side > 0 and np.isfinite(side)):
            raise ImageError("has all its points at one place, seen along z: check its axes and its unit")
        pitch = Pitch(side, side)
    directions = np.array([1, -1 if upwards else 1]) / (pitch.x, pitch.y)
    with np.errstate(over="ignore", invalid="ignore"):
        places: Numbers = (points[:, :2] - (low + high) / 2) * directions + steps / 2
    return np.clip(np.nan_to_num(places, nan=-1e9), -1e9, 1e9), pitch


def _candidates(places: Numbers, size: tuple[int, int]) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Pieces of the list of all (triangle, column, row) with the pixel in the triangle's box; never the whole list."""
    last = np.array([size[1], size[0]]) - 1
    low = np.clip(np.ceil(places.min(axis=1) - 1e-9), 0, last + 1).astype(np.int64)
    high = np.clip(np.floor(places.max(axis=1) + 1e-9), -1, last).astype(np.int64)
    wide, tall = np.maximum(high - low + 1, 0).T
    ends = np.cumsum(wide * tall)
    total = int(ends[-1]) if len(ends) else 0
    if total > _MOST_PAIRS or (wide * tall).astype(np.float64).sum() > _MOST_PAIRS:
        raise ImageError("has too many triangles that are large on this grid: take a smaller projection")
    for start in range(0, total, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, total))
        triangles = np.searchsorted(ends, numbers, side="right")
        within = numbers - (ends[triangles] - wide[triangles] * tall[triangles])
        down, across = np.divmod(within, wide[triangles])
        yield triangles, low[triangles, 0] + across, low[triangles, 1] + down


def _cross(one: Numbers, other: Numbers) -> Numbers:
    product: Numbers = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    return product


def _shape(depths: Numbers, pitch: Pitch) -> Shape:
    valid = np.isfinite(depths)
    return Shape(np.where(valid, depths, 0).astype(np.float32), valid, pitch)
