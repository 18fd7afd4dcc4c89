"""Good pictures, as they are and with synthetic anomalies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchbank.errors import DatasetError
from patchbank.features.store import FeatureStore
from patchbank.sample import parts_of
from patchbank.scorer import Grid
from patchbank.training.anomalies import Anomalies
from patchbank.training.items import Pictures


class DamagedPictures:
    """The pixels of a store, B×C×H×W in 0..1.

    Attributes:
        items: the pictures.
        parts: N, the number of the part that each shows.
        anomalies: how they are drawn. They lie where pictures are inspected.
    """

    def __init__(self, features: FeatureStore, device: torch.device):
        self.items, self.anomalies = Pictures(features), Anomalies()
        self.parts, self._device = torch.tensor(parts_of(features.refs)), device
        self._inspected = [None if one is None else torch.from_numpy(one) for one in features.inspected]
        if not self.items.images:
            raise DatasetError("there is no picture to learn from")

    def drawn(self, numbers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """B numbers → pictures, the same with anomalies, and their B×1×H×W masks."""
        pictures = as_pictures(self.items.vectors(numbers), self.items.grid(numbers))
        damaged, mask = self.anomalies.applied(pictures, generator, self._foreground(numbers))
        return pictures.to(self._device), damaged.to(self._device), mask.to(self._device)

    def picture(self, number: int) -> Tensor:
        """One of them, 1×C×H×W."""
        one = torch.tensor([number])
        return as_pictures(self.items.vectors(one), self.items.grid(one)).to(self._device)

    def inside(self, number: int) -> Tensor:
        """Which of its pixels are inspected: H·W bool."""
        height, width = self.items.grids[number]
        found = self._inspected[number]
        return torch.ones(height * width, dtype=torch.bool) if found is None else found.reshape(-1)

    def cells(self, number: int, side: int) -> Tensor:
        """The numbers of its cells of `side`×`side` pixels that are inspected, at least in part."""
        height, width = self.items.grids[number]
        inside = self.inside(number).reshape(1, height, width).float()
        return torch.nonzero(F.max_pool2d(inside, side).flatten())[:, 0]

    def _foreground(self, numbers: Tensor) -> Tensor | None:
        if all(self._inspected[i] is None for i in numbers.tolist()):
            return None
        height, width = self.items.grid(numbers)
        return torch.stack([self.inside(i).reshape(height, width) for i in numbers.tolist()])


def as_pictures(vectors: Tensor, grid: Grid) -> Tensor:
    """Pixels B×P×C, row by row of a grid → B×C×H×W."""
    return vectors.transpose(1, 2).reshape(-1, int(vectors.shape[2]), grid[0], grid[1])
