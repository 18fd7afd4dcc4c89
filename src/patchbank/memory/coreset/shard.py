"""One part of the points of a farthest-first traversal that is spread over several processes.

A shard keeps an upper bound of each of its points' distances, as `farthest_first` does, and tells its farthest points;
`sharded.select_from_shards` selects among those of all shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.threads import spread
from patchbank.features.storage import SCATTERED, in_blocks, is_mapped, release, take
from patchbank.memory.coreset.farthest_first import update_bounds
from patchbank.memory.search.prefix import Floats, Prefix, margin
from patchbank.memory.search.tile import LANES

Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]
NOTHING = np.iinfo(np.int64).max  # the index that goes with a distance of −inf


@dataclass(frozen=True, eq=False)
class Candidates:
    """The farthest points of a shard, in index order.

    Attributes:
        indices: K global row numbers.
        vectors: K×D float32.
        distances: K float64, squared, up to date with all centres.
        outside: (squared distance, index) of the first point that is not among them, or a bound of both; farther
            points come first, and of equally far ones that with the lower index.
    """

    indices: Indices
    vectors: Floats
    distances: Doubles
    outside: tuple[float, int]


class ShardTraversal:
    """`points` n×D float32, the rows `first` to `first + n` of all; `anchor`: n float64, squared; −inf for a point that
    is never to be selected."""

    def __init__(self, points: Tensor, anchor: Doubles, first: int):
        self.tensor, self.first = points, first
        self.points: Floats = points.numpy()
        self.distance: Doubles = anchor.copy()
        self.seen = np.zeros(len(points), np.int32)
        self.count = 0  # centres so far
        self.share = 4.0  # bounds to bring up to date for each point that is to be told
        self.centres = np.empty((0, points.shape[1]), np.float32)
        if len(points):
            self._lay_points()

    def _lay_points(self) -> None:
        self.prefix = Prefix(self.points, (8, 16, 0))  # as `farthest_first`
        self.coordinates = np.empty((len(self.points), self.prefix.width), np.float32)
        self.squared = np.empty(len(self.points), np.float32)
        for rows, block in in_blocks(self.tensor):
            self.coordinates[rows], self.squared[rows] = self.prefix.rows(block.numpy())
        self.largest = self.squared.max()
        self.shift = margin(self.prefix.rounding, self.squared, self.largest) - self.squared
        self.tiles = self.prefix.empty_tiles(0)
        self.norms = np.empty(0, np.float32)

    def add(self, centres: Floats, indices: Indices) -> None:
        """Hear of K×D centres that were selected, and of their global row numbers."""
        if not len(self.points) or not len(centres):
            return
        mine = indices[(indices >= self.first) & (indices < self.first + len(self.points))] - self.first
        self.distance[mine] = -np.inf
        self._make_room(self.count + len(centres))
        coordinates, squared = self.prefix.rows(np.ascontiguousarray(centres))
        if squared.max() > self.largest:  # a centre of another shard: rounding grows with its length
            self.largest = squared.max()
            self.shift = margin(self.prefix.rounding, self.squared, self.largest) - self.squared
        self.prefix.lay(coordinates, self.tiles, self.count)
        self.norms[self.count : self.count + len(centres)] = squared
        self.centres[self.count : self.count + len(centres)] = centres
        self.count += len(centres)

    def _make_room(self, count: int) -> None:
        if count <= len(self.centres):
            return
        room = -(-max(count, 2 * len(self.centres), 256) // LANES) * LANES
        kept, tiles, norms = self.centres, self.tiles, self.norms
        self.centres = np.empty((room, self.points.shape[1]), np.float32)
        self.centres[: self.count] = kept[: self.count]
        self.tiles = self.prefix.empty_tiles(room)
        for new, old in zip(self.tiles, tiles, strict=True):
            new[: len(old)] = old
        self.norms = np.full(room, np.inf, np.float32)
        self.norms[: len(norms)] = norms

    def candidates(self, most: int) -> Candidates:
        """At most `most` of the farthest points: as many as are known to be farther than all others."""
        everything, rank = len(self.points), int(self.share * most)
        while True:
            rows, bound = self._above(rank)
            self._refresh(rows)
            fresh = self.distance[rows]
            certain = rows[fresh > bound]
            if 2 * len(certain) >= most or bound == -np.inf:
                break
            rank = min(4 * max(rank, 1), everything)
        self.share = min(max(1.0, len(rows) / max(1, len(certain))), 64.0)
        if len(certain) <= most:
            return self._told(certain, (bound, -1 if bound > -np.inf else NOTHING))
        distances = self.distance[certain]
        cut = np.partition(distances, -most - 1)[-most - 1]
        contenders = certain[distances >= cut]
        order = np.lexsort((contenders, -self.distance[contenders]))
        following = contenders[order[most]]
        key = (float(self.distance[following]), int(following) + self.first)
        return self._told(np.sort(contenders[order[:most]]), key)

    def _above(self, rank: int) -> tuple[Indices, float]:
        """The points that may be among the `rank` farthest, and a bound of the distances of all others."""
        if rank >= len(self.distance):
            return np.flatnonzero(self.distance > -np.inf), -np.inf
        bound = float(np.partition(self.distance, -rank - 1)[-rank - 1])
        if bound >= (top := float(self.distance.max())):  # a plateau: all of it
            lower = self.distance[self.distance < top]
            bound = float(lower.max()) if len(lower) else -np.inf
        return np.flatnonzero(self.distance > bound), bound

    def _told(self, rows: Indices, outside: tuple[float, int]) -> Candidates:
        vectors = take(self.tensor, torch.from_numpy(rows)).numpy()
        return Candidates(rows + self.first, vectors, self.distance[rows], outside)

    def radius(self) -> float:
        """The largest squared distance; −inf where no point is left."""
        found = self.candidates(1)
        return float(found.distances[0]) if len(found.distances) else -np.inf

    def _refresh(self, rows: Indices) -> None:
        rows = rows[self.seen[rows] < self.count]
        rows = rows[np.argsort(self.seen[rows], kind="stable")]  # a group starts where its first row left off
        at_once = SCATTERED if is_mapped(self.tensor) else max(1, len(rows))
        where = np.arange(self.count)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            spread(lambda begin, end, some=some: self._update(some[begin:end], where), len(some), grain=64)  # type: ignore[misc]
            release(self.tensor, only_many=True)

    def _update(self, rows: Indices, where: Indices) -> None:
        update_bounds(
            self.points, self.coordinates, self.shift, self.distance, self.seen, self.centres, where, self.count,
            *self.tiles, self.norms, rows,
        )  # fmt: skip
