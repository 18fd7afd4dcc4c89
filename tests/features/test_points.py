"""Sampling, neighbours and interpolation of points against literal loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchbank.features import points as module
from patchbank.features.points import farthest_points, interpolate, interpolation, nearest_points


def cloud(count: int, seed: int) -> torch.Tensor:
    """Points of a part half a metre away, in millimetres."""
    return torch.from_numpy(
        (np.random.default_rng(seed).standard_normal((count, 3)) * 20 + (3, -7, 650)).astype(np.float32)
    )


def literal_farthest(points: np.ndarray, count: int) -> list[int]:
    selected = [0]
    while len(selected) < count:
        nearest = [min(math.dist(p, points[s]) for s in selected) for p in points]
        selected.append(int(np.argmax(nearest)))
    return selected


def test_farthest_points() -> None:
    points = cloud(60, 0)
    assert farthest_points(points, 12).tolist() == literal_farthest(points.double().numpy(), 12)


def test_farthest_points_of_equals_are_the_first() -> None:
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert farthest_points(square, 4).tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_points_than_wanted(count: int) -> None:
    points = cloud(count, 1)
    assert sorted(farthest_points(points, 9).tolist()) == list(range(count))
    distance, index = nearest_points(cloud(3, 2), points, 9)
    assert distance.shape == index.shape == (3, count)


def test_nearest_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 100)  # several blocks
    points, queries = cloud(40, 3), cloud(7, 4)
    distance, index = nearest_points(queries, points, 5)
    for q, query in enumerate(queries.double().numpy()):
        literal = sorted((math.dist(query, p), i) for i, p in enumerate(points.double().numpy()))[:5]
        assert index[q].tolist() == [i for _, i in literal]
        assert np.allclose(distance[q], [d for d, _ in literal], atol=1e-4)


def test_distances_far_from_the_origin_keep_the_spacing() -> None:
    points = torch.tensor([[0.0, 0, 6500], [0.01, 0, 6500], [0.03, 0, 6500]])
    distance, index = nearest_points(points[:1], points, 3)
    assert index.tolist() == [[0, 1, 2]]
    assert np.allclose(distance, [[0, 0.01, 0.03]])


def test_interpolate() -> None:
    centres, points = cloud(10, 5), cloud(30, 6)
    features = torch.from_numpy(np.random.default_rng(7).standard_normal((10, 4)).astype(np.float32))
    found = interpolate(centres, features, points)
    for p, point in enumerate(points.double().numpy()):
        nearest = sorted((math.dist(point, c), i) for i, c in enumerate(centres.double().numpy()))[:3]
        weights = [1 / d**2 for d, _ in nearest]
        literal = sum(w / sum(weights) * features[i].numpy() for w, (_, i) in zip(weights, nearest, strict=True))
        assert np.allclose(found[p], literal, atol=1e-4)


def test_a_point_on_a_centre_takes_its_feature() -> None:
    centres = cloud(6, 8)
    features = torch.arange(6.0)[:, None]
    assert torch.equal(interpolate(centres, features, centres), features)
    assert interpolation(centres, centres)[1].isfinite().all()
