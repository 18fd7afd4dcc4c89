"""Farthest-first traversal of points that are spread over several processes, exact.

Each round the shards tell their farthest points with exact distances, and what no other point of theirs can exceed. The
farthest of all points is among them. Points are selected as long as the farthest of the pool precedes all that is
outside, and the shards hear of them. Distances and ties are decided as in `farthest_first`: the same kernels, in
float64, and of equally far points the one with the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from patchbank._system.numba_jit import jit
from patchbank.memory.coreset.farthest_first import exact_distance, rounding_slack
from patchbank.memory.coreset.selection import Selection
from patchbank.memory.coreset.shard import NOTHING, Candidates, Indices
from patchbank.memory.search.prefix import Floats, squared_distance

POOL = 4096  # candidates of all shards together
_LEAST = 32  # of each


class Traversals(Protocol):
    """The shards of a traversal, wherever they are."""

    def __len__(self) -> int: ...

    def advance(self, centres: Floats, indices: Indices, most: int) -> Sequence[Candidates]:
        """Tell all shards of K×D centres and their row numbers, then ask each for its candidates."""
        ...

    def radius(self) -> float:
        """The largest squared distance of any point; −inf where none is left."""
        ...


@dataclass
class Traffic:
    """What a selection sent and received. `rounds`; `up`, `down`: bytes from and to the shards, all together."""

    rounds: int = 0
    up: int = 0
    down: int = 0

    def count(self, found: Sequence[Candidates], centres: Floats) -> None:
        """Add a round."""
        self.rounds += 1
        self.up += sum(part.vectors.nbytes + part.indices.nbytes + part.distances.nbytes for part in found)
        self.down += len(found) * centres.nbytes


@dataclass
class Begun:
    """Where a selection stands: the `indices` and `vectors` (K×D) of what it selected, which a later run begins with;
    `save` is called with them after each round."""

    indices: Indices
    vectors: Floats
    save: Callable[[Indices], None] | None = None
    traffic: Traffic = field(default_factory=Traffic)


def select_from_shards(
    shards: Traversals,
    count: int,
    dimension: int,
    *,
    progress: Callable[[int], None] | None = None,
    radius: float = 0.0,
    begun: Begun | None = None,
) -> Selection:
    """As `farthest_first`: the same indices in the same order, and the same radius. `begun`: what an interrupted run
    selected already."""
    begun = begun or Begun(np.empty(0, np.int64), np.empty((0, dimension), np.float32))
    chosen = [begun.indices]
    selected, new, new_indices = len(begun.indices), begun.vectors, begun.indices
    if progress and selected:
        progress(selected)
    limit = (radius**2, -1) if radius else (-np.inf, NOTHING)
    while selected < count:
        most = max(_LEAST, min(POOL, 4 * (count - selected)) // max(len(shards), 1))
        parts = shards.advance(new, new_indices, most)
        begun.traffic.count(parts, new)
        pool = _together(parts, dimension)
        outside = _first([limit if selected else (-np.inf, NOTHING), *(part.outside for part in parts)])
        order = select_in_pool(
            pool.vectors,
            pool.indices,
            pool.distances.copy(),
            *outside,
            (count if selected or not radius else 1) - selected,
        )
        new, new_indices = pool.vectors[order], pool.indices[order]
        chosen.append(new_indices)
        selected += len(order)
        if not len(order):
            break
        if begun.save:
            begun.save(np.concatenate(chosen))
        if progress:
            progress(len(order))
    shards.advance(new, new_indices, 1)
    farthest = shards.radius()
    return Selection(torch.from_numpy(np.concatenate(chosen)), float(np.sqrt(farthest)) if farthest > 0 else 0.0)


def _first(keys: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """The point that precedes the others."""
    return min(keys, key=lambda key: (-key[0], key[1]))


def _together(parts: Sequence[Candidates], dimension: int) -> Candidates:
    """Those of all shards in index order; shards follow each other."""
    parts = sorted((part for part in parts if len(part.indices)), key=lambda part: int(part.indices[0]))
    if not parts:
        return Candidates(np.empty(0, np.int64), np.empty((0, dimension), np.float32), np.empty(0), (-np.inf, NOTHING))
    indices, vectors, distances = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "vectors", "distances")
    )
    return Candidates(indices, vectors, distances, (-np.inf, NOTHING))


@jit()
def select_in_pool(points, indices, distance, outside, outside_index, most):  # type: ignore[no-untyped-def]
    """Farthest first within a pool in index order, at most `most` of it and while the farthest precedes what is
    outside: places in the pool, in the order of selection."""
    slack = rounding_slack(points.shape[1])
    order = np.empty(max(min(most, len(indices)), 0), np.int64)
    for number in range(len(order)):
        farthest, top = -1, -np.inf
        for at in range(len(indices)):
            if distance[at] > top:
                farthest, top = at, distance[at]
        if farthest < 0 or top < outside or (top == outside and indices[farthest] >= outside_index):
            return order[:number]
        order[number] = farthest
        distance[farthest] = -np.inf
        new = points[farthest]
        for at in range(len(indices)):
            if squared_distance(points[at], new) <= distance[at] * slack:
                distance[at] = min(distance[at], exact_distance(points[at], new))
    return order
