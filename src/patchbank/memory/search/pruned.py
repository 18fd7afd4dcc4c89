"""Exact nearest neighbours on a CPU, most of the bank excluded by lower bounds.

The bank is ordered so that 16 consecutive vectors are close to each other. A query starts with the vectors of two such
tiles: the leaf of a k-d tree it falls into, and the one where the query before, often its neighbour in the image,
found its nearest. With that as an upper bound most tiles of 4 queries × 16 vectors are excluded after 8 coordinates
(`prefix.py`), and the few pairs left are measured in full.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.numba_jit import jit
from patchbank._system.threads import spread
from patchbank.memory.search.blocked import BlockedIndex
from patchbank.memory.search.prefix import Floats, Prefix, below, lay_query, margin, project, squared_distance
from patchbank.memory.search.tile import LANES, ROWS, lowest_bit

_SPLITS = 8  # coordinates that the tree may split
_BATCH = 16  # queries that take turns at a tile, four at a time, while it is in the nearest cache
_HOPELESS = 0.1  # share of the bank measured in full at which the plain matrix product is faster
Indices = NDArray[np.int64]


class PrunedIndex:
    """M×D float32 vectors on the CPU, searched with lower bounds. Holds a second copy of them, in the order of the
    tree, and 51 numbers for each (163 from 256 dimensions on)."""

    name = "pruned"

    def __init__(self, vectors: Tensor):
        self.blocked = BlockedIndex(vectors)
        given: Floats = vectors.numpy()
        # the more a full distance costs, the more coordinates pay
        self.prefix = Prefix(given, (8, 16, 24) if given.shape[1] < 256 else (8, 24, 128))
        self.tree = _Tree(np.asarray((given - self.prefix.mean) @ self.prefix.axes[:, :_SPLITS], np.float32))
        self.vectors: Floats = given[self.tree.order]
        coordinates, squared = self.prefix.rows(self.vectors)
        self.tiles = self.prefix.empty_tiles(len(given))
        self.prefix.lay(coordinates, self.tiles, 0)
        self.norms = np.full(len(self.tree.axis) * LANES, np.inf, np.float32)
        self.norms[: len(given)] = squared
        self.largest = squared.max()

    def nearest(self, queries: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Q×D → distances Q (float32) and indices Q (int64); `excluded` (M, bool) are left out, and a query with
        nothing left gets distance +inf. Queries for which too little can be excluded go by matrix product."""
        squared, index, hopeless = self._search(queries, excluded)
        distances, indices = torch.from_numpy(np.sqrt(squared)), torch.from_numpy(self.tree.order[index])
        if hopeless.any():
            rows = torch.from_numpy(hopeless)
            distances[rows], indices[rows] = self.blocked.nearest(queries[rows], excluded)
        return distances, indices

    def neighbourhood(self, vector: Tensor, size: int) -> Tensor:
        """The `size` vectors nearest to a vector (D): size×D, nearest first."""
        prefix, tree = self.prefix, self.tree
        rows = _sweep_for_several(
            np.ascontiguousarray(vector.numpy())[None], prefix.mean, prefix.axes, prefix.transposed, prefix.depths,
            prefix.rounding, *self.tiles, self.norms, self.largest, self.vectors, tree.axis, tree.threshold,
            min(size, len(self.vectors)),
        )  # fmt: skip
        return torch.from_numpy(self.vectors[rows])

    def hopeless_share(self, queries: Tensor, excluded: Tensor | None = None) -> float:
        """Share of the queries for which too little of the bank can be excluded."""
        return float(self._search(queries, excluded)[2].mean())

    def _search(self, queries: Tensor, excluded: Tensor | None) -> tuple[Floats, Indices, NDArray[np.bool_]]:
        values: Floats = np.ascontiguousarray(queries.numpy())
        norms = self.norms
        if excluded is not None:
            norms = norms.copy()
            norms[: len(self.vectors)][excluded.numpy()[self.tree.order]] = np.inf
        allowed = int(_HOPELESS * len(self.vectors)) * _BATCH + 1024
        best = np.full(len(values), np.inf, np.float32)
        index = np.zeros(len(values), np.int64)
        hopeless = np.zeros(len(values), np.bool_)
        prefix, tree = self.prefix, self.tree
        axes = (prefix.mean, prefix.axes, prefix.transposed, prefix.depths, prefix.rounding)
        bank = (*self.tiles, norms, self.largest, self.vectors, tree.order, tree.axis, tree.threshold)
        spread(
            lambda start, stop: _sweep(values, *axes, *bank, allowed, best, index, hopeless, start, stop),
            len(values),
            grain=_BATCH,
        )
        return best, index, hopeless


