"""The plane that a part lies on, and which points belong to the part.

No threshold is a length. Every distance is compared with the spread of the plane's own points, which makes the result
the same in any unit and for any sensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

BORDER = 10  # pixels at each side of the picture that are searched for a background
_HYPOTHESES, _SCORED = 200, 500  # planes through three points, and points that each is judged by
_MOST_POINTS = 4000  # that a plane is fitted to
_LEAST_FACING = 0.25  # cosine between a background's normal and the optical axis: no plane is seen from its edge
_QUANTILE = 0.4  # of distances: a plane is found where at least this share of the border shows it
_NORMAL_QUANTILE = 0.5244  # the 40 % quantile of |x| for a standard normal x
_MAD = 1.4826  # standard deviations in a median absolute deviation of normal noise
_BAND = 3.0  # spreads: points nearer than this are refined on
_LEAST_SHARE = 0.35  # of the border's points must lie on a background plane
_LEAST_SEEN = 0.1  # of the border's pixels must be valid
_FLAT = 0.02  # largest spread of a plane, as a share of the extent of its points
_CUT = 5.0  # spreads: points farther than this do not belong to the background
_STANDS = 3.0  # cuts: the median height of a part that stands on a background
_LEAST_PART = 0.02  # of the valid points, for a part that stands on a background
_LEAST_LEVELS = 16  # steps between depths that show a quantised height map
_LEAST_PIXELS = 4  # of a component, however far it is
_LEAST_VOLUME = 8, 1e-4  # of a component, pixels times mean distance in cuts: that, and that share of the picture


@dataclass(frozen=True, eq=False)
class Plane:
    """Points p with normal·p + offset = 0.

    Attributes:
        normal: (3,) float64, unit length, towards the camera.
        offset: millimetres.
        spread: millimetres, the robust standard deviation of the plane's points from it; never 0.
        is_background: Whether the part lies on it; otherwise it is the frame of a part that fills the picture.
    """

    normal: Doubles
    offset: float
    spread: float
    is_background: bool

    def height(self, xyz: Points) -> Doubles:
        """Millimetres above the plane, towards the camera, of …×3 points."""
        above: Doubles = xyz @ self.normal + self.offset
        return above

    def frame(self) -> Doubles:
        """3×3 rotation whose rows are the plane's axes: x along the picture's rows, y up the picture, z = normal."""
        along = np.array([1.0, 0.0, 0.0]) - self.normal[0] * self.normal
        if np.linalg.norm(along) < 1e-6:  # seen along its own x axis: turn y's projection instead
            along = np.cross(np.array([0.0, -1.0, 0.0]), self.normal)
        along /= np.linalg.norm(along)
        return np.stack([along, np.cross(self.normal, along), self.normal])


def background_plane(xyz: Points, valid: Mask, border: int = BORDER, seed: int = 0) -> Plane | None:
    """Find the plane that the border of the picture shows, by RANSAC, and refine it by least squares.

    The border may be covered by the part up to about one half. Where two planes are seen, the farther one is taken.

    Args:
        xyz: H×W×3 points, millimetres.
        valid: H×W, which points count.
        border: Width of the border in pixels.
        seed: Of the random hypotheses.

    Returns:
        The plane, or None where the border shows no plane.
    """
    rim = np.ones(valid.shape, bool)
    rim[border : valid.shape[0] - border, border : valid.shape[1] - border] = False
    seen = xyz[rim & valid]
    if len(seen) < max(3, _LEAST_SEEN * rim.sum()):
        return None
    random = np.random.default_rng(seed)
    points, floor = _sample(seen, random), _resolution(xyz[..., 2], valid, _rounding(seen))
    plane, least = None, _LEAST_SHARE * len(points)
    while len(points) >= least:
        found = _ransac(points, floor, random)
        if found is None or found[1] < least:
            break
        plane = found[0]
        points = points[plane.height(points) < -_BAND * plane.spread]  # a background may lie behind a flat part
    return plane


def best_plane(xyz: Points, valid: Mask) -> Plane:
    """The plane with the smallest sum of squared distances to all points: the frame of a part that fills the picture.

    Of planes that are equally good, as those through a line of points are, it is the one that faces the camera most.

    Args:
        xyz: H×W×3 points, millimetres.
        valid: H×W, which points count; at least one.
    """
    doubles: Doubles = _on_lattice(xyz, valid).astype(np.float64)
    mean = doubles.mean(0)
    centred = doubles - mean
    scatter = centred.T @ centred
    scatter += 1e-9 * np.trace(scatter) * np.diag([1.0, 1.0, 0.0])
    normal = np.array([0.0, 0.0, -1.0])
    if scatter.any():
        normal = _to_camera(np.linalg.eigh(scatter)[1][:, 0])
    return _plane(doubles, normal, mean, _rounding(doubles), False)


def part_on(plane: Plane, height: Points, valid: Mask) -> Mask | None:
    """The part that stands on a background plane: what lies farther from it than a multiple of its spread.

    Components are kept by area and distance, so that pieces that broke off are kept too.

    Args:
        plane: A background plane.
        height: H×W, millimetres above it.
        valid: H×W, which points count.

    Returns:
        H×W, or None where nothing stands on the plane: then it belongs to a part that fills the picture.
    """
    cut = _CUT * plane.spread
    away = (np.abs(height) > cut) & valid
    distances = height[away]
    front = distances[distances > 0]
    if len(front) < max(_LEAST_PART * valid.sum(), 1) or np.median(front) < _STANDS * cut:
        return None
    count, labels, stats, _ = cv2.connectedComponentsWithStats(away.view(np.uint8), connectivity=8)
    volume = np.bincount(labels[away], np.abs(distances) / cut, minlength=count)
    kept = (stats[:, cv2.CC_STAT_AREA] >= _LEAST_PIXELS) & (
        volume >= max(_LEAST_VOLUME[0], _LEAST_VOLUME[1] * away.size)
    )
    kept[0] = False  # what is not away
    return kept[labels] if kept.any() else None


def _ransac(points: Doubles, floor: float, random: np.random.Generator) -> tuple[Plane, int] | None:
    """The plane that the smallest 40 % of the distances (least quantile of squares, Rousseeuw 1984) favour, and the
    number of points on it; None where these are not flat."""
    corners = points[random.integers(len(points), size=(_HYPOTHESES, 3))]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(one, two)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-6 * np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    usable &= np.abs(normals[:, 2]) >= _LEAST_FACING * lengths
    if not usable.any():
        return None
    normals = normals[usable] / lengths[usable, None]
    offsets = -(normals * corners[usable, 0]).sum(1)
    scored = points[random.choice(len(points), min(len(points), _SCORED), replace=False)]
    distances = np.abs(normals @ scored.T + offsets[:, None])
    rank = int(_QUANTILE * (len(scored) - 1))
    cost = np.partition(distances, rank, axis=1)[:, rank]
    best = int(cost.argmin())
    plane = Plane(normals[best], float(offsets[best]), max(float(cost[best]) / _NORMAL_QUANTILE, floor), True)
    return _refine(points, plane, floor)


def _refine(points: Doubles, plane: Plane, floor: float) -> tuple[Plane, int] | None:
    """Fit and choose the inliers in turn until they stay the same."""
    before = None
    for _ in range(20):
        near = np.abs(plane.height(points)) <= _BAND * plane.spread
        if near.sum() < 3 or (before is not None and np.array_equal(near, before)):
            break
        before, inliers = near, points[near]
        fitted = _least_squares(inliers, floor)
        if fitted is None:
            return None
        plane = fitted
    if before is None:
        return None
    extent = np.sqrt(np.linalg.eigvalsh(np.cov(points[before].T))[-1])
    return (plane, int(before.sum())) if plane.spread <= _FLAT * extent else None


def _least_squares(points: Doubles, floor: float) -> Plane | None:
    """The plane through the mean of N×3 points with the smallest sum of squares; None where they lie in a line."""
    mean = points.mean(0)
    centred = points - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    if values[1] <= 1e-12 * values[2]:
        return None
    normal = _to_camera(vectors[:, 0])
    return _plane(points, normal, mean, floor, True)


def _plane(points: Doubles, normal: Doubles, mean: Doubles, floor: float, is_background: bool) -> Plane:
    offset = -float(normal @ mean)
    spread = _MAD * float(np.median(np.abs(points @ normal + offset)))
    return Plane(normal, offset, max(spread, floor), is_background)


def _sample(points: Points, random: np.random.Generator) -> Doubles:
    """No more points than a plane needs."""
    if len(points) > _MOST_POINTS:
        points = points[np.sort(random.choice(len(points), _MOST_POINTS, replace=False))]
    return points.astype(np.float64)


def _to_camera(normal: Doubles) -> Doubles:
    return -normal if normal[2] > 0 else normal


def _rounding(points: Points) -> float:
    """Below this no float32 coordinate can tell heights apart. Above 0, also where all points lie in the origin."""
    return max(4 * float(np.finfo(np.float32).eps) * float(np.abs(points).max()), 1e-30)


def _resolution(depths: Points, valid: Mask, rounding: float) -> float:
    """The least spread that the depths allow: half the smallest step between two of them, or their rounding.

    Without it, the steps of a quantised height map would stand out from a flat background. Depths that are not
    quantised have far smaller steps than any spread. A handful of depths says nothing.
    """
    steps = np.diff(np.unique(_on_lattice(depths, valid)[::4]))
    steps = steps[steps > rounding]
    return max(0.5 * float(steps.min()), rounding) if len(steps) >= _LEAST_LEVELS else rounding


def _on_lattice(values: Points, valid: Mask) -> Points:
    """Values of the valid points of every N-th row and column, several times as many as a plane needs; or all."""
    step = max(1, int(np.sqrt(valid.sum() / _MOST_POINTS / 4)))
    some = values[::step, ::step][valid[::step, ::step]]
    return some if len(some) >= _MOST_POINTS else values[valid]
