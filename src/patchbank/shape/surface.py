"""What is computed once from a part's geometry: heights, normals, curvature, and which pixels belong to the part."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system.threads import spread
from patchbank.errors import ImageError
from patchbank.shape.grid import divergence, fill, grid_normals, to_plane
from patchbank.shape.plane import Doubles, Mask, Plane, background_plane, best_plane, part_on
from patchbank.shape.shape import Pinhole, Shape

Floats = NDArray[np.float32]

SIGMA = 1.5  # pixels, of the Gaussian that points and then normals are smoothed with
_GRAIN = 16  # rows


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface of one part, in the frame of its plane: x along the picture's rows, y up, z towards the camera.

    Pixels without a point have the values of the nearest valid one in `height`, `normals` and `curvature`. These are
    for pictures; `part` and `trusted` say what was measured.

    Attributes:
        shape: What the surface was computed from.
        plane: The plane that the part lies on, or the best one through all points.
        height: H×W float32, millimetres above the plane.
        normals: H×W×3 float32, unit length, towards the camera, in the plane's frame.
        curvature: H×W float32, divergence of the smoothed normals: the sum of both principal curvatures, per pixel
            pitch. Positive on a bump towards the camera, negative in a dent; 2/r on a sphere with a radius of r pixels.
        part: H×W, valid points of the part; all valid points where no background was found.
        trusted: H×W, valid points without the rim, one pixel wide, around points that are not valid.
        nearest: H×W int32, row·W + column of the nearest valid pixel; the pixel itself where it is valid.
    """

    shape: Shape
    plane: Plane
    height: Floats
    normals: Floats
    curvature: Floats
    part: Mask
    trusted: Mask
    nearest: NDArray[np.int32]

    @property
    def filled_part(self) -> Mask:
        """H×W, the part with its pixels that have no point: those whose nearest valid point belongs to it."""
        return self.part if self.shape.valid.all() else self.part.ravel()[self.nearest]


def surface_of(shape: Shape, seed: int = 0, background: bool = True) -> Surface:
    """Compute the surface of a shape.

    Points are smoothed by a Gaussian over the valid ones among their neighbours (normalised convolution). The result
    does not depend on the unit of length, except that heights have it.

    Args:
        shape: The geometry of a part.
        seed: Of the search for the background plane.
        background: False for parts that fill the picture: no background is looked for.

    Raises:
        ImageError: There is no valid point.
    """
    valid = shape.valid
    if not valid.any():
        raise ImageError("has no valid point: check which values mark invalid points, or leave this sample out")
    plane, part, points = _locate_part(shape, seed, background)
    height, nearest = points[..., 2].copy(), _nearest_valid(valid)
    normals, curvature = _normals_and_curvature(shape, plane, points)
    if not valid.all():
        rows = shape.size[0]
        spread(lambda start, stop: fill(nearest, valid, height, normals, curvature, start, stop), rows, _GRAIN)
    trusted = cv2.erode(valid.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
    return Surface(shape, plane, height, normals, curvature, part, trusted, nearest)


def _locate_part(shape: Shape, seed: int, background: bool) -> tuple[Plane, Mask, Floats]:
    """The plane, the part, and the points in the plane's frame."""
    xyz, valid = shape.xyz(), shape.valid
    plane = background_plane(xyz, valid, seed=seed) if background else None
    if plane is not None:
        points = _to_frame(xyz, shape, plane)
        part = part_on(plane, points[..., 2], valid)
        if part is not None:
            return plane, part, points
    plane = best_plane(xyz, valid)
    return plane, valid, _to_frame(xyz, shape, plane)


def _to_frame(xyz: Floats, shape: Shape, plane: Plane) -> Floats:
    """H×W×4 float32: x, y and height in the plane's frame, and 1; all 0 where not valid."""
    points = np.empty((*shape.size, 4), np.float32)
    origin, frame, valid = _origin(shape, plane), plane.frame(), shape.valid
    spread(lambda start, stop: to_plane(xyz, valid, origin, frame, points, start, stop), shape.size[0], _GRAIN)
    return points


def _origin(shape: Shape, plane: Plane) -> Doubles:
    """Where the plane meets the ray of the picture's middle: near the points, which float32 holds best there."""
    row, column = ((side - 1) / 2 for side in shape.size)
    camera, direction = shape.camera, np.array([0.0, 0.0, 1.0])
    start = np.zeros(3)
    if isinstance(camera, Pinhole):
        direction[:2] = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    else:
        start[:2] = column * camera.x, row * camera.y
    away = float(plane.normal @ direction)
    if abs(away) < 1e-3:  # a plane seen from its edge
        return -plane.offset * plane.normal
    origin: Doubles = start - plane.height(start) / away * direction
    return origin


def _normals_and_curvature(shape: Shape, plane: Plane, points: Floats) -> tuple[Floats, Floats]:
    """Normals and curvature of the valid pixels, from points in the plane's frame, which are written over."""
    valid, rows, eye = shape.valid, shape.size[0], _eye(shape, plane)
    turn, pitch = _turn(shape), shape.pitch()
    sums = _blur(points)
    normals, curvature = np.empty((*shape.size, 3), np.float32), np.empty(shape.size, np.float32)
    spread(lambda start, stop: grid_normals(sums, valid, eye, normals, points, start, stop), rows, _GRAIN)
    smooth = _blur(points, into=points)
    spread(lambda start, stop: divergence(smooth, sums, valid, turn, pitch, curvature, start, stop), rows, _GRAIN)
    return normals, curvature


def _blur(values: Floats, into: Floats | None = None) -> Floats:
    """Gaussian sums of H×W×4 values, 0 outside the picture."""
    blurred: Floats = cv2.GaussianBlur(values, (0, 0), SIGMA, dst=into, borderType=cv2.BORDER_CONSTANT)
    return blurred


def _eye(shape: Shape, plane: Plane) -> Doubles:
    """Where the camera is in the plane's frame: (x, y, z, 1), or (x, y, z, 0) for the direction to it."""
    if isinstance(shape.camera, Pinhole):
        return np.append(plane.frame() @ -_origin(shape, plane), 1.0)
    return np.append(plane.frame() @ np.array([0.0, 0.0, -1.0]), 0.0)


def _turn(shape: Shape) -> float:
    """Sign of the area that columns and rows span in the plane. Its y axis goes up: −1 unless the grid is mirrored."""
    camera = shape.camera
    x, y = (camera.fx, camera.fy) if isinstance(camera, Pinhole) else (camera.x, camera.y)
    return -float(np.sign(x * y))


def _nearest_valid(valid: Mask) -> NDArray[np.int32]:
    """The index of the valid pixel that is nearest to each pixel."""
    points = np.flatnonzero(valid)
    if len(points) == valid.size:
        return points.astype(np.int32).reshape(valid.shape)
    empty = (~valid).view(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    index_of = np.zeros(int(labels.max()) + 1, np.int32)
    index_of[labels.ravel()[points]] = points
    nearest: NDArray[np.int32] = index_of[labels]
    return nearest
