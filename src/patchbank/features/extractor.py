"""Images → patch features: decode in the background, network, aggregation; one image at a time or collected."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.data import (
    RGB,
    Geometry,
    Reference,
    RegionOfInterest,
    Source,
    Tiling,
    ValueRange,
    View,
    image_size,
    prefetch,
    read_image,
    turn,
)
from patchbank.data.content import pixel_digest
from patchbank.data.read import no_memory
from patchbank.errors import DatasetError, ImageError, notify
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import Backbone
from patchbank.features.cache import FeatureCache
from patchbank.features.storage import allocate, release
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.scoring.nearest import Placement

OnError: TypeAlias = Callable[[str, Exception], None]
Progress: TypeAlias = Callable[[str, int, int], None]

_NOT_FEATURES = ("backbone", "roi", "keeps_grid", "cache", "values", "squeezed")  # described otherwise, or no part
_CUDA_BATCH = 16  # on a CPU one image at a time is as fast, and its features do not depend on its company


def warn(name: str, error: Exception) -> None:
    """What happens to an unreadable image unless the caller says otherwise: a warning, and the rest goes on."""
    warnings.warn(f"skipped: {error}", stacklevel=3)


def give_up(name: str, error: Exception) -> None:
    """What happens where a single image was asked for and cannot be read."""
    raise error


@dataclass(frozen=True)
class Extractor:
    """The stages before the memory, with their options. `roi`: the region of interest that is inspected; `keeps_grid`:
    patches outside it are not left out; `painted`: the region that was learned from: what lies outside it has the mean
    colour of what lies inside before the network sees it, whose patches look far beyond their own pixels; `cache`:
    where features are kept that were computed before; `reference`: what images are laid over first, in whose pixels the
    regions are then, and without a cache; `values`: what the pixel values mean; `squeezed`: the image that was named
    because its longer side is squeezed."""

    backbone: Backbone
    geometry: Geometry
    arrangement: Arrangement
    roi: RegionOfInterest | None = None
    keeps_grid: bool = False
    painted: RegionOfInterest | None = None
    tiling: Tiling | None = None
    cache: FeatureCache | None = None
    reference: Reference | None = None
    values: ValueRange = field(default_factory=ValueRange)
    squeezed: list[str] = field(default_factory=list, compare=False)

    @property
    def _how(self) -> str:
        """Everything that decides the features of an image; what is done with them afterwards is not."""
        stages = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name not in _NOT_FEATURES]
        values = [] if self.values.is_plain else [f"values={self.values!r}"]
        return " ".join([self.backbone.identity, *stages, *values])

    @property
    def dimension(self) -> int:
        return self.arrangement.dimension(self.backbone.channels, self.backbone.strides)

    def grid(self, view: View) -> tuple[int, int]:
        """(rows, columns) of the patch grid of a view."""
        return self.arrangement.grid(view.inspected, self.backbone.strides)

    def view(self, rgb: RGB, name: str) -> View:
        """How an image is inspected. Raises `ImageError` where it cannot be laid over the reference."""
        if self.reference is None:
            return self.geometry.view(rgb.shape[0], rgb.shape[1])
        return self.reference.view(self.geometry.view(*self.reference.size), rgb, name)

    @property
    def placement(self) -> Placement:
        """Where patches of training images lie."""
        return Placement(self.geometry, None if self.reference is None else self.reference.size)

    def pixels(self, view: View, angle: float = 0.0) -> NDArray[np.bool_] | None:
        """H×W of what is viewed: what the region of interest has of it, and what of it is there; None for all."""
        covered = view.covered()
        if self.roi is None:
            return covered
        inside = _turned(self.roi.pixels(*view.input_size), angle)
        return inside if covered is None else inside & covered

    def inside(self, view: View, grid: tuple[int, int], angle: float = 0.0) -> NDArray[np.bool_] | None:
        """Which cells of a grid `pixels` touch; None for all. Raises `ImageError` for none."""
        if (mask := self.pixels(view, angle)) is None:
            return None
        inside = view.cells(mask, grid)
        if not inside.any():
            raise ImageError("has nothing of the region of interest in its inspected part")
        return inside

    def stream(
        self, sources: Iterable[Source], on_error: OnError = warn, *, digests: bool = False
    ) -> Iterator[ImageFeatures]:
        """Features of each readable image, in order; `on_error` hears of the others. `digests`: also take those of the
        pixels. An iterator gives its next source when the features before it were taken.
        """
        # a tiled image is large: one is decoded while the network is at another
        ahead = {"workers": 1, "ahead": 1} if self.tiling else {}
        loaded = self._readable(prefetch(partial(self._load, digests=digests), sources, **ahead), on_error)
        alone = self.backbone.device.type == "cpu" or self.tiling or not isinstance(sources, Sequence)
        for _, group in groupby(loaded, key=lambda item: (item.view.inspected, item.kept is None)):
            for batch in _batches(group, 1 if alone else _CUDA_BATCH):
                for item in self._features(batch):
                    if np.isfinite(item.vectors.cpu().numpy()).all():
                        yield item
                    else:
                        name = item.source.name
                        on_error(name, ImageError(f"{name}: its features are not finite numbers"))

    def learn(
        self, sources: list[Source], on_error: OnError, progress: Progress | None = None
    ) -> Iterator[ImageFeatures]:
        """As `stream`, with progress; raises `DatasetError` where no image gives features."""
        count = 0
        for item in self.stream(sources, on_error, digests=True):
            count += 1
            yield item
            if progress:
                progress("features", count, len(sources))
        if not count:
            what = "read" if self.reference is None else f"aligned with {self.reference.name}"
            raise DatasetError(f"none of the {len(sources)} images could be {what}")

    def collect(
        self,
        sources: list[Source],
        on_error: OnError = warn,
        progress: Progress | None = None,
        patches: int | None = None,
        on_disk: bool = False,
    ) -> FeatureSet:
        """Features of all readable images in one array, allocated once, for `patches` rows (None: counted here)."""
        if patches is None:
            surveyed = self.survey(sources, on_error)
            sources, patches = [source for source, _ in surveyed], sum(count for _, count in surveyed)
        vectors = allocate(patches, self.dimension, self.backbone.device, on_disk)
        features = FeatureSet(vectors)
        for item in self.learn(sources, on_error, progress):
            if len(features) + len(item.vectors) > len(vectors):
                on_error(item.source.name, ImageError(f"{item.source.name}: changed while it was learned from"))
                continue
            vectors[len(features) : len(features) + len(item.vectors)] = item.vectors
            features.add(item)
            release(vectors, only_many=True)
        features.vectors = vectors[: len(features)]
        return features

    def survey(self, sources: list[Source], on_error: OnError) -> list[tuple[Source, int]]:
        """The images whose headers can be read, and how many patches each will give (at most, if it is aligned)."""
        readable = []
        for source in sources:
            try:
                size = image_size(source)
                view = self.geometry.view(*(size if self.reference is None else self.reference.size))
                count = self._count(source, view)
            except ImageError as error:
                if not source.angle:  # said once for all the ways it is turned
                    on_error(source.name, error)
                continue
            readable.append((source, count))
        if not readable:
            raise DatasetError(f"none of the {len(sources)} images could be read")
        return readable

    def _count(self, source: Source, view: View) -> int:
        """Patches that an image of this view will give."""
        rows, columns = self.grid(view)
        inside = self._inside_of(source, view, (rows, columns)) if not self.keeps_grid else None
        return rows * columns if inside is None else int(inside.sum())

    def _inside_of(self, source: Source, view: View, grid: tuple[int, int]) -> NDArray[np.bool_] | None:
        try:
            return self.inside(view, grid, source.angle)
        except ImageError as error:
            raise ImageError(f"{source.name}: {error}") from None

    def _load(self, source: Source, digests: bool = False) -> _Loaded | tuple[Source, ImageError]:
        try:
            return self._loaded(source, digests)
        except MemoryError as error:
            raise no_memory(source, error) from None

    def _loaded(self, source: Source, digests: bool) -> _Loaded | tuple[Source, ImageError]:
        started = time.perf_counter()
        digest = self.cache.digest(source) if self.cache else None
        found = self.cache.get(digest, self._how) if self.cache else None
        kept, pixel = (None, "") if found is None else found
        try:
            if kept is None:
                rgb = read_image(source, self.values, notify)
                # also for the cache, where a later fit finds the features of this image
                pixel = pixel_digest(rgb) if digests or digest is not None else ""
                view = self.view(rgb, source.name)
                rgb = view.laid(rgb)
            else:
                rgb, view = None, self.geometry.view(*image_size(source))
            self._inside_of(source, view, self.grid(view))
        except ImageError as error:
            return source, error
        if kept is not None:
            return _Loaded(source, view, time.perf_counter() - started, kept=kept, pixel=pixel)
        assert rgb is not None
        if self.painted is not None:
            mask = _turned(self.painted.pixels(*view.input_size), source.angle)
            rgb = np.where(mask[:, :, None], rgb, rgb[mask].mean(axis=0).astype(rgb.dtype))
        pixels = view.pixels(rgb) if self.tiling else view.apply(rgb)
        return _Loaded(source, view, time.perf_counter() - started, pixels, digest=digest, pixel=pixel)

    def _tell_squeezed(self, source: Source, view: View) -> None:
        """Name the first image whose longer side is squeezed."""
        if not self.squeezed and (words := self.geometry.squeeze_words(*view.input_size)):
            self.squeezed.append(source.name)
            notify(f"{source.name}: {words}")

    def _readable(self, loaded: Iterable[_Loaded | tuple[Source, ImageError]], on_error: OnError) -> Iterator[_Loaded]:
        for item in loaded:
            if isinstance(item, _Loaded):
                self._tell_squeezed(item.source, item.view)
                yield item
            elif not item[0].angle:
                on_error(item[0].name, item[1])

    def _arranged(self, images: Tensor) -> Tensor:
        """B×3×h×w → B×rows×columns×D."""
        maps = self.backbone(images)
        return maps[0] if self.backbone.has_head else self.arrangement(maps)

    def _computed(self, batch: list[_Loaded]) -> Iterable[Tensor]:
        """The features of each image of a batch, rows×columns×D."""
        pixels = [item.pixels for item in batch if item.pixels is not None]
        if self.tiling:
            grid = self.grid(batch[0].view)
            features = self.tiling.stitched(pixels[0], grid, lambda tile: self._arranged(tile)[0])[None]
        else:
            images = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
            features = self._arranged(torch.from_numpy(images))
        if self.cache:
            for item, of_image in zip(batch, features, strict=True):
                self.cache.put(item.digest, self._how, of_image, item.pixel)
        return features

    def _features(self, batch: list[_Loaded]) -> Iterator[ImageFeatures]:
        started = time.perf_counter()
        kept = [item.kept.to(self.backbone.device) for item in batch if item.kept is not None]
        features = kept or self._computed(batch)  # a batch has one kind or the other
        network = (time.perf_counter() - started) / len(batch)
        for item, of_image in zip(batch, features, strict=True):
            source, view, decode = item.source, item.view, item.seconds
            timings = {"decode_ms": 1e3 * decode, "network_ms": 1e3 * network}
            grid = (of_image.shape[0], of_image.shape[1])
            vectors, inside = of_image.flatten(0, 1), self.inside(view, grid, source.angle)
            if inside is not None and not self.keeps_grid:
                vectors = vectors[torch.from_numpy(inside.ravel()).to(vectors.device)]
            yield ImageFeatures(source, view, grid, vectors, timings, inside, item.pixel)


def _turned(mask: NDArray[np.bool_], angle: float) -> NDArray[np.bool_]:
    return turn(mask.astype(np.uint8), angle) > 0 if angle else mask


@dataclass(frozen=True)
class _Loaded:
    """An image on its way to the network, or its features that the cache had. `seconds`: what that took; `digest`: of
    its file, for the cache; `pixel`: of its pixels."""

    source: Source
    view: View
    seconds: float
    pixels: NDArray[np.float32] | NDArray[np.uint8] | None = None
    kept: Tensor | None = None
    digest: str | None = None
    pixel: str = ""


def _batches(items: Iterable[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    batch: list[_Loaded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
