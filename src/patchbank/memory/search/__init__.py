"""Nearest neighbours in the bank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from patchbank.errors import OptionError
from patchbank.memory.search.blocked import BlockedIndex, k_nearest, nearest

if TYPE_CHECKING:
    from patchbank.memory.search.pruned import PrunedIndex

__all__ = ["SEARCHES", "BlockedIndex", "Index", "check_search", "k_nearest", "make_index", "nearest"]

SEARCHES = ("auto", "pruned", "blocked", "ivfpq", "hnsw")
_TRIAL = 128


class Index(Protocol):
    """What every search offers; `name` is one of SEARCHES."""

    name: str

    def nearest(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Q×D → distances Q (float32) and indices Q (int64). `excluded`: M bool, vectors to leave out; distance +inf
        where none is left."""
        ...

    def neighbourhood(self, vector: Tensor, size: int) -> Tensor:
        """The `size` vectors nearest to a vector (D), exactly: size×D, nearest first."""
        ...


def make_index(vectors: Tensor, search: str = "auto") -> Index:
    """M×D float32 vectors prepared for searching. "auto" is the fastest exact way for these vectors on this device."""
    check_search(search, vectors.device.type)
    if search in ("ivfpq", "hnsw"):
        from patchbank.memory.search.approximate import FaissIndex

        return FaissIndex(vectors, search)
    if search == "blocked" or vectors.device.type != "cpu":
        return BlockedIndex(vectors)
    from patchbank.memory.search.pruned import PrunedIndex

    index = PrunedIndex(vectors)
    if search == "auto" and _hopeless(index, vectors):
        return index.blocked
    return index


def check_search(search: str, device: str = "cpu") -> None:
    """Raise `OptionError` for a search that does not exist or not on this device."""
    if search not in SEARCHES:
        raise OptionError(f"search must be one of {', '.join(SEARCHES)}, not {search!r}")
    if device != "cpu" and search not in ("auto", "blocked"):
        raise OptionError(f"search={search!r} runs on the CPU, not on {device}: use search='auto'")


def _hopeless(index: PrunedIndex, vectors: Tensor) -> bool:
    """Whether lower bounds exclude too little: tried on some of the vectors themselves, searched among the others."""
    some = torch.arange(0, len(vectors), max(1, len(vectors) // _TRIAL))
    excluded = torch.zeros(len(vectors), dtype=torch.bool)
    excluded[some] = True
    return index.hopeless_share(vectors[some], excluded) > 0.5
