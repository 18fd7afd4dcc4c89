"""One image after the extractor: its patch features, and what is known of it without them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchbank.data import Sample, View
from patchbank.features.area import Area
from patchbank.sample import SampleRef

_TILES, _CHANNELS = 4, 64  # of a descriptor; where there are fewer channels, more tiles say as much


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """One image after the extractor.

    Attributes:
        source: what was read.
        view: how it was inspected.
        grid: (rows, columns) of its patches.
        vectors: P×D, row by row of the grid; of the inspected cells only, where the method does not need the others.
        timings: ms by stage.
        area: what of it is inspected; None for all.
        digest: of its pixels, where it was asked for.
        number: of the image among those of a fit, turned ones as the one they were made of; −1 where nobody counts.
    """

    source: Sample
    view: View
    grid: tuple[int, int]
    vectors: Tensor
    timings: dict[str, float]
    area: Area | None = None
    digest: str = ""
    number: int = -1

    @property
    def inspected(self) -> NDArray[np.bool_] | None:
        """Which cells of the grid are inspected; None for all."""
        return None if self.area is None else self.area.cells(self.grid)

    @property
    def ref(self) -> SampleRef:
        """Where it comes from."""
        view, source = self.view, self.source
        return SampleRef(
            source.name, view.original_size, self.grid, source.angle, view.alignment, self.digest, source.group
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Noted:
    """What is known of an image without its features.

    Attributes:
        ref, view, inspected: as in `PatchFeatures`.
        patches: how many it has.
        number: as in `PatchFeatures`.
        descriptor: what it looks like (`describe`); None where it was turned.
    """

    ref: SampleRef
    view: View
    inspected: NDArray[np.bool_] | None
    patches: int
    number: int
    descriptor: NDArray[np.float16] | None

    @classmethod
    def of(cls, item: PatchFeatures) -> Noted:
        """Of an image whose features are there."""
        looks = None if item.source.angle else describe(item)
        return cls(item.ref, item.view, item.inspected, len(item.vectors), item.number, looks)


@dataclass(frozen=True, eq=False)
class Visit:
    """An image of a store once more: its number `i` in the store, its `vectors`, P×D, and what of it is inspected."""

    i: int
    ref: SampleRef
    view: View
    inspected: NDArray[np.bool_] | None
    vectors: Tensor
    area: Area | None


def describe(item: PatchFeatures) -> NDArray[np.float16]:
    """What an image looks like in few numbers: the mean of at most 64 channels in each of 4×4 parts of its grid, all in
    one row; of 3 channels in each of 16×16. Pictures of one part lie close together
    (`data.groups.find_near_copies`)."""
    rows, columns = item.grid
    step = -(-item.vectors.shape[1] // _CHANNELS)
    vectors = item.vectors[:, ::step].float().cpu().numpy()
    channels = vectors.shape[1]
    tiles = _TILES * math.isqrt(_CHANNELS // channels)
    cells = np.arange(rows * columns)
    if (inspected := item.inspected) is not None and len(vectors) < rows * columns:
        cells = np.flatnonzero(inspected)
    row, column = np.divmod(cells, columns)
    tile = (row * tiles // rows) * tiles + column * tiles // columns
    place = tile[:, None] * channels + np.arange(channels)
    sums = np.bincount(place.ravel(), vectors.ravel(), tiles**2 * channels)
    counts = np.bincount(tile, minlength=tiles**2)
    means = sums.reshape(-1, channels) / np.maximum(counts, 1)[:, None]
    return np.asarray(np.clip(means, -6e4, 6e4).ravel(), dtype=np.float16)
