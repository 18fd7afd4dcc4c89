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

    def pitch(self) -> float:
        """Millimetres from one pixel to the next, in the middle of the part; 0 without valid points."""
        if isinstance(self.camera, Pitch):
            return float(np.sqrt(abs(self.camera.x * self.camera.y)))
        if not self.valid.any():
            return 0.0
        return float(abs(np.median(self.z[self.valid])) / np.sqrt(self.camera.fx * self.camera.fy))
