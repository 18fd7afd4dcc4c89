"""What batches are drawn from: patches, or whole images, of stored features. Both give the numbers of their items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from patchbank.errors import DatasetError
from patchbank.features.storage import is_mapped, take
from patchbank.features.store import FeatureStore

_TOGETHER = 16  # images whose patches are shuffled together: those of a file lie close to each other then


class Items(Protocol):
    """`images`: how many there are."""

    images: int

    def batches(self, size: int, images: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
        """The items of some images once, in random order, as batches of numbers of items."""
        ...

    def steps(self, size: int, images: Sequence[int]) -> int:
        """How many batches that are."""
        ...


class Patches:
    """The items are patches: rows of N×D `vectors`. Image i has the rows `starts[i]` to `starts[i + 1]`."""

    def __init__(self, vectors: Tensor, starts: Sequence[int]):
        self.vectors, self.starts, self.images = vectors, list(starts), len(starts) - 1
        if not len(vectors):
            raise DatasetError("no image has a patch to learn from: look at the region of interest")

    @classmethod
    def of(cls, features: FeatureStore) -> Patches:
        """Those of a store that keeps its features."""
        return cls(features.stored, features.starts)

    def rows(self, numbers: Tensor) -> Tensor:
        """B numbers → B×D float32."""
        rows = numbers if is_mapped(self.vectors) else numbers.to(self.vectors.device)
        return take(self.vectors, rows).float()

    def batches(self, size: int, images: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
        """A few images at a time, whose patches are shuffled."""
        order = [images[i] for i in torch.randperm(len(images), generator=generator).tolist()]
        for start in range(0, len(order), _TOGETHER):
            ranges = [torch.arange(self.starts[i], self.starts[i + 1]) for i in order[start : start + _TOGETHER]]
            rows = torch.cat(ranges)
            yield from torch.split(rows[torch.randperm(len(rows), generator=generator)], size)

    def steps(self, size: int, images: Sequence[int]) -> int:
        lengths = [self.starts[i + 1] - self.starts[i] for i in images]
        parts = [sum(lengths[start : start + _TOGETHER]) for start in range(0, len(lengths), _TOGETHER)]
        # which images come together is drawn anew each time: with images of several sizes this is about right
        return sum(-(-part // size) for part in parts)


class Pictures:
    """The items are images, all of a store or those of some `numbers`. Those of one batch have one grid."""

    def __init__(self, features: FeatureStore, numbers: list[int] | None = None):
        self.chosen = list(range(len(features.refs))) if numbers is None else numbers
        self._features, self.images = features, len(self.chosen)
        self.grids = [features.refs[i].grid for i in self.chosen]

    def vectors(self, numbers: Tensor) -> Tensor:
        """B numbers of images of one grid → B×P×D float32, row by row of their grid."""
        found = torch.stack([self._features.of_image(self.chosen[i]) for i in numbers.tolist()]).float()
        self._features.release_pages()
        return found

    def grid(self, numbers: Tensor) -> tuple[int, int]:
        """(rows, columns) of the images of a batch."""
        return self.grids[int(numbers[0])]

    def inside(self, numbers: Tensor) -> Tensor | None:
        """B×rows×columns bool: which cells of these images are inspected; None for all."""
        cells = [self._features.inspected[self.chosen[i]] for i in numbers.tolist()]
        if all(one is None for one in cells):
            return None
        everywhere = torch.ones(self.grid(numbers), dtype=torch.bool)
        return torch.stack([everywhere if one is None else torch.from_numpy(one) for one in cells])

    def batches(self, size: int, images: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
        """Batches of each grid, in random order."""
        shuffled = [images[i] for i in torch.randperm(len(images), generator=generator).tolist()]
        together: dict[tuple[int, int], list[int]] = {}
        for i in shuffled:
            together.setdefault(self.grids[i], []).append(i)
        parts = [part for numbers in together.values() for part in torch.split(torch.tensor(numbers), size)]
        for number in torch.randperm(len(parts), generator=generator).tolist():
            yield parts[number]

    def steps(self, size: int, images: Sequence[int]) -> int:
        grids = [self.grids[i] for i in images]
        return sum(-(-grids.count(grid) // size) for grid in set(grids))


def on_finest(maps: Sequence[Tensor]) -> Tensor:
    """B×h_j×w_j of each level, shallowest first → all on the grid of the first (bilinear), levels×B×h×w."""
    size = (int(maps[0].shape[1]), int(maps[0].shape[2]))
    enlarged = [F.interpolate(each[:, None], size, mode="bilinear", align_corners=False)[:, 0] for each in maps[1:]]
    return torch.stack([maps[0], *enlarged])
