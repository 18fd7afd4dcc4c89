"""A depth for each pixel and the camera that turns it into points: all that is known of a part's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pinhole:
    """A camera whose rays meet in one point: x = (column − cx)·z/fx, y = (row − cy)·z/fy. All in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Pitch:
    """Parallel rays, as a height map has them: millimetres from one column (x) and one row (y) to the next."""

    x: float
    y: float


Camera: TypeAlias = "Pinhole | Pitch"


@dataclass(frozen=True, eq=False)
class Shape:
    """One part's geometry.

    Attributes:
        z: H×W float32, millimetres along the optical axis, growing away from the camera (a height map is negated);
            0 where the point is not valid.
        valid: H×W, whether a pixel has a point.
        camera: gives x and y.
    """

    z: NDArray[np.float32]
    valid: NDArray[np.bool_]
    camera: Camera

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.z.shape[0], self.z.shape[1]

    def xyz(self) -> NDArray[np.float32]:
        """H×W×3 points in millimetres: x to the right, y down, z away from the camera; 0 where not valid."""
        height, width = self.size
        columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        points = np.empty((height, width, 3), np.float32)
        camera = self.camera
        if isinstance(camera, Pinhole):
            points[..., 0] = (columns - np.float32(camera.cx)) / np.float32(camera.fx) * self.z
            points[..., 1] = (rows - np.float32(camera.cy)) / np.float32(camera.fy) * self.z
        else:
            points[..., 0] = columns * np.float32(camera.x)
            points[..., 1] = rows * np.float32(camera.y)
        points[..., 2] = self.z
        points[~self.valid] = 0
        return points

    def reduced(self, size: tuple[int, int]) -> Shape:
        """Made smaller by a whole factor, as long as it stays at least `size` (height, width): the mean depth of the
        valid points of each block. The same where there is no such factor above 1."""
        factor = min(self.size[0] // max(size[0], 1), self.size[1] // max(size[1], 1))
        if factor < 2:
            return self
        rows, columns = self.size[0] // factor, self.size[1] // factor
        blocks = (rows, factor, columns, factor)
        part = np.s_[: rows * factor, : columns * factor]
        counts = self.valid[part].reshape(blocks).sum((1, 3))
        totals = np.where(self.valid, self.z, 0)[part].reshape(blocks).sum((1, 3), dtype=np.float64)
        camera: Camera
        if isinstance(self.camera, Pinhole):
            fx, fy, cx, cy = self.camera.fx, self.camera.fy, self.camera.cx, self.camera.cy
            camera = Pinhole(fx / factor, fy / factor, (cx + 0.5) / factor - 0.5, (cy + 0.5) / factor - 0.5)
        else:
            camera = Pitch(self.camera.x * factor, self.camera.y * factor)
        return Shape((totals / np.maximum(counts, 1)).astype(np.float32), counts > 0, camera)

    def cropped(self, rows: slice, columns: slice) -> Shape:
        """Some of its rows and columns, from a first to before a last one."""
        camera, top, left = self.camera, rows.start or 0, columns.start or 0
        if isinstance(camera, Pinhole):
            camera = Pinhole(camera.fx, camera.fy, camera.cx - left, camera.cy - top)
        return Shape(self.z[rows, columns], self.valid[rows, columns], camera)

    def pitch(self) -> float:
        """Millimetres from one pixel to the next, in the middle of the part; 0 without valid points."""
        if isinstance(self.camera, Pitch):
            return float(np.sqrt(abs(self.camera.x * self.camera.y)))
        if not self.valid.any():
            return 0.0
        return float(abs(np.median(self.z[self.valid])) / np.sqrt(self.camera.fx * self.camera.fy))
