"""One good sample beside itself with a synthetic anomaly, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data import Geometry, RegionOfInterest, Sample, ValueRange, read_image
from patchbank.errors import DatasetError, ImageError
from patchbank.sample import GEOMETRY_CHANNEL, RGB_CHANNEL
from patchbank.shape import Shape
from patchbank.shape.decide import read_sample_shape
from patchbank.shape.shown import shaded_view
from patchbank.training.anomalies.depth import DEPTH_KINDS, DepthAnomalies
from patchbank.training.anomalies.masks import Floats, Mask, check_foreground, closed
from patchbank.training.anomalies.pictures import PICTURE_KINDS, Anomalies
from patchbank.training.anomalies.textures import GeneratedTextures, Textures


@dataclass(frozen=True, eq=False)
class Example:
    """A sample before and after an anomaly was drawn on it.

    Attributes:
        name: of the sample.
        kind: of `PICTURE_KINDS` or `DEPTH_KINDS`.
        pairs: the picture, the shaded surface, or both: H×W×3 uint8 before and after.
        mask: H×W, where it changed.
    """

    name: str
    kind: str
    pairs: tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], ...]
    mask: Mask


@dataclass(frozen=True, eq=False)
class Examples:
    """Draws examples.

    Attributes:
        values: what pixel values and depths mean; its `depths` are None where no geometry is shown.
        image_size: most pixels of the shorter side. Geometry is reduced by whole factors, and stays larger.
        roi: where anomalies may lie; None for everywhere. Of parts on a background they lie on the part.
        textures: what "perlin" blends in.
    """

    values: ValueRange
    image_size: int = 256
    roi: RegionOfInterest | None = None
    textures: Textures = field(default_factory=GeneratedTextures)

    def kinds_of(self, sample: Sample) -> tuple[str, ...]:
        """The kinds of anomalies that a sample can have."""
        return (PICTURE_KINDS if _has_picture(sample) else ()) + (DEPTH_KINDS if self._has_depths(sample) else ())

    def of(self, sample: Sample, kind: str, rng: np.random.Generator) -> Example:
        """Draw an anomaly of one kind on a sample.

        Raises:
            ImageError: a file cannot be read, the region of interest is for images of another size, or there is no
                place for an anomaly.
        """
        try:
            draw = self._of_solid if self._has_depths(sample) else self._of_picture
            return draw(sample, kind, rng)
        except (ImageError, DatasetError) as error:
            named = str(error).startswith(f"{sample.name}: ")
            raise ImageError(str(error) if named else f"{sample.name}: {error}") from None

    def _of_picture(self, sample: Sample, kind: str, rng: np.random.Generator) -> Example:
        rgb = read_image(sample, self.values)
        view = Geometry("whole", self.image_size, multiple=1).view(*rgb.shape[:2])
        foreground = self._foreground((rgb.shape[0], rgb.shape[1]), view.resized)
        check_foreground(foreground, sample.name)
        before = view.pixels(rgb).astype(np.float32) / np.float32(255)
        after, mask = self._anomalies(kind).damaged(before, rng, foreground)
        return Example(sample.name, kind, (_painted(before, after),), mask)

    def _of_solid(self, sample: Sample, kind: str, rng: np.random.Generator) -> Example:
        depths = self.values.depths
        whole = read_sample_shape(sample, depths)
        shape = whole.reduced((self.image_size, self.image_size))
        surface = depths.surface(shape)
        # single gaps beside the part's edge count as background there, and would be holes in every mask
        part = closed(surface.filled_part, np.ones(shape.size, bool))
        foreground = part & self._foreground(whole.size, shape.size)
        check_foreground(foreground & shape.valid, sample.name, "valid point")
        picture = self._small_picture(sample, whole.size, shape.size) if _has_picture(sample) else None
        new_picture, new_shape = picture, shape
        if kind in DEPTH_KINDS:
            damaged = DepthAnomalies((kind,)).damaged(surface.height, shape.valid, rng, foreground)
            rise = np.where(damaged.valid, damaged.heights - surface.height, np.float32(0))
            z = np.where(damaged.valid, shape.z - rise, np.float32(0))
            new_shape, mask = Shape(z, damaged.valid, shape.camera), damaged.mask
        else:
            assert picture is not None  # else the sample would not have this kind
            new_picture, mask = self._anomalies(kind).damaged(picture, rng, foreground)
        reliefs = shaded_view(shape, depths.top_mm), shaded_view(new_shape, depths.top_mm)
        if picture is None or new_picture is None:
            return Example(sample.name, kind, (reliefs,), mask)
        return Example(sample.name, kind, (_painted(picture, new_picture), reliefs), mask)

    def _small_picture(self, sample: Sample, whole: tuple[int, int], size: tuple[int, int]) -> Floats:
        """The picture of a sample whose geometry is `whole` (height, width), at another `size`: H×W×3 in 0..1."""
        rgb = read_image(sample.seen_in(RGB_CHANNEL), self.values)
        if rgb.shape[:2] != whole:
            raise ImageError(
                f"rgb has {rgb.shape[1]}×{rgb.shape[0]} pixels and xyz {whole[1]}×{whole[0]}: the channels of a sample "
                "must lie over each other, pixel by pixel"
            )
        small = np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.float32)
        return np.asarray(small / np.float32(255))

    def _foreground(self, whole: tuple[int, int], size: tuple[int, int]) -> Mask:
        """Where anomalies may lie in a sample of `whole` (height, width) pixels that is shown at `size`."""
        if self.roi is None:
            return np.ones(size, bool)
        inspected = self.roi.pixels(*whole).astype(np.float32)
        return np.asarray(cv2.resize(inspected, (size[1], size[0]), interpolation=cv2.INTER_AREA) > 0)

    def _anomalies(self, kind: str) -> Anomalies:
        return Anomalies((kind,), self.textures)

    def _has_depths(self, sample: Sample) -> bool:
        return self.values.depths is not None and sample.has_geometry


def _has_picture(sample: Sample) -> bool:
    return any(name != GEOMETRY_CHANNEL for name in sample.channels)


def _painted(before: Floats, after: Floats) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two pictures in 0..1 as bytes."""
    first, second = (np.rint(picture * 255).astype(np.uint8) for picture in (before, after))
    return first, second
