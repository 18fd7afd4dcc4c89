"""The camera that a grid of points was seen with, from the points: x follows the columns, and y the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape.shape import Camera, Pinhole, Pitch

_TOLERANCE = 0.5  # pixels, for 99 % of the points
_ALIKE = 0.01  # pixels between two fits that are equally good
_PERCENT = 99.0
_BEHIND = (
    "has points behind the camera: its z grows in the other direction than the format says (set axis to height, or to "
    "depth if it is height)"
)
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Points:
    """Some points of a grid: N×3 millimetres, and the column and row of each."""

    xyz: Numbers
    columns: Numbers
    rows: Numbers


@dataclass(frozen=True)
class _Fit:
    """A camera, its error in pixels for 99 % of the points, and whether it would have to see behind itself."""

    camera: Camera
    error: float
    is_behind: bool = False


def camera_of(points: Points, given: Camera | None) -> Camera:
    """The camera that puts 99 % of the points within half a pixel of where they are; `given` if it does.

    A pinhole is fitted to x/z and y/z, a pitch to x and y; an offset of the points along x or y is dropped, and axes
    that run against the columns or rows are turned. Raises `ImageError` where neither fits, and where the points lie
    behind the camera.
    """
    with np.errstate(all="ignore"):  # what overflows fits nothing
        return _of_points(points) if given is None else _checked(points, given)


def _checked(points: Points, given: Camera) -> Camera:
    if isinstance(given, Pinhole) and not _is_ahead(points.xyz[:, 2]):
        raise ImageError(_BEHIND)
    error = _error_of(points, given)
    if not error <= _TOLERANCE:
        raise ImageError(
            f"has points that the given camera does not see where they are ({_off(error)}): check the camera and the "
            "unit, or leave the camera out, for points tell theirs"
        )
    return given


def _of_points(points: Points) -> Camera:
    fit = _fitted(points)
    if fit is None or fit.error > _TOLERANCE:
        off = _off(fit.error if fit else np.inf)
        raise ImageError(
            f"has points that are not in the frame of the camera that scanned them ({off}): x must follow the columns "
            f"and y the rows, by a pinhole or a fixed pitch{_hint(points)}"
        )
    if fit.is_behind:
        raise ImageError(_BEHIND)
    return fit.camera


def _is_ahead(z: Numbers) -> bool:
    return len(z) > 0 and bool((z > 0).mean() > _PERCENT / 100)


def _fitted(points: Points) -> _Fit | None:
    """The better of a pinhole and a pitch; of equal ones a pinhole, unless the points would lie behind it."""
    x, y, z = points.xyz.T
    (sx, _, ex), (sy, _, ey) = _line(points.columns, x), _line(points.rows, y)
    fits = [_Fit(Pitch(sx, sy), max(ex, ey))]
    is_behind = _is_ahead(-z)
    if is_behind or _is_ahead(z):
        seen = z < 0 if is_behind else z > 0
        away = np.abs(z[seen])
        (sx, cx, ex), (sy, cy, ey) = (
            _line(points.columns[seen], x[seen] / away),
            _line(points.rows[seen], y[seen] / away),
        )
        fits.append(_Fit(Pinhole(1 / sx, 1 / sy, cx, cy), max(ex, ey), is_behind))
    fits = [fit for fit in fits if np.isfinite(fit.error)]
    return min(
        fits, key=lambda fit: fit.error + _ALIKE * (2 * fit.is_behind + isinstance(fit.camera, Pitch)), default=None
    )


def _line(places: Numbers, values: Numbers) -> tuple[float, float, float]:
    """The line that values follow along places: |slope|, the place where they are 0, and the 99th percentile of their
    distance from it, in places. Robust: median of slopes and offsets first, then least squares of what lies near."""
    if len(places) < 2 or not np.isfinite(values).all() or np.ptp(places) == 0:
        return np.nan, np.nan, np.inf
    order = np.argsort(places, kind="stable")
    third = max(len(order) // 3, 1)
    low, high = order[:third], order[-third:]
    steps = places[high] - places[low]
    apart = steps > 0
    if not apart.any():
        return np.nan, np.nan, np.inf
    slope = float(np.median((values[high] - values[low])[apart] / steps[apart]))
    offset = float(np.median(values - slope * places))
    for _ in range(2):
        off = np.abs(values - slope * places - offset)
        near = off <= 6 * np.median(off)
        centre, middle = places[near].mean(), values[near].mean()
        moved = places[near] - centre
        spread = float((moved * moved).sum())  # not by @, which wakes the threads of a library for so little
        if not spread > 0:
            break
        slope = float((moved * (values[near] - middle)).sum()) / spread
        offset = float(middle - slope * centre)
    if slope == 0:
        return np.nan, np.nan, np.inf
    error = float(np.percentile(np.abs((values - offset) / slope - places), _PERCENT))
    return abs(slope), -offset / slope, error


def _error_of(points: Points, camera: Camera) -> float:
    """How far off, in pixels and for 99 % of them, a camera sees points; of a pitch, but for an offset."""
    if isinstance(camera, Pinhole):
        ahead = points.xyz[:, 2] > 0
        x, y, z = points.xyz[ahead].T
        sides = (
            (camera.fx * x / z, points.columns[ahead] - camera.cx),
            (camera.fy * y / z, points.rows[ahead] - camera.cy),
        )
    else:
        x, y, _ = points.xyz.T
        sides = ((x / camera.x, points.columns), (y / camera.y, points.rows))
    return max(_distance(seen, true, isinstance(camera, Pitch)) for seen, true in sides)


def _distance(seen: Numbers, true: Numbers, is_free: bool) -> float:
    """Of places, whichever way their axis runs; up to an offset if that is free."""
    if not len(seen):
        return np.inf
    errors = []
    for sign in (1, -1):
        off = sign * seen - true
        errors.append(float(np.percentile(np.abs(off - np.median(off) if is_free else off), _PERCENT)))
    return min(errors)


def _hint(points: Points) -> str:
    """In which order the axes would fit, if in any."""
    for order in list(permutations(range(3)))[1:]:
        fit = _fitted(replace(points, xyz=points.xyz[:, order]))
        if fit and fit.error <= _TOLERANCE:
            names = [("x", "y", "z")[order.index(axis)] for axis in range(3)]
            return f"; they are stored in the order {' '.join(names)}, where x y z is expected"
    return ""


def _off(error: float) -> str:
    return f"they are off by {error:.3g} pixels" if np.isfinite(error) else "they lie on no grid"
