"""One pass against two in float64; distances against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchbank.memory.moments import KINDS, Moments
from patchbank.memory.whitening import distances, whiten


def two_passes(x: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """N×P×D float64 → mean and scatter."""
    mean = x.mean(0)
    centred = x - mean
    if kind == "diagonal":
        return mean, centred.square().sum(0)
    by_position = torch.stack([c.T @ c for c in centred.transpose(0, 1)])
    return mean, by_position if kind == "full" else by_position.sum(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_one_pass_equals_two_in_float64(kind: str, offset: float) -> None:
    x = offset + torch.randn(50, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = Moments(6, 5, kind)
    for part in torch.split(x.float(), [1, 16, 30, 3]):
        moments.add(part)
    mean, scatter = two_passes(x.float().double(), kind)
    assert moments.count == 50
    assert torch.allclose(moments.mean.double(), mean, rtol=1e-6)
    assert torch.allclose(moments.scatter.double(), scatter, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_adding(kind: str) -> None:
    x = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, first, second, empty = (Moments(3, 4, kind, dtype=torch.float64) for _ in range(4))
    whole.add(x)
    first.add(x[:7])
    second.add(x[7:])
    for merged in (first.merge(second), first.merge(second).merge(empty)):
        assert merged.count == 20
        assert torch.allclose(merged.mean, whole.mean)
        assert torch.allclose(merged.scatter, whole.scatter)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [1, 5, 200])
def test_whitened_length_is_the_mahalanobis_distance(kind: str, positions: int) -> None:
    rng = np.random.default_rng(2)
    moments = Moments(positions, 5, kind)
    moments.add(torch.from_numpy(rng.standard_normal((30, positions, 5)).astype(np.float32)))
    query = torch.from_numpy(rng.standard_normal((positions, 5)).astype(np.float32))
    found = distances(kind, whiten(moments, 29, 0.01), query)
    for p in range(positions):
        covariance = {
            "full": lambda p: moments.scatter[p] / 29,
            "diagonal": lambda p: torch.diag(moments.scatter[p] / 29),
            "tied": lambda p: moments.scatter / (29 * positions),
        }[kind](p).double() + 0.01 * torch.eye(5, dtype=torch.float64)
        u = query[p].double()
        assert float(found[p]) == pytest.approx(float((u @ torch.linalg.inv(covariance) @ u).sqrt()), rel=1e-4)
