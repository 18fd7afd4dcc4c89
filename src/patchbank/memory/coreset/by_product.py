"""Farthest-first traversal for a device where matrix products are cheap and single steps are not.

Points are selected inside a *pool*, the P points with the largest distances: as long as the farthest point of the pool
is farther than any point outside it can be, it is the farthest of all. Then all N distances are brought up to date
with one matrix product for all points selected since. Distances are float32 with a rounding bound; where two
candidates are closer than that, both are decided in float64, so rounding never decides a selection.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from patchbank.memory.coreset.selection import Selection

_POOL = 1024  # first and smallest size of the pool
_BLOCK = 2048  # points at a time in the pass over all points


def farthest_first_by_product(
    points: Tensor, count: int, anchor: Tensor, progress: Callable[[int], None] | None = None, radius: float = 0.0
) -> Selection:
    """As `farthest_first`, for points on any device."""
    state = _State(points, count, anchor)
    state.select(int(torch.argmax(anchor)))
    state.update(since=0)
    if progress:
        progress(1)
    pool_size = min(_POOL, len(points))
    while state.selected < count:
        before = state.selected
        is_everything = _select_in_pool(state, pool_size, radius**2)
        if state.selected > before:
            state.update(since=before)
        if progress:
            progress(state.selected - before)
        if radius and state.radius() <= radius:
            break
        pool_size = _next_pool_size(pool_size, state.selected - before, len(points), is_everything)
    return Selection(state.indices[: state.selected], state.radius())


def _next_pool_size(pool_size: int, selected: int, total: int, is_everything: bool) -> int:
    """A round costs one reading of all points and one of the pool per selection: the pool suits where the two are
    equal."""
    if selected * pool_size < total and not is_everything:
        return min(2 * pool_size, total)
    if selected * pool_size > 8 * total:
        return max(pool_size // 2, min(_POOL, total))
    return pool_size


class _State:
    """All N points with their squared distances, float32, and the points selected so far."""

    def __init__(self, points: Tensor, count: int, anchor: Tensor):
        self.points, self.count, self.selected = points, count, 0
        self.squared = torch.cat([block.square().sum(1) for block in torch.split(points, _BLOCK)])
        self.distances = anchor.float()
        self.indices = torch.empty(count, dtype=torch.int64, device=points.device)
        self.centres = torch.empty(count, points.shape[1], device=points.device)
        # distances decided in float64, and how many of the selected points they account for
        self.exact = anchor.clone()
        self.accounted = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        # ‖a‖² + ‖b‖² − 2·a·b in float32 is off by more than λ√D·u·(‖a‖ + ‖b‖)² with probability 2·exp(−λ²/2) at most
        # (Higham & Mary, "A new approach to probabilistic rounding error analysis", 2019); λ = 8, u = ε/2
        unit = torch.finfo(torch.float32).eps / 2
        self.rounding = 8 * (points.shape[1] + 2) ** 0.5 * unit * 4 * float(self.squared.max())

    def select(self, index: int) -> None:
        """Add a point to the selection; it leaves the race."""
        self.indices[self.selected] = index
        self.centres[self.selected] = self.points[index]
        self.distances[index] = -torch.inf
        self.selected += 1

    def update(self, since: int) -> None:
        """Bring all distances up to date with the points selected since then."""
        centres = self.centres[since : self.selected]
        centres_squared = centres.square().sum(1)
        for start in range(0, len(self.points), _BLOCK):
            block = slice(start, start + _BLOCK)
            nearest = torch.addmm(centres_squared, self.points[block], centres.T, alpha=-2).amin(1)
            distances = self.distances[block]
            torch.minimum(distances, nearest.add_(self.squared[block]).clamp_(min=0), out=distances)

    def decide(self, indices: Tensor) -> Tensor:
        """Squared distances of a few points in float64."""
        stale = indices[(self.accounted[indices] < self.selected) & (self.exact[indices] > 0)]
        for accounted in torch.unique(self.accounted[stale]).tolist():
            group = stale[self.accounted[stale] == accounted]
            for some in torch.split(group, _BLOCK):
                self._account(some, self.centres[accounted : self.selected])
        return self.exact[indices]

    def _account(self, indices: Tensor, centres: Tensor) -> None:
        points = self.points[indices]
        near = torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2)
        # only centres that rounding could have made or unmade the nearest
        row, column = (near <= near.amin(1, keepdim=True) + 2 * self.rounding).nonzero(as_tuple=True)
        squared = (points[row].double() - centres[column].double()).square().sum(1)
        self.exact.scatter_reduce_(0, indices[row], squared, "amin")
        self.accounted[indices] = self.selected

    def radius(self) -> float:
        """The covering radius so far."""
        farthest = self.distances.max()
        if float(farthest) < 0:
            return 0.0  # every point is selected
        contenders = (self.distances >= farthest - 2 * self.rounding).nonzero()[:, 0]
        return float(self.decide(contenders).max().sqrt())


def _select_in_pool(state: _State, pool_size: int, enough: float) -> bool:
    """Select points while the pool is sure to hold the farthest, and its squared distance is above `enough`; True if
    the pool held all that is left to select from."""
    pool, outside = _draw_pool(state, pool_size)
    points, squared, distances = state.points[pool], state.squared[pool], state.distances[pool]
    while state.selected < state.count:
        top, farthest = distances.max(0)
        contenders = (distances >= top - 2 * state.rounding).nonzero()[:, 0]
        if len(contenders) > 1 or float(top) - state.rounding <= enough:
            decided = state.decide(pool[contenders])
            farthest = contenders[decided.argmax()]
            certain = float(decided.max())
        else:
            certain = float(top) - state.rounding
        if certain <= max(outside, enough or -1.0):
            break
        state.select(int(pool[farthest]))
        new = torch.addmv(squared, points, points[farthest], alpha=-2).add_(squared[farthest]).clamp_(min=0)
        torch.minimum(distances, new, out=distances)
        distances[farthest] = -torch.inf
    return outside < 0


def _draw_pool(state: _State, pool_size: int) -> tuple[Tensor, float]:
    """The points with the largest distances, in index order, and what no point outside them can exceed."""
    candidates = torch.topk(state.distances, min(pool_size + 1, len(state.points)))
    left = candidates.values >= 0  # selected points are at −inf
    if len(candidates.values) <= pool_size or not bool(left[-1]):
        return candidates.indices[left].sort().values, -1.0  # nothing selectable is outside
    # the relative term: an anchor was rounded to float32
    outside = float(candidates.values[-1]) * (1 + 1e-6) + state.rounding
    return candidates.indices[:-1].sort().values, outside
