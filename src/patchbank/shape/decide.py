"""What the geometry of a set of samples means, decided once, when a model is fitted: unit, camera, background, size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import Sample, ValueRange
from patchbank.data.channels import Made, made_of, register_made
from patchbank.errors import ImageError, notify
from patchbank.sample import GEOMETRY_CHANNEL, MADE_OF, Data
from patchbank.shape.extent import describe, extent
from patchbank.shape.features import SHAPE_FEATURES
from patchbank.shape.format import DepthFormat
from patchbank.shape.images import SHAPE_IMAGES, relief
from patchbank.shape.read import decide_unit, read_shape, shape_size
from patchbank.shape.shape import Pitch, Shape
from patchbank.shape.surface import Surface, surface_of
from patchbank.shape.views import COUNTS

VIEWS = {f"views{count}": count for count in COUNTS}  # channels of a part drawn from several sides
POINTS = "points"  # the channel of a network that sees points
_LOOKED_AT = 24  # samples that the tallest part is measured on
_UNITS_OF = 9  # samples that the unit "auto" is decided by
_REDUCED = (384, 384)  # at about this size
_NEAR = 0.05  # tallest parts that differ by no more than this share look alike
_OTHER_UNIT = 20.0  # times as large or as small as the parts learned from: an inch has 25 millimetres


@dataclass(frozen=True)
class Depths:
    """What a model knows of geometry.

    Attributes:
        format: of the numbers in files.
        top_mm: the height above the background, in millimetres, that is white in pictures of heights.
        background: whether parts lie on a background, which is looked for.
        across_mm: the longer side of what the depths of a part span, in millimetres; None where it is not known.
    """

    format: DepthFormat
    top_mm: float
    background: bool = True
    across_mm: float | None = None

    def state(self) -> dict[str, Any]:
        """As plain values, for the model file."""
        return {
            "format": self.format.state(),
            "top_mm": self.top_mm,
            "background": self.background,
            "across_mm": self.across_mm,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Depths:
        """The inverse of `state`."""
        across = state.get("across_mm")
        background = bool(state.get("background", True))
        return cls(DepthFormat.of(state["format"]), float(state["top_mm"]), background, across)

    def fits(self, other: Depths) -> bool:
        """Whether shape images of both show the same: formats and background are equal, and heights nearly so."""
        is_near = abs(self.top_mm - other.top_mm) <= _NEAR * max(self.top_mm, other.top_mm)
        return is_near and (self.format, self.background) == (other.format, other.background)

    def surface(self, shape: Shape) -> Surface:
        """The surface of a shape, as this model sees all of them. Raises `ImageError` without a valid point."""
        return surface_of(shape, background=self.background)


def read_sample_shape(sample: Sample, depths: Depths) -> Shape:
    """The geometry of a sample. Raises `ImageError`, one sentence that names it and xyz among other channels; also
    where it is far larger or smaller than the parts that were learned from."""
    others = len(sample.channels) > 1
    name = f"{sample.name}: {GEOMETRY_CHANNEL}" if others else sample.name
    shape = read_shape(_geometry_of(sample), depths.format, name)
    if depths.across_mm is not None:
        across = _across(shape)
        if not depths.across_mm / _OTHER_UNIT < across < depths.across_mm * _OTHER_UNIT:
            raise ImageError(
                f"{sample.name}: has points that span {across:.3g} mm, where those of the parts learned from span "
                f"{depths.across_mm:.3g} mm: check its unit, its axes, and which values mean no point (invalid)"
            )
    return shape


def _geometry_of(sample: Sample) -> Data:
    try:
        return sample.seen_in(GEOMETRY_CHANNEL).data
    except ImageError as error:
        raise ImageError(f"{sample.name}: {error}") from None


def _across(shape: Shape) -> float:
    """The longer side of what the points of a shape span, in millimetres."""
    return max(extent(shape)[:2])


def decide_depths(samples: Sequence[Sample], channels: Sequence[str], given: DepthFormat | None) -> Depths | None:
    """What the geometry of the samples means; None where none of the `channels` needs it. The extent of the first one
    is said."""
    made = [name for name in channels if name in MADE_OF]
    used = [s for s in samples if any(made_of(s.seen_in(name)) is not None and _has(s, name) for name in made)]
    if not used:
        return None
    form = _in_one_unit(used, given or DepthFormat())
    looks: list[_Look] = []
    for sample in used[:: max(1, -(-len(used) // _LOOKED_AT))]:
        try:
            shape = read_shape(_geometry_of(sample), form, sample.name)
        except ImageError:  # told by the one that learns from it
            continue
        if not looks:
            unknown = form.camera is None and shape.camera == Pitch(1.0, 1.0)
            words = "; no camera is known, so one pixel counts as 1 mm (--camera)" if unknown else ""
            notify(f"geometry of {sample.name}: {describe(shape)}{words}")
        looks.append(_look(shape))
    if not looks:
        return Depths(form, 1.0)
    background = 2 * sum(look.on_background is not None for look in looks) > len(looks)
    if not background:
        notify(
            "no plane is found that the parts stand on, so all points are inspected; where they lie on one, check "
            "which way the depths grow (--depth-axis)"
        )
    tops = [look.on_background if background else look.alone for look in looks]
    across = float(np.median([look.across for look in looks]))
    return Depths(form, max(top for top in tops if top is not None), background, across)


@dataclass(frozen=True)
class _Look:
    """One sample, in millimetres: what its points span, the height of its part above the background (None where none
    was found), and above the plane through all of its points."""

    across: float
    on_background: float | None
    alone: float


def _look(shape: Shape) -> _Look:
    small = shape.reduced(_REDUCED)
    surface = surface_of(small)
    if not surface.plane.is_background:
        return _Look(_across(shape), None, relief(surface))
    return _Look(_across(shape), relief(surface), relief(surface_of(small, background=False)))


def _in_one_unit(samples: Sequence[Sample], form: DepthFormat) -> DepthFormat:
    """The format with the unit that most of the samples have, where it is to be found out."""
    if form.millimetres is not None:
        return form
    units = Counter[str | float]()
    for sample in samples[:: max(1, -(-len(samples) // _UNITS_OF))]:
        try:
            units[decide_unit(_geometry_of(sample), form, sample.name).unit] += 1
        except ImageError:  # told by the one that learns from it
            continue
    return form.in_unit(units.most_common(1)[0][0]) if units else form


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
    small = SHAPE_IMAGES[name](values.depths.surface(shape.reduced(_REDUCED)), values.depths.top_mm)
    height, width = shape.size
    if small.shape[:2] == (height, width):
        return small
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _stored(sample: Sample, values: ValueRange) -> NDArray[np.float32]:
    return read_sample_shape(sample, values.depths).z


def _size(sample: Sample, values: ValueRange) -> tuple[int, int]:
    form = DepthFormat() if values.depths is None else values.depths.format  # before it is decided
    return shape_size(_geometry_of(sample), form, sample.name)


for _name in (*SHAPE_IMAGES, *SHAPE_FEATURES, *VIEWS, POINTS):
    register_made(_name, Made(_picture, _stored, _size))
