"""Views of a part from several sides, and features of them back on the picture: the rendering half of CPMF.

Cao et al. 2023, "Complementary Pseudo Multimodal Feature for Point Cloud Anomaly Detection": the points are turned,
shaded and drawn, a network for pictures sees each drawing, and a point takes the mean of its features over the views.
Nothing is trained, and no graphics library is used: points are splatted with a z-buffer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system.threads import for_each, spread
from patchbank.errors import ImageError, OptionError
from patchbank.shape.shape import Pinhole, Shape

COUNTS = (1, 9, 27)
_ANGLES = (0.0, -15.0, 15.0)  # degrees about each axis
_TOLERANCE = 3.0  # pixels' worth of depth that lie on one surface: one of 70 degrees
_RADIUS = 0.75  # pixels of the picture; more than half of one, as a turned slope has its points farther apart
_LEAST_WEIGHT = 0.01  # of valid points in a smoothed depth, all around: 1
_SMOOTHING = 1.5  # pixels; the sensor's noise tilts normals of single points by several degrees

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View2D:
    """A part as drawn from one side.

    Attributes:
        image: h×w×3 uint8, three equal channels; 0 where there is no point.
        positions: H×W×2 float32, row and column in the image of each pixel's point of the shape; NaN where it has none.
        visible: H×W, whether that point lies in the image and is not behind another surface.
    """

    image: NDArray[np.uint8]
    positions: Floats
    visible: NDArray[np.bool_]


def rotations(count: int = 27) -> list[NDArray[np.float64]]:
    """The first `count` of the 27 rotations R_z·R_y·R_x with angles in {0, −15°, 15°}.

    1: the camera's own view. 9: all tilts about x and y, none about z: light from the camera shades a part alike
    however it is turned about z, so that those views add least. Raises `OptionError` for another number.
    """
    if count not in COUNTS:
        raise OptionError(f"views must be one of {', '.join(map(str, COUNTS))}, not {count}")
    turns = []
    for z, y, x in itertools.islice(itertools.product(_ANGLES, repeat=3), count):
        (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (x, y, z))
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        turns.append(about_z @ about_y @ about_x)
    return turns


def views(shape: Shape, count: int = 27, size: tuple[int, int] | None = None) -> list[View2D]:
    """A part from several sides.

    It is turned about the mean of its points, and seen by its own camera each time: the first view is the picture's,
    point for point. It is lit from the camera: grey 255·max(0, −n_z) of its turned normals (Lambert). A point covers
    one or two pixels of the picture each way, however large the view is, and pixels between splats are closed.

    What the part is, is for the caller: points of a background that are valid are drawn as well, and so is a filled
    hole.

    Args:
        shape: the part.
        count: 1, 9 or 27, see `rotations`.
        size: height and width of each view in pixels; the shape's own if None.

    Raises:
        OptionError: there is no such count.
        ImageError: the shape has no valid point.
    """
    turns = rotations(count)
    if not shape.valid.any():
        raise ImageError("this part has no valid point: look at its depth image, and at the values that mean invalid")
    points, normals = shape.xyz(), camera_normals(shape)
    centre = points[shape.valid].mean(0, dtype=np.float64)
    height, width = size or shape.size
    scale = height / shape.size[0], width / shape.size[1]
    frame = _Frame(shape, points, normals, centre, (height, width), scale)
    return for_each(frame.draw, turns)


def camera_normals(shape: Shape) -> Floats:
    """H×W×3 unit normals in the camera's frame, pointing to it; 0 where not valid.

    The cross product of the differences of neighbours along rows and columns. Depths are smoothed over valid points
    first, which also gives a depth to the missing neighbours of a valid point.
    """
    from patchbank.shape.view_kernels import cross  # numba is imported where it is used

    given = shape.valid.astype(np.float32)
    weight = cv2.GaussianBlur(given, (0, 0), _SMOOTHING)
    known = weight > _LEAST_WEIGHT
    smooth = np.where(known, cv2.GaussianBlur(shape.z * given, (0, 0), _SMOOTHING) / np.maximum(weight, 1e-6), 0)
    normals = np.empty((*shape.size, 3), np.float32)
    cross(Shape(smooth.astype(np.float32), known, shape.camera).xyz(), known, shape.valid, normals)
    return normals


@dataclass(frozen=True, eq=False)
class _Frame:
    """What all views of one part share."""

    shape: Shape
    points: Floats
    normals: Floats
    centre: NDArray[np.float64]
    size: tuple[int, int]
    scale: tuple[float, float]

    def draw(self, turn: NDArray[np.float64]) -> View2D:
        """The view after one rotation."""
        from patchbank.shape.view_kernels import close, see, splat

        shape, camera = self.shape, self.shape.camera
        if isinstance(camera, Pinhole):
            values = np.array([1, camera.fx, camera.fy, camera.cx, camera.cy], np.float64)
        else:
            values = np.array([0, 1 / camera.x, 1 / camera.y, 0, 0], np.float64)
        positions, visible = np.empty((*shape.size, 2), np.float32), np.empty(shape.size, np.bool_)
        depth, grey = np.full(self.size, np.inf, np.float32), np.zeros(self.size, np.float32)
        closed, image = np.empty_like(depth), np.empty(self.size, np.uint8)
        radius = tuple(_RADIUS * max(each, 1.0) for each in self.scale)
        tolerance = _TOLERANCE * shape.pitch()
        splat(
            self.points,
            self.normals,
            shape.valid,
            turn,
            self.centre,
            values,
            self.scale,
            radius,
            positions,
            depth,
            grey,
        )
        close(depth, grey, tolerance, closed, image)
        see(self.points, shape.valid, turn, self.centre, positions, closed, tolerance, visible)
        return View2D(np.repeat(image[..., None], 3, 2), positions, visible)


def gather(
    features: Sequence[Floats], seen: Sequence[View2D], rows: int, columns: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Features of views back on a grid over the picture.

    A point's feature is read bilinearly at its position in each view, and the mean is taken over the views in which it
    is visible. The mean of a cell is that of its points that are visible in any view. Never a maximum: views differ
    most where one of them is drawn badly.

    Args:
        features: h×w×D float32 for each view, all of one size, over the whole view.
        seen: the views.
        rows: of the grid over the shape; pixel (r, c) is in the cell (r·rows // H, c·columns // W).
        columns: of the grid.

    Returns:
        rows×columns×D features, 0 where no point is visible, and rows×columns, whether one is.
    """
    from patchbank.shape.view_kernels import collect

    if len(features) != len(seen):
        raise OptionError(f"there are features of {len(features)} views and {len(seen)} views: give one for each")
    height, width = seen[0].visible.shape
    times = np.sum([view.visible for view in seen], 0, dtype=np.float32)
    cells = tuple(-(-np.arange(n + 1) * length // n) for n, length in ((rows, height), (columns, width)))
    row_of, column_of = np.arange(height) * rows // height, np.arange(width) * columns // width
    cell = row_of[:, None] * columns + column_of
    points = np.bincount(cell.ravel(), weights=times.ravel() > 0, minlength=rows * columns)
    weight = 1 / (np.maximum(times, 1) * np.maximum(points, 1)[cell]).astype(np.float32)
    out = np.zeros((rows, columns, features[0].shape[2]), np.float32)

    contiguous = [np.ascontiguousarray(each, np.float32) for each in features]

    def part(start: int, stop: int) -> None:
        for each, view in zip(contiguous, seen, strict=True):
            collect(each, view.positions, view.visible, weight, view.image.shape[:2], cells, out, start, stop)

    spread(part, rows)
    return out, (points > 0).reshape(rows, columns)
