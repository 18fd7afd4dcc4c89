"""What people are shown of a sample: its picture, and its geometry as a surface under a lamp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import Sample, ValueRange, read_image
from patchbank.data.channels import made_of
from patchbank.errors import ImageError
from patchbank.sample import GEOMETRY_CHANNEL
from patchbank.shape.decide import Depths, read_sample_shape
from patchbank.shape.shape import Shape
from patchbank.shape.surface import surface_of

Picture: TypeAlias = NDArray[np.uint8]

NO_POINT = (16, 12, 28)  # darker than any surface is painted
_PLAIN = ValueRange()
_REDUCED = (384, 384)  # geometry is shaded at about this size
_STEEPER = 2.0  # slopes are shown so many times as steep: a shallow dent must catch the eye
_LAMP = np.array([-0.5, 0.5, 0.7071], np.float32)  # from the upper left, as people expect; x right, y up, z to the eye
_DARKEST = 45.0
_LOW, _HIGH = np.array([0.62, 0.75, 0.92], np.float32), np.array([1.0, 0.93, 0.78], np.float32)  # tints of heights


@dataclass(frozen=True, eq=False)
class Shown:
    """A sample as people see it.

    Attributes:
        picture: H×W×3 uint8, the channel that is looked at first; the shaded geometry where that is made of geometry.
        relief: H×W×3 uint8, the shaded geometry beside a picture; None where no geometry is looked at, and where
            `picture` shows it already.
        is_relief: whether `picture` is the shaded geometry.
    """

    picture: Picture
    relief: Picture | None = None
    is_relief: bool = False


def shown(source: Sample, values: ValueRange = _PLAIN) -> Shown:
    """A sample, seen in the first channel of a model, whose `values` say whether it looks at geometry.

    Raises:
        ImageError: a file cannot be read.
    """
    if made_of(source) is not None:
        return Shown(shaded(source, values.depths), is_relief=True)
    picture = read_image(source, values).astype(np.uint8, copy=False)
    if values.depths is None or not source.has_geometry:
        return Shown(picture)
    return Shown(picture, shaded(source.seen_in(GEOMETRY_CHANNEL), values.depths))


def shaded(source: Sample, depths: Depths) -> Picture:
    """H×W×3 uint8, the geometry of a sample by `shaded_view`. Raises `ImageError`, one sentence that names it."""
    shape = read_sample_shape(source, depths)
    try:
        return shaded_view(shape, depths.top_mm)
    except ImageError as error:
        raise ImageError(f"{source.name}: {error}") from None


def shaded_view(shape: Shape, top_mm: float) -> Picture:
    """The surface under a lamp at the upper left, bluish where it is low and sandy where it is high.

    Slopes are shown steeper than they are. Where several points beside each other are missing it has the colour
    `NO_POINT`; single ones are filled.

    Args:
        shape: the geometry of a part, H×W.
        top_mm: the height above the plane that is the most sandy, in millimetres.

    Returns:
        H×W×3 uint8.

    Raises:
        ImageError: no point is valid.
    """
    small = shape.reduced(_REDUCED)
    surface = surface_of(small)
    normals = surface.normals * np.array([_STEEPER, _STEEPER, 1.0], np.float32)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-6)
    light = np.clip(normals @ _LAMP, 0.0, 1.0)[..., None]
    height = surface.height / np.float32(top_mm)
    if not surface.plane.is_background:  # the plane runs through the part
        height = (height + 1) / 2
    share = np.clip(height, 0.0, 1.0)[..., None]
    lit = (_DARKEST + (255.0 - _DARKEST) * light) * (_LOW + share * (_HIGH - _LOW))
    missing = cv2.morphologyEx((~small.valid).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    painted = np.where(missing[..., None] > 0, np.array(NO_POINT, np.float32), lit).astype(np.uint8)
    height_px, width_px = shape.size
    if painted.shape[:2] == (height_px, width_px):
        return painted
    return np.asarray(cv2.resize(painted, (width_px, height_px), interpolation=cv2.INTER_LINEAR))
