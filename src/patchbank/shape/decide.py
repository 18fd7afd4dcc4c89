"""What the geometry of a set of samples means, decided once, when a model is fitted: unit, camera, tallest part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import Sample, ValueRange
from patchbank.data.channels import Made, made_of, register_made
from patchbank.errors import ImageError, notify
from patchbank.sample import GEOMETRY_CHANNEL, MADE_OF
from patchbank.shape.extent import describe
from patchbank.shape.features import SHAPE_FEATURES
from patchbank.shape.format import DepthFormat
from patchbank.shape.images import SHAPE_IMAGES, relief
from patchbank.shape.read import decide_unit, read_shape, shape_size
from patchbank.shape.shape import Pitch, Shape
from patchbank.shape.surface import surface_of
from patchbank.shape.views import COUNTS

VIEWS = {f"views{count}": count for count in COUNTS}  # channels of a part drawn from several sides
POINTS = "points"  # the channel of a network that sees points
_LOOKED_AT = 24  # samples that the tallest part is measured on
_REDUCED = (384, 384)  # at about this size


@dataclass(frozen=True)
class Depths:
    """What a model knows of geometry. `format`: of the numbers in files; `top_mm`: the height above the background that
    is white in pictures of heights."""

    format: DepthFormat
    top_mm: float

    def state(self) -> dict[str, Any]:
        """As plain values, for the model file."""
        return {"format": self.format.state(), "top_mm": self.top_mm}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Depths:
        """The inverse of `state`."""
        return cls(DepthFormat.of(state["format"]), float(state["top_mm"]))


def read_sample_shape(sample: Sample, depths: Depths) -> Shape:
    """The geometry of a sample. Raises `ImageError`, one sentence that names it, and xyz among other channels."""
    data = sample.seen_in(GEOMETRY_CHANNEL).data
    others = len(sample.channels) > 1
    return read_shape(data, depths.format, f"{sample.name}: {GEOMETRY_CHANNEL}" if others else sample.name)


def decide_depths(samples: Sequence[Sample], channels: Sequence[str], given: DepthFormat | None) -> Depths | None:
    """What the geometry of the samples means; None where none of the `channels` needs it. The extent of the first one
    is said."""
    made = [name for name in channels if name in MADE_OF]
    used = [s for s in samples if any(made_of(s.seen_in(name)) is not None and _has(s, name) for name in made)]
    if not used:
        return None
    form = given or DepthFormat()
    some = used[:: max(1, -(-len(used) // _LOOKED_AT))]
    tops: list[float] = []
    for sample in some:
        try:
            data = sample.seen_in(GEOMETRY_CHANNEL).data
            form = decide_unit(data, form, sample.name)
            shape = read_shape(data, form, sample.name)
        except ImageError:  # told by the one that learns from it
            continue
        if not tops:
            unknown = form.camera is None and shape.camera == Pitch(1.0, 1.0)
            words = "; no camera is known, so one pixel counts as 1 mm (--camera)" if unknown else ""
            notify(f"geometry of {sample.name}: {describe(shape)}{words}")
        tops.append(relief(surface_of(shape.reduced(_REDUCED))))
    return Depths(form, max(tops, default=1.0))


def _has(sample: Sample, channel: str) -> bool:
    try:
        return sample.seen_in(channel).data is not None
    except ImageError:
        return False


# ---- shape images as pictures of a sample ----------------------------------------------------------------------------


def _picture(sample: Sample, values: ValueRange) -> NDArray[np.uint8]:
    """The shape image of the channel that is looked at, at the size of the file; the curvature for features of
    points."""
    shape = read_sample_shape(sample, values.depths)
    name = sample.channel if sample.channel in SHAPE_IMAGES else "curvature"
    small = SHAPE_IMAGES[name](surface_of(shape.reduced(_REDUCED)), values.depths.top_mm)
    height, width = shape.size
    if small.shape[:2] == (height, width):
        return small
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _stored(sample: Sample, values: ValueRange) -> NDArray[np.float32]:
    return read_sample_shape(sample, values.depths).z


def _size(sample: Sample, values: ValueRange) -> tuple[int, int]:
    return shape_size(sample.seen_in(GEOMETRY_CHANNEL).data, values.depths.format)


for _name in (*SHAPE_IMAGES, *SHAPE_FEATURES, *VIEWS, POINTS):
    register_made(_name, Made(_picture, _stored, _size))
