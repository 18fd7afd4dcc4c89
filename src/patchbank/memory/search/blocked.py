"""Exact nearest neighbours by matrix products in blocks, on any device: never more than a block of the distances in
memory."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2048  # bank vectors at a time: the distance block of one image's patches stays in the processor's cache


class BlockedIndex:
    """M×D float32 vectors, searched by brute force."""

    name = "blocked"

    def __init__(self, vectors: Tensor):
        self.vectors = vectors
        self.squared = squared_norms(vectors)

    def nearest(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Q×D → distances Q (float32) and indices Q (int64); `excluded` (M, bool) are left out, and a query with
        nothing left gets distance +inf.

        ‖q‖² is the same for a whole row, so the smallest ‖m‖² − 2·q·m decides; the distance itself is then taken from
        the difference q − m, because the expanded form cancels for vectors that are close.
        """
        squared = self.squared if excluded is None else self.squared.masked_fill(excluded, torch.inf)
        best = torch.full((len(queries),), torch.inf, device=queries.device)
        index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.vectors), _BLOCK):
            block = slice(start, start + _BLOCK)
            partial = torch.addmm(squared[block], queries, self.vectors[block].T, alpha=-2)
            value, where = partial.min(dim=1)
            closer = value < best
            best = torch.where(closer, value, best)
            index = torch.where(closer, where + start, index)
        distance = torch.linalg.vector_norm(queries - self.vectors[index], dim=1)
        return distance.masked_fill(torch.isinf(best), torch.inf), index

    def neighbourhood(self, vector: Tensor, size: int) -> Tensor:
        """The `size` vectors nearest to a vector (D): size×D, nearest first."""
        return self.vectors[k_nearest(vector, self.vectors, size, self.squared)[1]]


def nearest(queries: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each query's nearest vector, without an index made before: Q×D, M×D → distances Q and indices Q."""
    return BlockedIndex(vectors).nearest(queries)


def k_nearest(query: Tensor, vectors: Tensor, k: int, squared: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k vectors nearest to one query: D, M×D → distances k and indices k, nearest first. `squared`: the squared
    norms of the vectors, if at hand."""
    if squared is None:
        squared = squared_norms(vectors)
    k = min(k, len(vectors))
    expanded = squared - 2 * (vectors @ query)
    # rounding of the expanded form may misplace close contenders: all that it could have misplaced are measured in full
    rounding = 16 * float(len(query)) ** 0.5 * torch.finfo(torch.float32).eps * squared.max()
    limit = torch.topk(expanded, k, largest=False).values[-1] + rounding
    contenders = (expanded <= limit).nonzero()[:, 0]
    distances = torch.linalg.vector_norm(vectors[contenders] - query, dim=1)
    found = torch.topk(distances, k, largest=False)
    return found.values, contenders[found.indices]


def squared_norms(vectors: Tensor) -> Tensor:
    """M×D → M."""
    return (vectors * vectors).sum(1)
