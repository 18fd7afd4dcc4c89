"""Large images at their own resolution: tiles that overlap, and features put together without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchbank.data.values import RGB
from patchbank.errors import OptionError

if TYPE_CHECKING:  # reading and placing images needs no torch: an exported model runs without
    from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """One side of a tile: its pixels `start` to `stop`, of which `first` to `last` are taken from it."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size`×`size` pixels, `overlap` of which a tile shares with the next; of what two share each gives half,
    so that no feature is taken from within `overlap`/2 pixels of a cut."""

    size: int
    overlap: int

    def check(self, multiple: int) -> None:
        """Raise `OptionError` for tiles that the network cannot take."""
        if self.size < 128 or self.size % multiple:
            raise OptionError(f"tile must be a multiple of {multiple} pixels, at least 128, not {self.size}")
        if self.overlap % (2 * multiple) or not 0 <= self.overlap <= self.size // 2:
            raise OptionError(
                f"overlap must be a multiple of {2 * multiple} pixels, at most half a tile, not {self.overlap}"
            )

    def side(self, length: int) -> list[Tile]:
        """The tiles along a side: evenly spread starts at multiples of the cell, the last one ending with the image."""
        if length <= self.size:
            return [Tile(0, length, 0, length)]
        starts = [*range(0, length - self.size, self.size - self.overlap), length - self.size]
        cuts = [0, *(start + self.overlap // 2 for start in starts[1:]), length]
        return [Tile(s, s + self.size, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]

    def tiles(self, height: int, width: int) -> Iterator[tuple[Tile, Tile]]:
        """(rows, columns) of each tile of an image, row by row."""
        return ((rows, columns) for rows in self.side(height) for columns in self.side(width))

    def stitched(
        self,
        pixels: RGB,
        grid: tuple[int, int],
        features: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """H×W×3 pixels → the grid of patch features, rows×columns×D; `features` takes 1×3×h×w float32 in 0..255 to
        h'×w'×D of a tile."""
        import torch

        height, width = pixels.shape[:2]
        down, across = height // grid[0], width // grid[1]  # pixels of a cell
        whole: Tensor | None = None
        for rows, columns in self.tiles(height, width):
            part = pixels[rows.start : rows.stop, columns.start : columns.stop].transpose(2, 0, 1)
            found = features(torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))[None])
            if whole is None:
                whole = torch.empty(*grid, found.shape[2], device=found.device)
            top, left = (rows.first - rows.start) // down, (columns.first - columns.start) // across
            here = (
                slice(rows.first // down, rows.last // down),
                slice(columns.first // across, columns.last // across),
            )
            target = whole[here]
            target.copy_(found[top : top + target.shape[0], left : left + target.shape[1]])
        assert whole is not None
        return whole
