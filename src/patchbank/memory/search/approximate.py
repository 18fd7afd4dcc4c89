"""Approximate nearest neighbours through faiss: for banks of millions, where a missed neighbour is bearable.

`ivfpq` is the paper's choice (Table 4: 512 lists, 64 sub-quantisers of 8 bits); `hnsw` a graph. The candidates they
find are measured again in full, so distances are exact and only the choice of neighbour is approximate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchbank._system.threads import openmp_threads
from patchbank.errors import MissingPackageError
from patchbank.memory.search.blocked import k_nearest

_LISTS, _PROBES, _PARTS = 512, 32, 64
_CANDIDATES = 8  # measured in full
_LINKS, _EFFORT = 32, 64  # of the graph: neighbours per node; nodes kept in view in construction and search


class FaissIndex:
    """M×D float32 vectors behind a faiss index, `kind` "ivfpq" or "hnsw"."""

    def __init__(self, vectors: Tensor, kind: str):
        try:
            import faiss
        except ImportError:
            raise MissingPackageError(f"search={kind!r} needs faiss: `pip install patchbank[faiss]`") from None
        self.name, self.vectors, self._faiss = kind, vectors, faiss
        values = vectors.numpy()
        faiss.omp_set_num_threads(openmp_threads())
        self.index = _ivfpq(faiss, values) if kind == "ivfpq" else _hnsw(faiss, values)
        self.index.add(values)

    def nearest(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Q×D → distances Q and indices Q; `excluded` (M, bool) are left out. +inf where nothing was found."""
        self._faiss.omp_set_num_threads(openmp_threads())
        k = min(_CANDIDATES, len(self.vectors))
        _, found = self.index.search(np.ascontiguousarray(queries.numpy()), k, params=self._parameters(excluded))
        candidates = torch.from_numpy(found)
        distances = torch.linalg.vector_norm(queries[:, None] - self.vectors[candidates.clamp(min=0)], dim=2)
        best = distances.masked_fill(candidates < 0, torch.inf).min(1)
        return best.values, candidates.gather(1, best.indices[:, None])[:, 0].clamp(min=0)

    def neighbourhood(self, vector: Tensor, size: int) -> Tensor:
        """The `size` vectors nearest to a vector (D), exactly: size×D, nearest first."""
        return self.vectors[k_nearest(vector, self.vectors, size)[1]]

    def _parameters(self, excluded: Tensor | None) -> Any:
        faiss = self._faiss
        kept = {} if excluded is None else {"sel": faiss.IDSelectorBatch((~excluded).nonzero()[:, 0].numpy())}
        if self.name == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=_EFFORT, **kept)
        return faiss.SearchParametersIVF(nprobe=_PROBES, **kept)


def _ivfpq(faiss: Any, vectors: Any) -> Any:
    count, dimension = vectors.shape
    lists = max(1, min(_LISTS, count // 39))  # faiss asks for 39 training vectors per list
    bits = min(8, max(1, int(np.log2(max(2, count // 39)))))
    parts = max(parts for parts in range(1, _PARTS + 1) if dimension % parts == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dimension), dimension, lists, parts, bits)
    index.train(vectors)
    return index


def _hnsw(faiss: Any, vectors: Any) -> Any:
    index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS)
    index.hnsw.efConstruction = _EFFORT
    return index
