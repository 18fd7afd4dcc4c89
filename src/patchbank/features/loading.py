"""A source on its way to the network: decoded, placed, painted and resized in a background thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchbank.data import (
    RGB,
    Geometry,
    Reference,
    RegionOfInterest,
    ValueRange,
    View,
    image_size,
    turn,
)
from patchbank.data.channels import check_complete
from patchbank.data.read import no_memory
from patchbank.errors import ImageError, notify
from patchbank.features.area import Area
from patchbank.features.cache import FeatureCache
from patchbank.features.channels import Seen, channel_of
from patchbank.sample import RGB_CHANNEL, Sample

_AREAS = 8  # that are kept: images of one size have the same one


@dataclass(frozen=True)
class Inputs:
    """What a fit decided about its images.

    Attributes:
        values: what pixel values mean.
        roi: the region of interest that is inspected, in pixels of the reference if there is one.
        painted: the region that was learned from. What lies outside has the mean colour of what lies inside before the
            network sees it, whose patches look far beyond their own pixels.
        reference: what images are laid over first.
        channels: of each sample, those that are inspected; the first is the picture for people.
        zoom: what images smaller than the inspected size are enlarged by.
    """

    values: ValueRange = field(default_factory=ValueRange)
    roi: RegionOfInterest | None = None
    painted: RegionOfInterest | None = None
    reference: Reference | None = None
    channels: tuple[str, ...] = (RGB_CHANNEL,)
    zoom: float = 1.0


@dataclass(frozen=True)
class Loaded:
    """A sample ready for the network, or its features that the cache had. `seconds`: what that took; `pieces`: what
    each channel gave; `digest`: of its files, for the cache; `pixel`: of the pixels of its first channel."""

    source: Sample
    view: View
    area: Area | None
    seconds: float
    pieces: tuple[Any, ...] = ()
    kept: Tensor | None = None
    digest: str | None = None
    pixel: str = ""


class Loader:
    """Reads images as one model sees them. `grid` gives the (rows, columns) of the patches of a view; `whole`: give
    H×W×3 pixels, which tiles are cut from; `how` names all that decides features, for the `cache`."""

    def __init__(
        self,
        inputs: Inputs,
        geometry: Geometry,
        grid: Callable[[View], tuple[int, int]],
        whole: bool,
        cache: FeatureCache | None,
        how: str,
        point_weights: str | None = None,
    ):
        self.inputs, self.geometry, self._grid = inputs, geometry, grid
        self._whole, self._cache, self._how = whole, cache, how
        self.channels = tuple(channel_of(name, point_weights) for name in inputs.channels)
        self._areas: dict[tuple[View, float], Area | None] = {}
        self._squeezed = False

    def view(self, rgb: RGB, name: str) -> View:
        """How an image is inspected. Raises `ImageError` where it cannot be laid over the reference."""
        reference = self.inputs.reference
        if reference is None:
            return self.geometry.view(rgb.shape[0], rgb.shape[1])
        return reference.view(self.geometry.view(*reference.size), rgb, name)

    def area(self, view: View, angle: float = 0.0) -> Area | None:
        """What the region of interest has of a view, and what of it is covered; None for all."""
        if (view, angle) not in self._areas:
            if len(self._areas) >= _AREAS:
                self._areas.clear()
            self._areas[view, angle] = self._make_area(view, angle)
        return self._areas[view, angle]

    def _make_area(self, view: View, angle: float) -> Area | None:
        covered, roi = view.covered(), self.inputs.roi
        if roi is not None:
            inside = _turned(roi.pixels(*view.input_size), angle)
            covered = inside if covered is None else inside & covered
        return None if covered is None else Area(view, covered)

    def checked_area(self, source: Sample, view: View) -> Area | None:
        """As `area`, of one image. Raises `ImageError` where none of it is inspected."""
        try:
            area = self.area(view, source.angle)
            if area is not None:
                area.cells(self._grid(view))
        except ImageError as error:
            raise ImageError(f"{source.name}: {error}") from None
        return area

    def load(self, source: Sample, digests: bool = False) -> Loaded:
        """Raises `ImageError` for what cannot be read or has nothing to inspect. `digests`: also take that of the
        pixels."""
        try:
            return self._load(source, digests)
        except MemoryError as error:
            raise no_memory(source, error) from None

    def _load(self, source: Sample, digests: bool) -> Loaded:
        started = time.perf_counter()
        inputs, names = self.inputs, self.inputs.channels
        check_complete(source, names)
        first = source.seen_in(names[0])
        digest = self._cache.digest(first, names) if self._cache else None
        found = self._cache.get(digest, self._how) if self._cache else None
        if found is not None:
            view = self.geometry.view(*image_size(first, inputs.values))
            area = self.checked_area(source, view)
            return Loaded(source, view, area, time.perf_counter() - started, kept=found[0], pixel=found[1])
        seen = Seen(source, inputs.values)
        size = seen.size(names)
        # also for the cache, where a later fit finds the features of this image
        pixel = seen.digest(names[0]) if digests or digest is not None else ""
        view = self.geometry.view(*size) if inputs.reference is None else self.view(seen.picture(names[0]), source.name)
        area, grid = self.checked_area(source, view), self._grid(view)
        paint = partial(self._paint, view=view, angle=source.angle)
        pieces = tuple(channel.load(seen, view, grid, paint, whole=self._whole) for channel in self.channels)
        return Loaded(source, view, area, time.perf_counter() - started, pieces, digest=digest, pixel=pixel)

    def _paint(self, rgb: RGB, view: View, angle: float) -> RGB:
        """The region that was learned from alone; `rgb`: at the size of the input, or smaller."""
        if (painted := self.inputs.painted) is None:
            return rgb
        mask = _turned(painted.pixels(*view.input_size), angle)
        if mask.shape != rgb.shape[:2]:
            mask = cv2.resize(mask.astype(np.uint8), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        filled: RGB = np.where(mask[:, :, None], rgb, rgb[mask].mean(axis=0).astype(rgb.dtype))
        return filled

    def keep(self, item: Loaded, features: Tensor) -> None:
        """Give the features of an image to the cache."""
        if self._cache:
            self._cache.put(item.digest, self._how, features, item.pixel)

    def tell_squeezed(self, item: Loaded) -> None:
        """Name the first image whose longer side is squeezed."""
        if not self._squeezed and (words := self.geometry.squeeze_words(*item.view.input_size)):
            self._squeezed = True
            notify(f"{item.source.name}: {words}")


def _turned(mask: NDArray[np.bool_], angle: float) -> NDArray[np.bool_]:
    return turn(mask.astype(np.uint8), angle) > 0 if angle else mask
