"""A small training that needs no images: a line through points."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from patchbank.training.items import Patches
from patchbank.training.network import build

IMAGES, ROWS = 20, 6


class Line:
    """Points whose last number is a line of the others, with noise that comes from the generator of the loss.

    Args:
        before: called with the number of each step before its loss is computed.
        images: how many, of `ROWS` points each.
    """

    def __init__(self, before: Callable[[int], None] | None = None, images: int = IMAGES, seed: int = 0):
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(images * ROWS, 4, generator=generator)
        points[:, 3] = points[:, :3] @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
        self.items = Patches(points, [ROWS * i for i in range(images + 1)])
        self.network = build(lambda: nn.Linear(3, 1), seed)
        self.seen: list[list[int]] = []
        self.rates: list[float] = []
        self._before, self._optimiser = before, torch.optim.AdamW(self.network.parameters(), lr=0.1)

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [self._optimiser]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        if self.network.training:
            self.seen.append(numbers.tolist())
            self.rates.append(self._optimiser.param_groups[0]["lr"])
            if self._before:
                self._before(len(self.seen))
        points = self.items.rows(numbers)
        noise = 0.1 * torch.randn(len(points), generator=generator)
        return (self.network(points[:, :3])[:, 0] - points[:, 3] + noise).square().mean()

    def weights(self) -> Tensor:
        """All of them in one row."""
        return torch.cat([parameter.detach().flatten() for parameter in self.network.parameters()])
