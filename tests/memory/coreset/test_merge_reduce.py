"""Selecting chunk by chunk: within the bound, with the right row numbers, never more than the capacity."""

from __future__ import annotations

import pytest
import torch

from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.merge_reduce import MergeReduce
from patchbank.memory.coreset.samplers import covering_radius


def select(count: int):  # type: ignore[no-untyped-def]
    return lambda vectors: farthest_first(vectors, min(count, len(vectors)), row_norms(vectors)).indices


def run(features: torch.Tensor, count: int, capacity: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    reducer = MergeReduce(select(count), capacity, features.shape[1], lambda chunk: torch.ones(chunk.shape[1]))
    for some in torch.split(features, step):
        reducer.add(some)
        assert reducer.filled <= capacity
    return reducer.result()


@pytest.mark.parametrize(("capacity", "step"), [(200, 7), (500, 1000), (100, 64)])
def test_kept_features_are_the_numbered_ones_and_cover(capacity: int, step: int) -> None:
    features = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    vectors, rows = run(features, 50, capacity, step)
    assert torch.equal(vectors, features[rows])
    assert len(set(rows.tolist())) == 50
    best = farthest_first(features, 50, row_norms(features)).radius
    # greedy is within 2 of the optimum; each of the levels here adds as much again
    assert covering_radius(features, rows) < 3 * best


def test_one_chunk_is_the_plain_selection() -> None:
    features = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    _, rows = run(features, 40, 300, 50)
    assert rows.tolist() == select(40)(features).tolist()


def test_fewer_features_than_to_keep() -> None:
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    assert sorted(run(features, 40, 80, 2)[1].tolist()) == list(range(5))


def test_the_scale_of_the_first_chunk_holds_for_all() -> None:
    features = torch.randn(500, 2, generator=torch.Generator().manual_seed(2))
    reducer = MergeReduce(select(20), 60, 2, lambda chunk: torch.tensor([2.0, 0.5]))
    reducer.add(features)
    vectors, rows = reducer.result()
    assert torch.equal(vectors, features[rows] * torch.tensor([2.0, 0.5]))
