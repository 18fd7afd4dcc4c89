"""Shape images: surfaces as pictures for an ordinary image network.

Each is H×W×3 uint8. A background is painted in one colour, that of the ideal plane: its noise is not inspected. Pixels
of the part without a point show the nearest valid one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.errors import OptionError
from patchbank.shape.surface import Floats, Surface

ShapeImage: TypeAlias = Callable[[Surface, float], NDArray[np.uint8]]

_CURVATURE_GAIN = 400.0  # grey levels for a curvature of one per pixel
_QUANTILE = 0.999  # of heights: a single spike does not set the scale
_ELEVATION = math.radians(45)  # of the lights above the plane
_LIGHTS = [
    (math.cos(_ELEVATION) * math.cos(turn), math.cos(_ELEVATION) * math.sin(turn), math.sin(_ELEVATION))
    for turn in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
]


def relief(surface: Surface) -> float:
    """Largest height of the part, in millimetres above or below the plane, without the farthest thousandth of its
    points. The largest one of the training parts is `top_mm` of their images. Never 0."""
    heights = np.abs(surface.height[surface.part])
    rank = min(int(_QUANTILE * len(heights)), len(heights) - 1)
    return max(float(np.partition(heights, rank)[rank]), surface.plane.spread)


def height_image(surface: Surface, top_mm: float) -> NDArray[np.uint8]:
    """Height above the plane in three equal channels: 0 to `top_mm` millimetres is 0 to 255.

    Without a background −`top_mm` to `top_mm` is 0 to 255, since the plane then runs through the part.
    """
    heights, level = _height(surface, top_mm)
    return _to_image(surface, [(heights, level)] * 3)


def normals_image(surface: Surface, top_mm: float) -> NDArray[np.uint8]:
    """The unit normal in the plane's frame (x right, y up, z to the camera): −1 to 1 is 0 to 255."""
    channels = (surface.normals[..., axis] * 127.5 + 127.5 for axis in range(3))
    return _to_image(surface, zip(channels, (127.5, 127.5, 255.0), strict=True))


def curvature_image(surface: Surface, top_mm: float) -> NDArray[np.uint8]:
    """Mean curvature, slope and height: curvature·400 + 127.5, n_z·255, and the height as in `height`."""
    curvature = surface.curvature * _CURVATURE_GAIN + 127.5
    slope = surface.normals[..., 2] * 255.0
    return _to_image(surface, [(curvature, 127.5), (slope, 255.0), _height(surface, top_mm)])


def shading_image(surface: Surface, top_mm: float) -> NDArray[np.uint8]:
    """The matt (Lambertian) surface under three lights, one for each channel, 45° above the plane and 120° apart."""
    normals = surface.normals
    channels = [255.0 * (normals[..., 0] * x + normals[..., 1] * y + normals[..., 2] * z) for x, y, z in _LIGHTS]
    return _to_image(surface, zip(channels, (255.0 * light[2] for light in _LIGHTS), strict=True))


SHAPE_IMAGES: dict[str, ShapeImage] = {
    "height": height_image,  # height above the plane, as a share of the highest training part
    "normals": normals_image,  # direction of the surface: x, y and z of the unit normal
    "curvature": curvature_image,  # mean curvature, slope and height: the best single one
    "shading": shading_image,  # three lights from three sides
}


def _height(surface: Surface, top_mm: float) -> tuple[Floats, float]:
    """The channel of heights, and the level of the plane in it."""
    if not (math.isfinite(top_mm) and top_mm > 0):
        raise OptionError(f"top_mm {top_mm}: the height that is painted white must be a number of millimetres above 0")
    scale = np.float32(255.0 / top_mm)
    if surface.plane.is_background:
        return surface.height * scale, 0.0
    return surface.height * (scale / 2) + np.float32(127.5), 127.5


def _to_image(surface: Surface, channels: Iterable[tuple[Floats, float]]) -> NDArray[np.uint8]:
    """Three channels, each rounded and cut to bytes, with its level of the ideal plane in the background."""
    outside = ~surface.filled_part if surface.plane.is_background else None
    painted = []
    for values, level in channels:
        channel = cv2.addWeighted(values, 1.0, values, 0.0, 0.0, dtype=cv2.CV_8U)
        if outside is not None:
            np.copyto(channel, np.uint8(round(level)), where=outside)
        painted.append(channel)
    image: NDArray[np.uint8] = cv2.merge(painted)
    return image
