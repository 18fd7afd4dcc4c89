"""Patch features of one image, and of many with where each comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchbank.bank import TrainingImage
from patchbank.images import Source, View
from patchbank.storage import release


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
            TrainingImage(item.source.name, view.original_size, item.grid, item.source.angle, view.alignment)
        )
        self.views.append(item.view)
        self.insides.append(item.inside)
        self.starts.append(self.starts[-1] + len(item.vectors))

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
