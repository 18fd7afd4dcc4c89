"""Images → patch features: decode in the background, network, aggregation; one image at a time or collected."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.backbones import Backbone
from patchbank.bank import TrainingImage
from patchbank.errors import DatasetError, ImageError
from patchbank.images import Geometry, Source, View, image_size, prefetch, read_image
from patchbank.memory import check_budget
from patchbank.patches import dimension, grid_size, patch_features

OnError: TypeAlias = Callable[[str, Exception], None]
Progress: TypeAlias = Callable[[str, int, int], None]

_CUDA_BATCH = 16  # on a CPU one image at a time is as fast, and its features do not depend on its company


def warn(name: str, error: Exception) -> None:
    """What happens to an unreadable image unless the caller says otherwise: a warning, and the rest goes on."""
    warnings.warn(f"skipped: {error}", stacklevel=3)


@dataclass(frozen=True)
class ImageFeatures:
    """Patch features of one image: `vectors` P×D, row by row of its `grid` (rows, columns)."""

    source: Source
    view: View
    grid: tuple[int, int]
    vectors: Tensor
    timings: dict[str, float]


@dataclass
class FeatureSet:
    """Patch features of many images in one N×D array; image i has the rows starts[i] to starts[i + 1]."""

    vectors: Tensor
    images: list[TrainingImage] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])

    def of_image(self, i: int) -> Tensor:
        """P×D: the patches of image i."""
        return self.vectors[self.starts[i] : self.starts[i + 1]]

    def provenance(self, indices: Tensor) -> NDArray[np.int32]:
        """M indices into the rows → M×3: image, grid row, grid column."""
        rows = indices.cpu().numpy()
        starts = np.asarray(self.starts)
        image = np.searchsorted(starts, rows, side="right") - 1
        columns = np.asarray([i.grid[1] for i in self.images])[image]
        row, column = np.divmod(rows - starts[image], columns)
        return np.stack([image, row, column], axis=1).astype(np.int32)


@dataclass(frozen=True)
class Extractor:
    """The stages before the memory, with their options."""

    backbone: Backbone
    geometry: Geometry
    aggregation: str
    patch_size: int
    stride: int

    @property
    def dimension(self) -> int:
        return dimension(self.backbone.channels, self.aggregation)

    def grid(self, view: View) -> tuple[int, int]:
        """(rows, columns) of the patch grid of a view."""
        return grid_size(view.inspected, self.backbone.strides[0], self.stride)

    def stream(self, sources: Iterable[Source], on_error: OnError = warn) -> Iterator[ImageFeatures]:
        """Features of each readable image, in order; `on_error` hears of the others."""
        loaded = self._readable(prefetch(self._load, sources), on_error)
        for _, group in groupby(loaded, key=lambda item: item[1].inspected):
            for batch in _batches(group, 1 if self.backbone.device.type == "cpu" else _CUDA_BATCH):
                yield from self._features(batch)

    def collect(
        self,
        sources: list[Source],
        on_error: OnError = warn,
        progress: Progress | None = None,
        memory_budget: int | None = None,
    ) -> FeatureSet:
        """Features of all readable images in one array, allocated once; refused before it starts if it cannot fit."""
        readable, total = self._plan(sources, on_error)
        self._forecast(len(readable), total, memory_budget)
        vectors = torch.empty(total, self.dimension, device=self.backbone.device)
        features = FeatureSet(vectors)
        for item in self.stream(readable, on_error):
            if not bool(torch.isfinite(item.vectors).all()):
                on_error(item.source.name, ImageError(f"{item.source.name}: its features are not finite numbers"))
                continue
            start = features.starts[-1]
            vectors[start : start + len(item.vectors)] = item.vectors
            features.starts.append(start + len(item.vectors))
            features.images.append(TrainingImage(item.source.name, item.view.input_size, item.grid))
            features.views.append(item.view)
            if progress:
                progress("features", len(features.images), len(readable))
        if not features.images:
            raise DatasetError(f"none of the {len(sources)} images could be read")
        features.vectors = vectors[: features.starts[-1]]
        return features

    def _plan(self, sources: list[Source], on_error: OnError) -> tuple[list[Source], int]:
        """The images whose headers can be read, and how many patches they will give."""
        readable, total = [], 0
        for source in sources:
            try:
                rows, columns = self.grid(self.geometry.view(*image_size(source)))
            except ImageError as error:
                on_error(source.name, error)
                continue
            readable.append(source)
            total += rows * columns
        return readable, total

    def _forecast(self, images: int, patches: int, budget: int | None) -> None:
        check_budget(
            int(1.5 * patches * self.dimension * 4),
            budget,
            f"keeping the features of {images} images ({patches} patches × {self.dimension} numbers) for the selection",
            "use fewer images, a smaller image size (--image-size), or keep every second position (--set stride=2)",
        )

    def _load(self, source: Source) -> tuple[Source, View, NDArray[np.float32], float] | tuple[Source, ImageError]:
        started = time.perf_counter()
        try:
            rgb = read_image(source)
        except ImageError as error:
            return source, error
        view = self.geometry.view(rgb.shape[0], rgb.shape[1])
        return source, view, view.apply(rgb), time.perf_counter() - started

    def _readable(self, loaded: Iterable[_Loaded | tuple[Source, ImageError]], on_error: OnError) -> Iterator[_Loaded]:
        for item in loaded:
            if len(item) == 2:
                on_error(item[0].name, item[1])
            else:
                yield item

    def _features(self, batch: list[_Loaded]) -> Iterator[ImageFeatures]:
        started = time.perf_counter()
        maps = self.backbone(torch.from_numpy(np.stack([pixels for _, _, pixels, _ in batch])))
        features = patch_features(maps, self.aggregation, self.patch_size, self.stride)
        network = (time.perf_counter() - started) / len(batch)
        for (source, view, _, decode), of_image in zip(batch, features, strict=True):
            timings = {"decode_ms": 1e3 * decode, "network_ms": 1e3 * network}
            grid = (of_image.shape[0], of_image.shape[1])
            yield ImageFeatures(source, view, grid, of_image.flatten(0, 1), timings)


_Loaded: TypeAlias = "tuple[Source, View, NDArray[np.float32], float]"


def _batches(items: Iterable[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    batch: list[_Loaded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
