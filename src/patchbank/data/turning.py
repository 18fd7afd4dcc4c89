"""Turning images about their centre, to learn from few of them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.sample import Sample

ANGLES = tuple(45.0 * i for i in range(8))  # as AnomalyDINO (arXiv 2405.14529)


def turned_by(sources: list[Sample]) -> list[Sample]:
    """Each source as it is, and then turned by seven angles."""
    return [replace(source, angle=angle) for source in sources for angle in ANGLES]


def turn(rgb: NDArray[np.uint8] | NDArray[np.float32], angle: float) -> NDArray[np.uint8] | NDArray[np.float32]:
    """H×W×3 turned counter-clockwise by an angle in degrees, same size; corners that come free mirror the image, so
    that no edge is invented."""
    height, width = rgb.shape[:2]
    matrix = _matrix((height, width), angle)
    turned: NDArray[np.uint8] | NDArray[np.float32] = cv2.warpAffine(
        rgb, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned


def turned_back(box: tuple[int, int, int, int], size: tuple[int, int], angle: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in the turned image → what encloses it in the image as it was, of `size` (height,
    width)."""
    return carried(box, cv2.invertAffineTransform(_matrix(size, angle)), size) if angle else box


def carried(
    box: tuple[int, int, int, int], matrix: NDArray[np.float64], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """What encloses a box after a 2×3 matrix took its pixels into an image of `size` (height, width)."""
    left, top, right, bottom = box
    # pixel centres have whole numbers: the edges of a box lie half a pixel beside
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], float) - 0.5
    back = (corners @ matrix[:, :2].T + matrix[:, 2] + 0.5).round(6)
    height, width = size
    (x0, y0), (x1, y1) = np.floor(back.min(0)).astype(int), np.ceil(back.max(0)).astype(int)
    x0, y0 = int(np.clip(x0, 0, width - 1)), int(np.clip(y0, 0, height - 1))
    return x0, y0, int(np.clip(x1, x0 + 1, width)), int(np.clip(y1, y0 + 1, height))


def _matrix(size: tuple[int, int], angle: float) -> NDArray[np.float64]:
    height, width = size
    return np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0))
