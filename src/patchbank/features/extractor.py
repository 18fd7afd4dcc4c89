"""Images → patch features: decode in the background, network, aggregation; one image at a time or collected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.data import Geometry, Sample, Tiling, View, image_size, prefetch
from patchbank.data.channels import check_complete
from patchbank.errors import DatasetError, ImageError, OnError, Progress, warn
from patchbank.features.aggregation import Arrangement
from patchbank.features.area import Area
from patchbank.features.backbones import Backbone
from patchbank.features.cache import FeatureCache
from patchbank.features.channels import points_digest
from patchbank.features.levels import Levels
from patchbank.features.loading import Inputs, Loaded, Loader
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.sample import RGB_CHANNEL

_CUDA_BATCH = 16  # on a CPU one image at a time is as fast, and its features do not depend on its company


@dataclass(frozen=True)
class Extractor:
    """The stages before the memory, with their options.

    Attributes:
        backbone, geometry, arrangement, tiling: of the options.
        inputs: what the fit decided about its images.
        keeps_grid: whether patches that are not inspected are kept.
        cache: where features are kept that were computed before.
        apart: whether the features of several channels are stored apart.
        point_weights: a file of weights, for the channel that a network of points sees.
    """

    backbone: Backbone
    geometry: Geometry
    arrangement: Arrangement
    inputs: Inputs = field(default_factory=Inputs)
    keeps_grid: bool = False
    tiling: Tiling | None = None
    cache: FeatureCache | None = None
    apart: bool = False
    point_weights: str | None = None
    loader: Loader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cache = None if self.inputs.reference else self.cache  # an image is read again to be laid over the reference
        loader = Loader(
            self.inputs, self.geometry, self.grid, self.tiling is not None, cache, self.how, self.point_weights
        )
        object.__setattr__(self, "loader", loader)

    @property
    def how(self) -> str:
        """Everything that decides the features of an image; what is done with them afterwards is not."""
        inputs = self.inputs
        stages = {
            "geometry": self.geometry, "arrangement": self.arrangement, "painted": inputs.painted,
            "tiling": self.tiling, "reference": inputs.reference,
        }  # fmt: skip
        values = [] if inputs.values.is_plain else [f"values={inputs.values!r}"]
        values += [] if inputs.channels == (RGB_CHANNEL,) else [f"channels={inputs.channels} {inputs.values.depths!r}"]
        if self.point_weights is not None:
            values.append(f"points={points_digest(self.point_weights)}")
        return " ".join([self.backbone.identity, *(f"{k}={v!r}" for k, v in stages.items()), *values])

    @property
    def dimension(self) -> int:
        """D of a patch feature, of all channels together."""
        return sum(self.widths)

    @property
    def widths(self) -> list[int]:
        """The part of D that each channel has."""
        return [levels.dimension for levels in self.levels]

    @property
    def levels(self) -> list[Levels]:
        """Those of the features of each channel."""
        found = [channel.levels(self.backbone, self.arrangement) for channel in self.loader.channels]
        return [Levels(lengths, self.backbone.strides, dimension) for lengths, dimension in found]

    def grid(self, view: View) -> tuple[int, int]:
        """(rows, columns) of the patch grid of a view."""
        return self.arrangement.grid(view.inspected, self.backbone.strides)

    def area(self, view: View) -> Area | None:
        """What of a view is inspected; None for all."""
        return self.loader.area(view)

    # ---- one by one --------------------------------------------------------------------------------------------------

    def stream(
        self, sources: Iterable[Sample], on_error: OnError = warn, *, digests: bool = False
    ) -> Iterator[PatchFeatures]:
        """Features of each readable image, in order; `on_error` hears of the others. `digests`: also take those of the
        pixels. An iterator gives its next source when the features before it were taken.
        """
        # a tiled image is large: one is decoded while the network is at another
        ahead = {"workers": 1, "ahead": 1} if self.tiling else {}
        loaded = self._readable(prefetch(partial(self._try, digests=digests), sources, **ahead), on_error)
        alone = self.backbone.device.type == "cpu" or self.tiling or not isinstance(sources, Sequence)
        for _, group in groupby(loaded, key=lambda item: (item.view.inspected, item.kept is None)):
            for batch in _batches(group, 1 if alone else _CUDA_BATCH):
                for item in self._features(batch):
                    if np.isfinite(item.vectors.cpu().numpy()).all():
                        yield item
                    else:
                        name = item.source.name
                        on_error(name, ImageError(f"{name}: its features are not finite numbers"))

    def _try(self, source: Sample, digests: bool) -> Loaded | tuple[Sample, ImageError]:
        try:
            return self.loader.load(source, digests)
        except ImageError as error:
            return source, error

    def _readable(self, loaded: Iterable[Loaded | tuple[Sample, ImageError]], on_error: OnError) -> Iterator[Loaded]:
        for item in loaded:
            if isinstance(item, Loaded):
                self.loader.tell_squeezed(item)
                yield item
            elif not item[0].angle:
                on_error(item[0].name, item[1])

    def _arranged(self, images: Tensor) -> Tensor:
        """B×3×h×w → B×rows×columns×D."""
        maps = self.backbone(images)
        return maps[0] if self.backbone.has_head else self.arrangement(maps)

    def _computed(self, batch: list[Loaded]) -> Iterable[Tensor]:
        """The features of each image of a batch, rows×columns×D."""
        grid, parts = self.grid(batch[0].view), []
        for number, channel in enumerate(self.loader.channels):
            pieces = [item.pieces[number] for item in batch]
            of_channel = channel.features(pieces, partial(self._seen_by_network, grid=grid))
            parts.append(of_channel.to(self.backbone.device))
        features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        for item, of_image in zip(batch, features, strict=True):
            self.loader.keep(item, of_image)
        return features

    def _seen_by_network(self, pictures: Sequence[NDArray[Any]], grid: tuple[int, int]) -> Tensor:
        """Pictures of one size, 3×h×w each (H×W×3 where they are cut into tiles), → B×rows×columns×D."""
        if self.tiling:
            return self.tiling.stitched(pictures[0], grid, lambda tile: self._arranged(tile)[0])[None]
        images = pictures[0][None] if len(pictures) == 1 else np.stack(pictures)
        return self._arranged(torch.from_numpy(images))

    def _features(self, batch: list[Loaded]) -> Iterator[PatchFeatures]:
        started = time.perf_counter()
        kept = [item.kept.to(self.backbone.device) for item in batch if item.kept is not None]
        features = kept or self._computed(batch)  # a batch has one kind or the other
        network = (time.perf_counter() - started) / len(batch)
        for item, of_image in zip(batch, features, strict=True):
            timings = {"decode_ms": 1e3 * item.seconds, "network_ms": 1e3 * network}
            grid = (of_image.shape[0], of_image.shape[1])
            vectors = of_image.flatten(0, 1)
            if item.area is not None and not self.keeps_grid:
                cells = torch.from_numpy(item.area.cells(grid).ravel())
                vectors = vectors[cells.to(vectors.device)]
            yield PatchFeatures(item.source, item.view, grid, vectors, timings, item.area, item.pixel)

    # ---- many --------------------------------------------------------------------------------------------------------

    def survey(self, sources: list[Sample], on_error: OnError) -> list[tuple[Sample, int]]:
        """The images whose headers can be read, and how many patches each will give (at most, if it is aligned)."""
        readable, reference = [], self.inputs.reference
        for source, size in zip(sources, prefetch(self._size, sources), strict=True):
            try:
                if isinstance(size, ImageError):
                    raise size
                view = self.geometry.view(*(size if reference is None else reference.size))
                count = self._count(source, view)
            except ImageError as error:
                if not source.angle:  # said once for all the ways it is turned
                    named = str(error).startswith(source.name)
                    on_error(source.name, error if named else ImageError(f"{source.name}: {error}"))
                continue
            readable.append((source, count))
        if not readable:
            raise DatasetError(f"none of the {len(sources)} images could be read")
        return readable

    def _size(self, source: Sample) -> tuple[int, int] | ImageError:
        """(height, width) from the header, before any work; headers of a store take a request each."""
        try:
            check_complete(source, self.inputs.channels)
            return image_size(source.seen_in(self.inputs.channels[0]), self.inputs.values)
        except ImageError as error:
            return error

    def _count(self, source: Sample, view: View) -> int:
        """Patches that an image of this view will give."""
        grid = self.grid(view)
        area = None if self.keeps_grid else self.loader.checked_area(source, view)
        return grid[0] * grid[1] if area is None else int(area.cells(grid).sum())

    def learn(
        self, sources: list[Sample], on_error: OnError, progress: Progress | None = None
    ) -> Iterator[PatchFeatures]:
        """As `stream`, with progress; raises `DatasetError` where no image gives features."""
        count, numbers = 0, dict(zip(map(id, sources), numbered(sources), strict=True))
        for item in self.stream(sources, on_error, digests=True):
            count += 1
            yield replace(item, number=numbers[id(item.source)])
            if progress:
                progress("features", count, len(sources))
        if not count:
            reference = self.inputs.reference
            what = "read" if reference is None else f"aligned with {reference.name}"
            raise DatasetError(f"none of the {len(sources)} images could be {what}")

    def collect(
        self,
        sources: list[Sample],
        on_error: OnError = warn,
        progress: Progress | None = None,
        patches: int | None = None,
        on_disk: bool = False,
    ) -> FeatureStore:
        """Features of all readable images in one array, allocated once, for `patches` rows (None: counted here)."""
        if patches is None:
            surveyed = self.survey(sources, on_error)
            sources, patches = [source for source, _ in surveyed], sum(count for _, count in surveyed)
        widths = self.widths if self.apart else [self.dimension]
        features = FeatureStore.allocated(patches, widths, self.backbone.device, on_disk)
        for item in self.learn(sources, on_error, progress):
            if len(features) + len(item.vectors) > patches:
                on_error(item.source.name, ImageError(f"{item.source.name}: changed while it was learned from"))
                continue
            features.take(item)
        features.cut()
        return features

    def streamed(
        self, sources: list[Sample], on_error: OnError, progress: Progress | None, prepare: Callable[[Tensor], Tensor]
    ) -> FeatureStore:
        """Features that are not stored: one walk to learn, which tells of errors; later walks give `prepare`d ones."""
        used: list[Sample] = []
        features = FeatureStore(prepared=True, images=len(sources))

        def learn() -> Iterator[PatchFeatures]:
            for item in self.learn(sources, on_error, progress):
                used.append(item.source)
                yield item

        features.learn = learn
        features.again = lambda: self._again(used, features, prepare, on_error)
        return features

    def _again(
        self, sources: list[Sample], features: FeatureStore, prepare: Callable[[Tensor], Tensor], on_error: OnError
    ) -> Iterator[Tensor]:
        """A second walk over images whose features were not stored. An image that went away or changed meanwhile gives
        no rows, and `on_error` hears of it. Raises `DatasetError` where all did."""
        places, numbers = {id(source): i for i, source in enumerate(sources)}, iter(range(len(sources)))
        found = 0

        def gone(name: str, error: Exception) -> None:
            on_error(name, ImageError(f"{name}: learned from, but gone when the threshold was set ({error})"))

        for item in self.stream(sources, gone):
            here = places[id(item.source)]
            while next(numbers) != here:  # those before it were lost
                yield torch.empty(0, self.dimension)
            if item.grid != features.refs[here].grid:
                on_error(item.source.name, ImageError(f"{item.source.name}: changed while it was learned from"))
                yield item.vectors[:0]
                continue
            found += 1
            yield prepare(item.vectors)
        for _ in numbers:
            yield torch.empty(0, self.dimension)
        if not found:
            raise DatasetError("none of the images that were learned from could be read a second time")


def numbered(sources: Sequence[Sample]) -> list[int]:
    """The number of each image, turned ones with that of the one they were made of, which comes before them."""
    return [max(number, 0) for number in accumulate((not source.angle for source in sources), initial=-1)][1:]


def _batches(items: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
