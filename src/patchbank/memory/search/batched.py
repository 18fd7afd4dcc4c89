"""Exact nearest neighbours in many small banks at once, each query in its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 4096  # bank vectors at a time


@dataclass(frozen=True)
class BatchedBanks:
    """G banks of up to K vectors: `vectors` G×K×C, `squared` norms G×K, +inf where a bank has no more, and `numbers`
    G×K of each vector."""

    vectors: Tensor
    squared: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, vectors: Tensor, members: list[Tensor]) -> BatchedBanks:
        """Banks of some of M×C vectors each: the rows in `members`."""
        most = max(max(map(len, members)), 1)
        numbers = torch.zeros(len(members), most, dtype=torch.int64, device=vectors.device)
        filled = torch.zeros(len(members), most, dtype=torch.bool, device=vectors.device)
        for bank, rows in enumerate(members):
            numbers[bank, : len(rows)], filled[bank, : len(rows)] = rows, True
        chosen = vectors[numbers]
        return cls(chosen, chosen.square().sum(2).masked_fill(~filled, torch.inf), numbers)

    def nearest(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """G×Q×C → distances and vector numbers, G×Q; `excluded`: of the M vectors, those to leave out. Distance +inf
        where a bank has none left."""
        squared = self.squared if excluded is None else self.squared.masked_fill(excluded[self.numbers], torch.inf)
        best = torch.full(queries.shape[:2], torch.inf, device=queries.device)
        index = torch.zeros(queries.shape[:2], dtype=torch.int64, device=queries.device)
        for start in range(0, self.squared.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            partial = torch.baddbmm(
                squared[:, None, block], queries, self.vectors[:, block].transpose(1, 2), alpha=-2
            )  # fmt: skip
            value, where = partial.min(dim=2)
            closer = value < best
            best, index = torch.where(closer, value, best), torch.where(closer, where + start, index)
        found = torch.gather(self.vectors, 1, index[:, :, None].expand(-1, -1, queries.shape[2]))
        # the expanded form cancels for vectors that are close: the distance is taken from the difference
        distance = torch.linalg.vector_norm(queries - found, dim=2).masked_fill(torch.isinf(best), torch.inf)
        return distance, torch.gather(self.numbers, 1, index)
