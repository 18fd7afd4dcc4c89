"""Exact nearest neighbours in blocks: never more than a block of the distance matrix in memory."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2048  # bank vectors at a time: the distance block of one image's patches stays in the processor's cache


def nearest(queries: Tensor, bank: Tensor, bank_squared: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each query's nearest bank vector: Q×D, M×D float32 → distances Q (float32) and indices Q (int64).

    `bank_squared` (M) are the squared norms of the bank, if at hand; +inf there leaves a vector out of the search.
    ‖q‖² is the same for a whole row, so the smallest ‖m‖² − 2·q·m decides; the distance itself is then taken from the
    difference q − m, because the expanded form cancels for vectors that are close.
    """
    if bank_squared is None:
        bank_squared = squared_norms(bank)
    best = torch.full((len(queries),), torch.inf, device=queries.device)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), _BLOCK):
        block = slice(start, start + _BLOCK)
        partial = torch.addmm(bank_squared[block], queries, bank[block].T, alpha=-2)
        value, where = partial.min(dim=1)
        closer = value < best
        best = torch.where(closer, value, best)
        index = torch.where(closer, where + start, index)
    distance = torch.linalg.vector_norm(queries - bank[index], dim=1)
    # no vector to compare with leaves +inf
    return distance.masked_fill(torch.isinf(best), torch.inf), index


def k_nearest(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k bank vectors nearest to one query: D, M×D → distances k and indices k, nearest first."""
    distances = torch.linalg.vector_norm(bank - query, dim=1)
    found = torch.topk(distances, min(k, len(bank)), largest=False)
    return found.values, found.indices


def squared_norms(vectors: Tensor) -> Tensor:
    """M×D → M."""
    return (vectors * vectors).sum(1)
