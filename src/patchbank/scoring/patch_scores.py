"""What a method says about the patches of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

Grid: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PatchScores:
    """What a scorer says about one image.

    Attributes:
        distances: of the patches: in the order of the vectors, or rows×columns; None for a method without a map.
        nearest: a reference into the memory for each patch, where it compares with patches.
        factor: on the image score.
        image: an image score of its own, not made of the distances.
        by_channel: K×… of the distances in each of several channels, standardised.
    """

    distances: Tensor | None
    nearest: Tensor | None = None
    factor: Tensor | float = 1.0
    image: Tensor | float | None = None
    by_channel: Tensor | None = None

    def on_grid(self, grid: Grid, inspected: Tensor | None) -> PatchScores:
        """In the order of the vectors → rows×columns; 0 where the grid is not inspected."""
        if self.distances is None or self.distances.ndim != 1:
            return self
        if inspected is None or len(self.distances) == grid[0] * grid[1]:
            nearest = None if self.nearest is None else self.nearest.reshape(grid)
            by_channel = None if self.by_channel is None else self.by_channel.reshape(-1, *grid)
            return replace(self, distances=self.distances.reshape(grid), nearest=nearest, by_channel=by_channel)
        distances, nearest = torch.zeros(grid, device=inspected.device), None
        distances[inspected] = self.distances
        if self.nearest is not None:
            nearest = torch.zeros(grid, dtype=torch.int64, device=inspected.device)
            nearest[inspected] = self.nearest
        by_channel = None
        if self.by_channel is not None:
            by_channel = torch.zeros(len(self.by_channel), *grid, device=inspected.device)
            by_channel[:, inspected] = self.by_channel
        return replace(self, distances=distances, nearest=nearest, by_channel=by_channel)