class _Tree:
    """k-d tree with leaves of 16: `order` of the rows, leaf after leaf; `axis` and `threshold` of each split, followed
    by the splits of its lower half and then those of its upper half."""

    def __init__(self, values: Floats):
        tiles = -(-len(values) // LANES)
        self.order = np.arange(len(values))
        self.axis, self.threshold = np.zeros(tiles, np.int64), np.zeros(tiles, np.float32)
        self._split(values, 0, 0, tiles)

    def _split(self, values: Floats, node: int, first: int, tiles: int) -> None:
        if tiles < 2:
            return
        half = (tiles + 1) // 2
        rows = self.order[first * LANES : (first + tiles) * LANES]
        axis = int(values[rows].var(0).argmax())
        rows[:] = rows[np.argpartition(values[rows, axis], half * LANES)]
        self.axis[node], self.threshold[node] = axis, values[rows[half * LANES], axis]
        self._split(values, node + 1, first, half)
        self._split(values, node + half, first + half, tiles - half)


@jit()
def _sweep(  # type: ignore[no-untyped-def]
    queries, mean, axes, transposed, depths, rounding, v0, v1, v2, norms, largest, vectors, order, axis, threshold,
    allowed, best, index, hopeless, start, stop,
):  # fmt: skip
    """Queries start to stop: squared distances `best` and rows `index` of `vectors`; gives up a batch after measuring
    `allowed` pairs in full."""
    coordinates = np.empty((_BATCH, axes.shape[1] + 3), np.float32)
    squared, shift = np.empty(_BATCH, np.float32), np.empty(_BATCH, np.float32)
    q0 = np.empty((_BATCH // ROWS, v0.shape[1], ROWS), np.float32)
    q1 = np.empty((_BATCH // ROWS, v1.shape[1], ROWS), np.float32)
    q2 = np.empty((_BATCH // ROWS, v2.shape[1], ROWS), np.float32)
    limits = np.empty((_BATCH // ROWS, ROWS), np.float32)
    home = 0
    for batch in range(start, stop, _BATCH):
        end = min(batch + _BATCH, stop)
        project(queries, mean, axes, transposed, depths, batch, end, coordinates, squared)
        limits[:] = -np.inf
        for i in range(batch, end):
            at = i - batch
            lay_query(coordinates[at], q0, q1, q2, at // ROWS, at % ROWS)
            leaf = _leaf(coordinates[at], axis, threshold)
            _measure_tile(queries[i], vectors, norms, leaf, best, index, i)
            if leaf != home:
                _measure_tile(queries[i], vectors, norms, home, best, index, i)
            # turns a limit on the squared distance into one on what `below` computes
            shift[at] = margin(rounding, squared[at], largest) - squared[at]
            limits[at // ROWS, at % ROWS] = best[i] + shift[at]
            home = index[i] // LANES
        measured = 0
        for tile in range(len(v0)):
            for group in range((end - batch + ROWS - 1) // ROWS):
                mask = below(q0, q1, q2, v0, v1, v2, norms, group, tile, limits[group])
                while mask != 0:
                    bit = int(lowest_bit(mask))
                    mask &= mask - np.uint64(1)
                    at, j = group * ROWS + bit // LANES, tile * LANES + bit % LANES
                    i = batch + at
                    measured += 1
                    distance = squared_distance(queries[i], vectors[j])
                    if distance < best[i] or (distance == best[i] and order[j] < order[index[i]]):
                        best[i], index[i] = distance, j
                        limits[group, at % ROWS] = distance + shift[at]
            if measured > allowed:
                hopeless[batch:end] = True
                break
        home = index[end - 1] // LANES


@jit()
def _sweep_for_several(  # type: ignore[no-untyped-def]
    query, mean, axes, transposed, depths, rounding, v0, v1, v2, norms, largest, vectors, axis, threshold, k
):
    """Rows of the k `vectors` nearest to one query (1×D), nearest first."""
    coordinates, squared = np.empty((1, axes.shape[1] + 3), np.float32), np.empty(1, np.float32)
    project(query, mean, axes, transposed, depths, 0, 1, coordinates, squared)
    q0 = np.zeros((1, v0.shape[1], ROWS), np.float32)
    q1 = np.zeros((1, v1.shape[1], ROWS), np.float32)
    q2 = np.zeros((1, v2.shape[1], ROWS), np.float32)
    lay_query(coordinates[0], q0, q1, q2, 0, 0)
    shift = margin(rounding, squared[0], largest) - squared[0]
    limits = np.full(ROWS, -np.inf, np.float32)
    limits[0] = np.inf
    best, rows = np.full(k, np.inf, np.float32), np.zeros(k, np.int64)
    leaf = _leaf(coordinates[0], axis, threshold)
    for step in range(len(v0)):
        tile = (leaf + step) % len(v0)
        mask = below(q0, q1, q2, v0, v1, v2, norms, 0, tile, limits)
        while mask != 0:
            j = tile * LANES + int(lowest_bit(mask))
            mask &= mask - np.uint64(1)
            distance = squared_distance(query[0], vectors[j])
            if distance < best[k - 1]:
                place = k - 1
                while place > 0 and best[place - 1] > distance:
                    best[place], rows[place] = best[place - 1], rows[place - 1]
                    place -= 1
                best[place], rows[place] = distance, j
                limits[0] = best[k - 1] + shift
    return rows


@jit()
def _leaf(coordinates, axis, threshold):  # type: ignore[no-untyped-def]
    """The leaf a query falls into."""
    node, first, tiles = 0, 0, len(axis)
    while tiles > 1:
        half = (tiles + 1) // 2
        if coordinates[axis[node]] < threshold[node]:
            node, tiles = node + 1, half
        else:
            node, first, tiles = node + half, first + half, tiles - half
    return first


@jit()
def _measure_tile(query, vectors, norms, tile, best, index, i):  # type: ignore[no-untyped-def]
    for j in range(tile * LANES, min(tile * LANES + LANES, len(vectors))):
        if norms[j] != np.inf:
            distance = squared_distance(query, vectors[j])
            if distance < best[i]:
                best[i], index[i] = distance, j
