"""How far is far near each vector of a bank: a scale that is predicted from the vector and a direction (Eq. 1 of
`methods.local_scale`)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.memory.traced import TracedBank, norm, together
from patchbank.scorer import Grid
from patchbank.training.network import Standard

_LEAST = 1e-6  # of lengths that are divided by, or whose logarithm is taken
_SLOPE = 0.2  # of the leaky ReLUs
_ONE = math.log(math.e - 1)  # whose softplus is 1: what the scale begins near


class ScaleNetwork(nn.Module):
    """s of Eq. 1, and the M×D vectors of the bank, which are not learned.

    s sees the direction of a difference and not its length: farther in one direction always scores higher, also where
    the network has never been.

    Args:
        dimension: D.
        vectors: M.
        hidden: width of two hidden layers.
    """

    bank: Tensor

    def __init__(self, dimension: int, vectors: int, hidden: int):
        super().__init__()
        self.register_buffer("bank", torch.zeros(vectors, dimension))
        self.statistics = Standard(dimension)
        self.layers = nn.Sequential(
            nn.Linear(2 * dimension, hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, hidden), nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def reset(self, generator: torch.Generator) -> None:
        """An empty bank."""
        self.bank.zero_()

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Patches B×P×D → scores B×P (Eq. 1)."""
        _, nearest = TracedBank(self.bank, together(int(self.bank.shape[0]))).nearest(vectors)
        return self.scores(vectors, nearest)

    def scores(self, points: Tensor, nearest: Tensor) -> Tensor:
        """Eq. 1 of …×D patches, given the numbers … of their nearest vectors."""
        difference = points - self.bank[nearest]
        return norm(difference) / self.scale(difference, self.bank[nearest])

    def log_scores(self, points: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """B×D patches → log score B, and log s."""
        difference = points - self.bank[nearest]
        scale = self.scale(difference, self.bank[nearest]).log()
        return norm(difference).clamp(min=_LEAST).log() - scale, scale

    def scale(self, difference: Tensor, nearest: Tensor) -> Tensor:
        """s > 0 of …×D differences to …×D vectors of the bank."""
        # in units of each dimension's own spread; of length √D, so that their elements are about 1
        standard = difference / self.statistics.scale
        direction = standard / norm(standard)[..., None].clamp(min=_LEAST) * int(difference.shape[-1]) ** 0.5
        return F.softplus(self.layers(torch.cat([direction, self.statistics(nearest)], -1))[..., 0] + _ONE)
