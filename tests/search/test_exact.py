"""Blocked search against a float64 distance matrix."""

from __future__ import annotations

import pytest
import torch

from patchbank.search import k_nearest, nearest, squared_norms


@pytest.mark.parametrize(("q", "m", "d"), [(50, 5000, 152), (7, 3, 16), (1, 1, 4), (300, 2049, 33)])
def test_nearest(q: int, m: int, d: int) -> None:
    generator = torch.Generator().manual_seed(q)
    queries, bank = (torch.randn(n, d, generator=generator) + 5 for n in (q, m))
    distances, indices = nearest(queries, bank)
    exact = torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert torch.allclose(distances.double(), exact.values, rtol=1e-4)
    assert torch.equal(indices, exact.indices)


def test_a_vector_of_the_bank_is_at_distance_zero() -> None:
    bank = 1000 + torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    distances, _ = nearest(bank, bank)
    # the expanded form alone would be off by about 8 here
    assert float(distances.max()) < 0.5


def test_infinite_norms_leave_vectors_out() -> None:
    bank = torch.arange(10.0)[:, None]
    squared = squared_norms(bank)
    squared[3] = torch.inf
    distances, indices = nearest(torch.tensor([[3.0], [3.4]]), bank, squared)
    assert indices.tolist() == [2, 4] or indices.tolist() == [4, 4]
    assert distances.tolist() == pytest.approx([1.0, 0.6])
    distances, _ = nearest(torch.tensor([[3.0]]), bank, torch.full((10,), torch.inf))
    assert distances.tolist() == [float("inf")]


def test_k_nearest() -> None:
    bank = torch.tensor([[0.0], [5.0], [1.0]])
    distances, indices = k_nearest(torch.tensor([0.9]), bank, 2)
    assert indices.tolist() == [2, 0]
    assert distances.tolist() == pytest.approx([0.1, 0.9])
    assert len(k_nearest(torch.tensor([0.9]), bank, 9)[1]) == 3
