"""A selection over shards is that of one machine: the same rows in the same order, and the same radius."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.shard import Candidates, ShardTraversal
from patchbank.memory.coreset.sharded import Begun, select_from_shards


class Here:
    """Shards in this process."""

    def __init__(self, points: torch.Tensor, anchor: torch.Tensor, cuts: list[int]):
        bounds = [0, *sorted(cuts), len(points)]
        self.shards = [
            ShardTraversal(points[a:b].contiguous(), anchor[a:b].numpy(), a) for a, b in itertools.pairwise(bounds)
        ]

    def __len__(self) -> int:
        return len(self.shards)

    def advance(self, centres: np.ndarray, indices: np.ndarray, most: int) -> list[Candidates]:
        for shard in self.shards:
            shard.add(centres, indices)
        return [shard.candidates(most) for shard in self.shards]

    def radius(self) -> float:
        return max(shard.radius() for shard in self.shards)


def same(
    points: torch.Tensor, count: int, cuts: list[int], radius: float = 0.0, anchor: torch.Tensor | None = None
) -> None:
    anchor = row_norms(points) if anchor is None else anchor
    here = farthest_first(points, count, anchor, radius=radius)
    apart = select_from_shards(Here(points, anchor, cuts), count, points.shape[1], radius=radius)
    assert apart.indices.tolist() == here.indices.tolist()
    assert apart.radius == here.radius


@st.composite
def drawn(draw: st.DrawFn) -> tuple[torch.Tensor, int, list[int], float, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 300)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["normal", "lattice", "duplicates", "constant", "near ties"]))
    points = rng.standard_normal((n, d))
    if kind == "lattice":
        points = rng.integers(0, 3, (n, d)).astype(float)
    elif kind == "duplicates":
        points = points[rng.integers(0, max(1, n // 5), n)]
    elif kind == "constant":
        points = np.full((n, d), 0.3)
    elif kind == "near ties":
        points = np.sign(points) * (1 + 1e-7 * rng.integers(0, 3, (n, d)))
    cuts = draw(st.lists(st.integers(0, n), max_size=6))
    radius = draw(st.sampled_from([0.0, 0.0, 0.5, 3.0]))
    barred = draw(st.integers(0, n - 1))
    return torch.from_numpy(points.astype(np.float32)), draw(st.integers(1, n)), cuts, radius, barred


@settings(max_examples=60, deadline=None)
@given(drawn())
def test_any_shards(case: tuple[torch.Tensor, int, list[int], float, int]) -> None:
    points, count, cuts, radius, barred = case
    same(points, count, cuts, radius)
    anchor = row_norms(points)
    anchor[:barred] = -torch.inf  # as for the second selection of a calibration
    same(points, min(count, len(points) - barred), cuts, radius, anchor)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_many_rounds(shards: int) -> None:
    rng = np.random.default_rng(shards)
    centres = rng.standard_normal((30, 24))
    points = torch.from_numpy(
        (centres[rng.integers(0, 30, 12_000)] + 0.3 * rng.standard_normal((12_000, 24))).astype("f4")
    )
    cuts = [12_000 * i // shards + 7 for i in range(1, shards)]
    same(points, 2_000, cuts)
    means = torch.cdist(points.double(), points[:10].double()).mean(1).square()  # an anchor that stays in force
    same(points, 2_000, cuts, anchor=means)


def test_an_interrupted_selection_goes_on() -> None:
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((4_000, 16)).astype("f4"))
    anchor, kept = row_norms(points), list[np.ndarray]()
    begun = Begun(np.empty(0, np.int64), np.empty((0, 16), np.float32), kept.append)
    whole = select_from_shards(Here(points, anchor, [1_500]), 900, 16, begun=begun)
    assert len(kept) > 2
    half = kept[1]
    begun = Begun(half, points[torch.from_numpy(half)].numpy())
    again = select_from_shards(Here(points, anchor, [700, 2_000]), 900, 16, begun=begun)
    assert again.indices.tolist() == whole.indices.tolist()
    assert again.radius == whole.radius
