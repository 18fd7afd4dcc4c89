"""Farthest-first traversal, exact, with O(N) memory beside the points (PatchCore Eq. 5 and Algorithm 1).

The literal loop brings the distances of all N points up to date after each selection. Distances only ever shrink, so
one that is out of date is still an upper bound, and a point needs attention only when that bound is among the largest:

- Points are selected from a *pool*: those farther than τ. As long as its farthest is farther than τ it is the farthest
  of all, and only the pool is brought up to date.
- When the pool is used up τ is lowered, and only the points whose bound exceeds the new τ are brought up to date with
  the centres selected since they were last. Most points of a coreset's crowd are never looked at again.
- Most of those pairs are excluded by lower bounds from a few coordinates (`search/prefix.py`).

What is left is measured in float32, and where that could lower a distance, in float64: rounding decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.numba_jit import REASSOCIATE, jit
from patchbank._system.threads import for_each, spread
from patchbank.features.storage import SCATTERED, in_blocks, is_mapped, map_blocks, map_rows, release, take
from patchbank.memory.coreset.by_product import farthest_first_by_product
from patchbank.memory.coreset.selection import Selection
from patchbank.memory.search.prefix import Floats, Prefix, below, lay_query, margin, squared_distance
from patchbank.memory.search.tile import LANES, ROWS, lowest_bit

_POOL = 2048  # what a pool should hold
_BLOCK = 2048
_LARGE = 1e15  # above, and below its inverse, squares would leave float32
Doubles = NDArray[np.float64]


def row_norms(points: Tensor) -> Tensor:
    """Squared norm of each row of the N×N distance matrix, without the matrix: N float64.

    Σ_j ‖x_i − x_j‖² = N·‖x_i‖² − 2·x_i·Σ_j x_j + Σ_j ‖x_j‖².
    """
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    mean_square = torch.zeros((), dtype=torch.float64, device=points.device)
    for _, (of_block, squares) in map_blocks(points, _sums, _BLOCK):
        total += of_block
        mean_square += squares
    norms: Tensor = map_rows(points, partial(_norms_of, len(points), total, mean_square), _BLOCK, dtype=torch.float64)
    return norms


def _sums(block: Tensor) -> tuple[Tensor, Tensor]:
    values = block.double()
    return values.sum(0), values.square().sum(1).sum()


def _norms_of(count: int, total: Tensor, mean_square: Tensor, block: Tensor) -> Tensor:
    values = block.double()
    return values.square().sum(1).mul_(count).sub_(2 * (values @ total)).add_(mean_square).clamp_(min=0)


def farthest_first(
    points: Tensor, count: int, anchor: Tensor, progress: Callable[[int], None] | None = None, radius: float = 0.0
) -> Selection:
    """Select `count` of N points (N×D float32): each time the one with the largest distance, lowest index among equals.

    A point's distance is the smaller of its `anchor` (N float64, squared) and its distance to the nearest point
    selected so far. No point is selected twice, and none whose anchor is −inf: at least `count` must have another.
    Stops early once all distances are at most `radius` (0: never). `progress` is called with the number selected since
    its last call.
    """
    if not isinstance(points, Tensor):
        return Selection(*points.farthest_first(count, anchor, progress, radius))
    if points.device.type != "cpu":
        return farthest_first_by_product(points, count, anchor, progress, radius)
    scale = safe_scale(max(largest for _, largest in map_blocks(points, largest_value)))
    if scale != 1.0:
        scaled = farthest_first(points * scale, count, anchor * scale**2, progress, radius * scale)
        return Selection(scaled.indices, scaled.radius / scale)
    traversal = _Traversal(points.contiguous(), count, anchor.numpy().copy())
    if progress:
        progress(1)
    while traversal.selected < count and not traversal.covers(radius):
        before = traversal.selected
        traversal.select_from_pool(radius)
        if progress:
            progress(traversal.selected - before)
    indices = torch.from_numpy(traversal.centres[: traversal.selected].copy())
    return Selection(indices, traversal.radius())


def largest_value(block: Tensor) -> float:
    """The largest absolute value."""
    return max(float(bound.abs()) for bound in torch.aminmax(block))


def safe_scale(largest: float) -> float:
    """A power of two, which rounds nothing, that brings values of that size to where their squares are float32 too."""
    return float(2.0 ** -int(np.log2(largest))) if largest > _LARGE or 0 < largest < 1 / _LARGE else 1.0


def farthest_first_of_each(sets: Sequence[Tensor], counts: Sequence[int]) -> list[Selection]:
    """Greedy coresets of many small sets (N_i×D_i float32), as one for each region and level of an image: several at a
    time, each on one thread."""
    if not all(isinstance(points, Tensor) for points in sets):
        return [farthest_first(points, count, row_norms(points)) for points, count in zip(sets, counts, strict=True)]
    return for_each(lambda one: farthest_first(one[0], one[1], row_norms(one[0])), list(zip(sets, counts, strict=True)))


class _Traversal:
    """`distance`: N upper bounds of the squared distances, exact as of the first `seen` centres; −inf for a point that
    is selected."""

    def __init__(self, points: Tensor, count: int, distance: Doubles):
        self.tensor, self.distance = points, distance
        self.points: Floats = points.numpy()
        self.seen = np.zeros(len(points), np.int32)
        self.centres = np.zeros(count, np.int64)
        # where the vectors of the centres are: among the points, or beside a file that is slow to look into
        self.kept, self.where = self.points, self.centres
        if is_mapped(points):
            self.kept, self.where = np.empty((count, points.shape[1]), np.float32), np.arange(count)
        self.selected = 0
        self.share = 4.0  # bounds above τ for each distance above τ, once up to date
        self.prefix = Prefix(self.points, (8, 16, 0))  # more would cost more memory than they save time
        self.coordinates = np.empty((len(points), self.prefix.width), np.float32)
        squared = np.empty(len(points), np.float32)
        for rows, block in in_blocks(points):
            self.coordinates[rows], squared[rows] = self.prefix.rows(block.numpy())
        self.shift = margin(self.prefix.rounding, squared, squared.max()) - squared
        self.squared = squared
        self.tiles = self.prefix.empty_tiles(count)
        self.norms = np.full(len(self.tiles[0]) * LANES, np.inf, np.float32)
        self._select(np.array([distance.argmax()]), -1.0)
        self._refresh(np.arange(len(points)))  # from here on no distance is an anchor any more

    def covers(self, radius: float) -> bool:
        """Whether all points are known to lie within the radius; never for radius 0."""
        return radius > 0 and float(self.distance.max()) <= radius**2

    def select_from_pool(self, radius: float) -> None:
        """Lower τ, bring the points above it up to date, and select from them while the farthest is above τ."""
        tau = max(self._next_tau(), radius**2 if radius else -1.0)
        above = np.flatnonzero(self.distance > tau)
        self._refresh(above)
        fresh = self.distance[above]
        self.share = min(max(1.0, len(above) / max(1, int((fresh > tau).sum()))), 64.0)
        if len(above) > 2 * _POOL:
            top, cut = float(fresh.max()), float(np.partition(fresh, -_POOL - 1)[-_POOL - 1])
            if cut >= top:  # more are equally far than a pool holds: the first of them, since those go first
                self._select(above[fresh == top][:_POOL], float(np.nextafter(top, -np.inf)) if top > 0 else -1.0)
                return
            tau = max(tau, cut)
        self._select(above[fresh > tau], tau)

    def _next_tau(self) -> float:
        """A bound that about `share` times the size of a pool exceed; at least one does."""
        rank = min(len(self.distance) - 1, int(self.share * _POOL))
        tau = float(np.partition(self.distance, -rank - 1)[-rank - 1])
        top = float(self.distance.max())
        if tau >= top:  # a plateau: all of it
            lower = self.distance[self.distance < top]
            tau = float(lower.max()) if len(lower) else -1.0
        return max(tau, -1.0)

    def _refresh(self, rows: NDArray[np.int64]) -> None:
        rows = rows[self.seen[rows] < self.selected]
        rows = rows[np.argsort(self.seen[rows], kind="stable")]  # a group starts where its first row left off
        at_once = SCATTERED if is_mapped(self.tensor) else max(1, len(rows))
        for start in range(0, len(rows), at_once):
            self._update(rows[start : start + at_once])
            release(self.tensor, only_many=True)

    def _update(self, rows: NDArray[np.int64]) -> None:
        spread(
            lambda start, stop: update_bounds(
                self.points, self.coordinates, self.shift, self.distance, self.seen, self.kept, self.where,
                self.selected, *self.tiles, self.norms, rows[start:stop],
            ),
            len(rows),
            grain=64,
        )  # fmt: skip

    def _select(self, pool: NDArray[np.int64], tau: float) -> None:
        """Select from the pool, and lay the coordinates of the new centres into tiles."""
        before = self.selected
        near = take(self.tensor, torch.from_numpy(pool)).numpy()
        self.selected = _select(near, pool, self.distance, self.seen, self.centres, before, tau)
        chosen = self.centres[before : self.selected]
        if self.kept is not self.points:
            self.kept[before : self.selected] = near[np.searchsorted(pool, chosen)]
        self.prefix.lay(self.coordinates[chosen], self.tiles, before)
        self.norms[before : self.selected] = self.squared[chosen]

    def radius(self) -> float:
        """The covering radius so far."""
        while True:
            top = self.distance.argmax()
            if self.distance[top] < 0:
                return 0.0  # every point is selected
            if self.seen[top] == self.selected:
                return float(np.sqrt(self.distance[top]))
            rank = min(len(self.distance) - 1, 4 * _POOL)
            self._refresh(np.union1d(np.argpartition(self.distance, -rank - 1)[-rank - 1 :], [top]))


@jit()
def _select(points, pool, distance, seen, centres, selected, tau):  # type: ignore[no-untyped-def]
    """Farthest first within the `pool`, whose vectors are `points`, until its farthest is not above τ; returns how many
    are selected now."""
    slack = rounding_slack(points.shape[1])
    while selected < len(centres):
        farthest, top = -1, tau
        for at, i in enumerate(pool):
            if distance[i] > top:
                farthest, top = at, distance[i]
        if farthest < 0:
            break
        centres[selected] = pool[farthest]
        selected += 1
        distance[pool[farthest]] = -np.inf
        new = points[farthest]
        for at, i in enumerate(pool):
            if squared_distance(points[at], new) <= distance[i] * slack:
                distance[i] = min(distance[i], exact_distance(points[at], new))
    for i in pool:
        seen[i] = selected
    return selected


@jit()
def update_bounds(  # type: ignore[no-untyped-def]
    points, coordinates, shift, distance, seen, kept, where, selected, v0, v1, v2, norms, rows
):
    """Bring the distances of some rows, sorted by `seen`, up to date with all centres selected."""
    slack = rounding_slack(points.shape[1])
    q0 = np.empty((1, v0.shape[1], ROWS), np.float32)
    q1 = np.empty((1, v1.shape[1], ROWS), np.float32)
    q2 = np.empty((1, v2.shape[1], ROWS), np.float32)
    limits = np.empty(ROWS, np.float32)
    for first in range(0, len(rows), ROWS):
        group = rows[first : first + ROWS]
        limits[:] = -np.inf
        for row, i in enumerate(group):
            limits[row] = np.float32(distance[i]) + shift[i]
            lay_query(coordinates[i], q0, q1, q2, 0, row)
        for tile in range(seen[group[0]] // LANES, (selected + LANES - 1) // LANES):
            mask = below(q0, q1, q2, v0, v1, v2, norms, 0, tile, limits)
            while mask != 0:
                bit = int(lowest_bit(mask))
                mask &= mask - np.uint64(1)
                row = bit // LANES
                i, centre = group[row], kept[where[tile * LANES + bit % LANES]]
                if squared_distance(points[i], centre) <= distance[i] * slack:
                    distance[i] = min(distance[i], exact_distance(points[i], centre))
                    limits[row] = np.float32(distance[i]) + shift[i]
        for i in group:
            seen[i] = selected


@jit()
def rounding_slack(dimension):  # type: ignore[no-untyped-def]
    """What a float32 sum of that many squares may be too large by, as a factor."""
    return 1 + 2 * (dimension + 3) * 6e-8


@jit(fastmath=REASSOCIATE)
def exact_distance(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(len(a)):
        difference = np.float64(a[d]) - np.float64(b[d])
        total += difference * difference
    return total
