"""A coreset of more features than fit into memory: of each chunk first, then of all that the chunks kept.

k centres per chunk and then k centres of the union are a constant-factor approximation of k-centre: every feature is
within r₁ of what its chunk kept, and that within r₂ of what is kept in the end (Guha et al., "Clustering data streams",
FOCS 2000).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Select = Callable[[Tensor], Tensor]  # N×D → indices of the rows to keep


class MergeReduce:
    """Takes features a few at a time, never holds more than `capacity` of them, and keeps what `select` selects.

    `capacity` must be at least twice what `select` keeps.
    """

    def __init__(self, select: Select, capacity: int, dimension: int, scale: Callable[[Tensor], Tensor]):
        """`scale`: the first chunk → D factors that all features are multiplied with."""
        self.select, self.scale, self.factors = select, scale, torch.ones(dimension)
        self.vectors, self.rows = torch.empty(capacity, dimension), torch.empty(capacity, dtype=torch.int64)
        self.kept = self.filled = 0  # the buffer holds what chunks kept, then the chunk that is being filled
        self.seen = self.chunks = 0

    def add(self, features: Tensor) -> None:
        """The next features, P×D."""
        while len(features):
            if self.filled == len(self.vectors):
                self._reduce()
            some = features[: len(self.vectors) - self.filled]
            torch.mul(some, self.factors, out=self.vectors[self.filled : self.filled + len(some)])
            self.rows[self.filled : self.filled + len(some)] = torch.arange(self.seen, self.seen + len(some))
            self.filled, self.seen = self.filled + len(some), self.seen + len(some)
            features = features[len(some) :]

    def result(self) -> tuple[Tensor, Tensor]:
        """What is kept of all features: K×D, and the numbers of those features."""
        self._reduce()
        if self.chunks > 1:
            self._keep(0)
        return self.vectors[: self.kept].clone(), self.rows[: self.kept].clone()

    def _reduce(self) -> None:
        if self.chunks == 0:
            self.factors = self.scale(self.vectors[: self.filled])
            self.vectors[: self.filled] *= self.factors
        self.chunks += 1
        self._keep(self.kept)
        # half of the buffer must stay free for the next chunk
        if 2 * self.kept > len(self.vectors):
            self._keep(0)

    def _keep(self, first: int) -> None:
        """Select from the buffer's rows from `first` on, and close the gap."""
        chosen = first + self.select(self.vectors[first : self.filled])
        stop = first + len(chosen)
        self.vectors[first:stop], self.rows[first:stop] = self.vectors[chosen], self.rows[chosen]
        self.kept = self.filled = stop
