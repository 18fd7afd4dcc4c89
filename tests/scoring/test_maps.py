"""Map, image score and Eq. 7 against scipy and literal loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from patchbank.methods.patchcore import reweighting
from patchbank.prediction import find_regions
from patchbank.scoring.maps import anomaly_map, image_score


@pytest.mark.parametrize(("shape", "sigma"), [((40, 60), 4.0), ((7, 90), 4.0), ((3, 2), 4.0), ((30, 30), 1.3)])
def test_blur_is_scipys(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    ours = anomaly_map(torch.from_numpy(values), shape, sigma)
    assert np.allclose(ours, gaussian_filter(values.astype(np.float64), sigma), atol=1e-5)


def test_sigma_zero_only_resizes() -> None:
    values = torch.rand(4, 5)
    assert np.array_equal(anomaly_map(values, (4, 5), 0.0), values.numpy())


def test_anomaly_map_is_bilinear_then_gaussian() -> None:
    distances = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    resized = torch.nn.functional.interpolate(distances[None, None], (64, 96), mode="bilinear")[0, 0].double().numpy()
    assert np.allclose(anomaly_map(distances, (64, 96), 4.0), gaussian_filter(resized, 4.0), atol=1e-5)


def literal_weight(patch: list[float], nearest: list[float], others: list[list[float]]) -> float:
    """Eq. 7 as printed."""
    return 1 - math.exp(math.dist(patch, nearest)) / sum(math.exp(math.dist(patch, m)) for m in others)


@dataclass
class _Bank:
    """A bank that is its own neighbourhood."""

    vectors: torch.Tensor

    def neighbourhood(self, index: torch.Tensor, size: int) -> torch.Tensor:
        return self.vectors


def test_the_reweighting_is_equation_7() -> None:
    generator = torch.Generator().manual_seed(0)
    others, patches = torch.rand(9, 5, generator=generator), torch.rand(2, 5, generator=generator)
    distances, nearest = torch.tensor([1.0, 2.0]), torch.tensor([3, 0])  # the second patch is the worst
    ours = reweighting(patches, distances, nearest, _Bank(others), 9)
    literal = literal_weight(patches[1].tolist(), others[0].tolist(), others.tolist())
    assert float(ours) == pytest.approx(literal, rel=1e-5)
    assert reweighting(patches, distances, nearest, _Bank(others), 1) == 1.0


def test_the_reweighting_does_not_overflow() -> None:
    others = 1e4 * torch.rand(9, 5, generator=torch.Generator().manual_seed(0))
    assert 0 <= float(reweighting(torch.zeros(1, 5), torch.ones(1), torch.zeros(1).long(), _Bank(others), 9)) <= 1


def test_image_scores() -> None:
    distances = torch.arange(400.0).reshape(20, 20)
    smoothed = np.full((160, 160), 7.0, np.float32)
    assert image_score("max", distances, smoothed) == 399
    assert image_score("smoothed", distances, smoothed) == 7
    assert image_score("top", distances, smoothed) == pytest.approx((399 + 398 + 397 + 396) / 4)


def test_regions_are_eight_connected_and_largest_first() -> None:
    anomaly = np.zeros((20, 30), np.float32)
    anomaly[2, 3] = 5  # touches the next one at a corner only
    anomaly[3, 4] = 6
    anomaly[10:14, 20:26] = 4
    anomaly[0, 29] = np.nan
    regions = find_regions(anomaly, 4)
    assert [(r.box, r.area, r.score) for r in regions] == [((20, 10, 26, 14), 24, 4.0), ((3, 2, 5, 4), 2, 6.0)]
    assert find_regions(anomaly, 7) == ()
    assert find_regions(anomaly, math.inf) == ()
