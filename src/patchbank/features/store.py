"""Patch features of one image, and of many with where each comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchbank.calibration.calibration import FOUND
from patchbank.data import Source, View
from patchbank.data.groups import NearCopies, find_near_copies
from patchbank.features.storage import release
from patchbank.memory.bank import TrainingImage

_TILES, _CHANNELS = 4, 64  # of a descriptor


@dataclass(frozen=True)
class ImageFeatures:
    """Patch features of one image: `vectors` P×D, row by row of its `grid` (rows, columns), or of those of its cells
    that are `inside` a region of interest."""

    source: Source
    view: View
    grid: tuple[int, int]
    vectors: Tensor
    timings: dict[str, float]
    inside: NDArray[np.bool_] | None = None
    digest: str = ""


def describe(item: ImageFeatures) -> NDArray[np.float16]:
    """What an image looks like in few numbers: the mean of at most 64 channels in each of 4×4 parts of its grid, all in
    one row. Pictures of one part lie close together (`groups.find_near_copies`)."""
    rows, columns = item.grid
    step = -(-item.vectors.shape[1] // _CHANNELS)
    vectors = item.vectors[:, ::step].float().cpu().numpy()
    cells = np.arange(rows * columns)
    if item.inside is not None and len(vectors) < rows * columns:
        cells = np.flatnonzero(item.inside)
    row, column = np.divmod(cells, columns)
    tile = (row * _TILES // rows) * _TILES + column * _TILES // columns
    belongs = (tile == np.arange(_TILES**2)[:, None]).astype(np.float32)
    means = belongs @ vectors / np.maximum(belongs.sum(1, keepdims=True), 1)
    return np.asarray(np.clip(means, -6e4, 6e4).ravel(), dtype=np.float16)


@dataclass
class FeatureSet:
    """Patch features of many images: one N×D array in which image i has the rows starts[i] to starts[i + 1], or none,
    and every walk over the images computes them again."""

    vectors: Tensor | None
    images: list[TrainingImage] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    insides: list[NDArray[np.bool_] | None] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    again: Callable[[], Iterator[Tensor]] | None = None
    selected: tuple[Tensor, Tensor] | None = None  # vectors that a selection kept on the way, and their rows
    descriptors: list[NDArray[np.float16]] = field(default_factory=list)  # of the images that were not turned
    near_copies: NearCopies | None = None  # what `find_near_copies` found

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def stored(self) -> Tensor:
        """N×D, where the features were stored."""
        if self.vectors is None:
            raise RuntimeError("the features of this fit were not stored")
        return self.vectors

    def walk(self) -> Iterator[Tensor]:
        """P×D of each image in turn."""
        if self.vectors is None:
            assert self.again is not None
            yield from self.again()
            return
        for i in range(len(self.images)):
            yield self.of_image(i)
            release(self.vectors)

    def of_image(self, i: int) -> Tensor:
        """P×D: the patches of image i."""
        return self.stored[self.starts[i] : self.starts[i + 1]]

    def add(self, item: ImageFeatures) -> None:
        """Note an image whose features come next."""
        view = item.view
        self.images.append(
            TrainingImage(
                item.source.name, view.original_size, item.grid, item.source.angle, view.alignment,
                item.digest, item.source.group,
            )
        )  # fmt: skip
        if not item.source.angle:
            self.descriptors.append(describe(item))
        self.views.append(item.view)
        self.insides.append(item.inside)
        self.starts.append(self.starts[-1] + len(item.vectors))

    def find_near_copies(self) -> NearCopies | None:
        """Look for images that show one part, and label these after the first of them."""
        self.near_copies = found = find_near_copies(self.descriptors)
        if found is not None:
            upright = [image.name for image in self.images if not image.angle]
            first: dict[int, str] = {}
            for label, name in zip(found.labels, upright, strict=True):
                first.setdefault(label, name)
            sizes, number = Counter(found.labels), -1
            for i, image in enumerate(self.images):
                number += not image.angle  # a turned image has the label of the one before it
                label = found.labels[number]
                self.images[i] = replace(image, group=f"{FOUND}{first[label]}" if sizes[label] > 1 else "")
        return found

    def labelled(self, readable: list[tuple[Source, int]]) -> list[tuple[Source, int]]:
        """Sources of a fit with the labels that were found."""
        groups = {image.name: image.group for image in self.images}
        return [(replace(source, group=groups.get(source.name, "")), count) for source, count in readable]

    def _is_compact(self, i: int) -> bool:
        rows, columns = self.images[i].grid
        return self.starts[i + 1] - self.starts[i] < rows * columns

    def provenance(self, indices: Tensor) -> NDArray[np.int32]:
        """M indices into the rows → M×3: image, grid row, grid column."""
        rows = indices.cpu().numpy()
        starts = np.asarray(self.starts)
        image = np.searchsorted(starts, rows, side="right") - 1
        cells = rows - starts[image]
        for i in np.unique(image):
            if (inside := self.insides[i]) is not None and self._is_compact(i):
                cells[image == i] = np.flatnonzero(inside)[cells[image == i]]
        columns = np.asarray([i.grid[1] for i in self.images])[image]
        row, column = np.divmod(cells, columns)
        return np.stack([image, row, column], axis=1).astype(np.int32)
