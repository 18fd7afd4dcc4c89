"""What methods share that learn from the pictures themselves: the features of a patch are the values of one pixel, and
the grid is the picture."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from patchbank.errors import OptionError
from patchbank.features.aggregation import OneGrid
from patchbank.features.backbones import PIXELS
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


def default_width(options: Any) -> float:
    """Of networks whose paper's width is 1, where none is given: narrow on a CPU."""
    return 1.0 if options.torch_device.type == "cuda" else 0.25


def check_width(options: Any) -> None:
    """Raise `OptionError` for a relative width that cannot be used."""
    if not 0 < options.option("width") <= 4:
        raise OptionError(f"width must lie in (0, 4], not {options.width}")


def check_colours(options: Any, levels: Levels) -> None:
    """Raise `OptionError` where a pixel has not the three values of a picture."""
    if levels.dimension != 3:
        raise OptionError(
            f"{options.method} sees pictures, which have 3 values for each pixel, not {levels.dimension}: leave out "
            "fusion=concat, and channels of points such as fpfh"
        )


class GoodPictures(Pictures):
    """Whole pictures; what is not inspected is black."""

    def pictures(self, numbers: Tensor) -> Tensor:
        """B numbers of pictures of one grid → B×C×h×w float32."""
        pictures = as_pictures(self.vectors(numbers), self.grid(numbers))
        inspected = self.inspected(numbers)
        return pictures if inspected is None else pictures * inspected.to(pictures)

    def inspected(self, numbers: Tensor) -> Tensor | None:
        """B×1×h×w bool: which of their pixels are inspected; None for all."""
        inside = self.inside(numbers)
        return None if inside is None else inside[:, None]


class PictureScorer(TrainedScorer):
    """A trained scorer whose network sees the whole picture. What is not inspected is black to it: where it changes,
    no score changes."""

    keeps_grid: ClassVar[bool] = True

    def pixel_bytes(self) -> float:
        """Bytes of a step for each pixel of a picture: what gradients need."""
        raise NotImplementedError

    def step_bytes(self, images: int, patches: int) -> int:
        return int(self.pixel_bytes() * patches * min(self.training_options.batch, images))

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        if inspected is not None:
            points = points * inspected.reshape(-1, 1).to(points.dtype)
        return super().compare(points, grid, inspected, exclude)
