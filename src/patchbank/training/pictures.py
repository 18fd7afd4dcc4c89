"""What methods share that learn from the pictures themselves: the features of a patch are the values of one pixel, and
the grid is the picture."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from patchbank.errors import OptionError
from patchbank.features.aggregation import OneGrid
from patchbank.features.backbones import PIXELS
from patchbank.features.store import FeatureStore
from patchbank.scorer import Grid, Levels, PatchScores
from patchbank.training.items import Pictures
from patchbank.training.scorer import TrainedScorer

AS_THEY_ARE = OneGrid("mean", patch_size=1)  # how such methods arrange pixels
OF_NETWORKS = frozenset({"levels", "weights", "aggregation", "patch_size", "stride"})  # options without effect on them
LEAST_SIDE = 64  # pixels: networks that halve a side five times keep more than one place of it


def as_pictures(vectors: Tensor, grid: Grid) -> Tensor:
    """B×P×C values of pixels, row by row of their grid → B×C×h×w."""
    return vectors.reshape(-1, grid[0], grid[1], vectors.shape[-1]).permute(0, 3, 1, 2)


def check_pictures(options: Any) -> None:
    """Raise `OptionError` where the options of a method that learns from pictures name a network, or small pictures."""
    if options.backbone != PIXELS:
        raise OptionError(
            f"{options.method} learns from the pictures themselves: leave out backbone={options.backbone}"
        )
    if options.option("image_size") < LEAST_SIDE:
        raise OptionError(f"image_size must be at least {LEAST_SIDE} pixels for {options.method}")


def check_colours(options: Any, levels: Levels) -> None:
    """Raise `OptionError` where a pixel has not the three values of a picture."""
    if levels.dimension != 3:
        raise OptionError(
            f"{options.method} sees pictures, which have 3 values for each pixel, not {levels.dimension}: leave out "
            "fusion=concat, and channels of points such as fpfh"
        )


class GoodPictures(Pictures):
    """Whole pictures, all of them or those of some `numbers`; what is not inspected is black."""

    def __init__(self, features: FeatureStore, numbers: list[int] | None = None):
        super().__init__(features)
        self._inspected = features.inspected
        self.chosen = list(range(self.images)) if numbers is None else numbers
        self.images, self.grids = len(self.chosen), [self.grids[i] for i in self.chosen]

    def pictures(self, numbers: Tensor) -> Tensor:
        """B numbers of pictures of one grid → B×C×h×w float32."""
        pictures = as_pictures(self.vectors(torch.tensor(self.chosen)[numbers]), self.grid(numbers))
        inspected = self.inspected(numbers)
        return pictures if inspected is None else pictures * inspected.to(pictures)

    def inspected(self, numbers: Tensor) -> Tensor | None:
        """B×1×h×w bool: which of their pixels are inspected; None for all."""
        cells = [self._inspected[self.chosen[i]] for i in numbers.tolist()]
        if all(one is None for one in cells):
            return None
        grid = self.grid(numbers)
        shown = [torch.ones(grid, dtype=torch.bool) if one is None else torch.from_numpy(one) for one in cells]
        return torch.stack(shown)[:, None]


class PictureScorer(TrainedScorer):
    """A trained scorer whose network sees the whole picture. What is not inspected is black to it: where it changes,
    no score changes."""

    keeps_grid: ClassVar[bool] = True

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        if inspected is not None:
            points = points * inspected.reshape(-1, 1).to(points.dtype)
        return super().compare(points, grid, inspected, exclude)
