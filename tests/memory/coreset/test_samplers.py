"""The samplers against the seed's algorithms on the literal N×N matrix, index for index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.memory.coreset import (
    ApproximateGreedyCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    ProxySampler,
    RandomSampler,
)
from patchbank.memory.coreset import farthest_first as ff
from patchbank.memory.coreset.by_product import farthest_first_by_product
from patchbank.memory.coreset.samplers import covering_radius, project

ALL = [RandomSampler, GreedyCoresetSampler, ApproximateGreedyCoresetSampler, ProxySampler]


def distance_matrix(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def literal_greedy(features: torch.Tensor, count: int) -> list[int]:
    """The seed's `_compute_greedy_coreset_indices`, in float64."""
    matrix = distance_matrix(features, features)
    anchor = torch.norm(matrix, dim=1)
    return literal_loop(matrix, anchor, count)


def literal_approximate(features: torch.Tensor, count: int, starts: np.ndarray) -> list[int]:
    """The seed's approximate version: the mean distance to the starting points, then min-reduced."""
    anchor = distance_matrix(features, features[starts]).mean(1)
    return literal_loop(distance_matrix(features, features), anchor, count)


def literal_loop(matrix: torch.Tensor, anchor: torch.Tensor, count: int) -> list[int]:
    indices = []
    for _ in range(count):
        selected = int(np.argmax(anchor.numpy()))
        indices.append(selected)
        anchor = torch.minimum(anchor, matrix[:, selected])
    return indices


def points(n: int, d: int, seed: int = 0, offset: float = 3.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + offset


@pytest.mark.parametrize(
    ("n", "d", "percentage"), [(1500, 16, 0.2), (2000, 64, 0.9), (3000, 100, 0.1), (7, 3, 0.5), (1, 4, 0.5)]
)
def test_greedy_is_the_literal_greedy(n: int, d: int, percentage: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ff, "_POOL", 128)  # many rounds
    features = points(n, d)
    sampler = GreedyCoresetSampler(percentage)
    kept = sampler.run(features)
    assert sampler.indices_.tolist() == literal_greedy(features, max(1, int(n * percentage)))
    assert torch.equal(kept, features[sampler.indices_])


@pytest.mark.parametrize(("n", "starting_points"), [(1500, 10), (800, 1), (300, 5000)])
def test_approximate_is_the_literal_approximate(n: int, starting_points: int) -> None:
    features = points(n, 24, seed=1)
    sampler = ApproximateGreedyCoresetSampler(0.2, "cpu", starting_points, seed=5)
    sampler.run(features)
    starts = np.random.default_rng(5).choice(n, min(starting_points, n), replace=False)
    assert sampler.indices_.tolist() == literal_approximate(features, int(n * 0.2), starts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(1, 5))
def test_any_small_set(seed: int, n: int, d: int) -> None:
    features = points(n, d, seed)
    selection = ff.farthest_first(features, n, ff.row_norms(features))
    assert selection.indices.tolist() == literal_greedy(features, n)
    assert selection.radius == 0


def test_huge_norms_do_not_change_the_selection() -> None:
    features = (
        points(2000, 32, seed=2, offset=0) + 1e3
    )  # distances of 8 on norms of 5 600: float32 products are off by 1
    selection = ff.farthest_first(features, 400, ff.row_norms(features))
    assert selection.indices.tolist() == literal_greedy(features, 400)


def test_duplicates_are_taken_last_and_never_twice() -> None:
    features = points(100, 8).repeat(3, 1)
    selection = ff.farthest_first(features, 300, ff.row_norms(features))
    assert selection.indices[:100].tolist() == literal_greedy(features, 100)
    assert sorted(selection.indices.tolist()) == list(range(300))


@pytest.mark.parametrize("traversal", [ff.farthest_first, farthest_first_by_product])
def test_points_that_are_kept_out_are_never_taken(traversal: Any) -> None:
    features = points(60, 8).repeat(40, 1)  # what is left is soon a duplicate of what was taken
    anchor = ff.row_norms(features)
    out = torch.rand(len(features), generator=torch.Generator().manual_seed(3)) < 0.2
    anchor[out] = -torch.inf
    allowed = (~out).nonzero()[:, 0]
    selection = traversal(features, len(allowed), anchor)
    assert sorted(selection.indices.tolist()) == allowed.tolist()
    some = traversal(features, 90, anchor).indices
    assert some[:60].tolist() == allowed[traversal(features[allowed], 60, anchor[allowed]).indices].tolist()


def test_constant_features() -> None:
    selection = ff.farthest_first(torch.ones(500, 8), 10, ff.row_norms(torch.ones(500, 8)))
    assert selection.indices.tolist() == list(range(10))
    assert selection.radius == 0


@pytest.mark.data
def test_greedy_on_real_features(real_data: Path) -> None:
    from patchbank import PatchCore
    from patchbank.data import gather

    sources = gather(real_data / "hazelnut_toy" / "train")[:6]
    features = PatchCore(image_size=192).extractor.collect(sources).vectors
    sampler = GreedyCoresetSampler(0.1, "cpu", features.shape[1])
    sampler.run(features)
    assert sampler.indices_.tolist() == literal_greedy(features, int(0.1 * len(features)))
    assert sampler.covering_radius_ == pytest.approx(
        float(distance_matrix(features, features[sampler.indices_]).min(1).values.max())
    )


@pytest.mark.parametrize("sampler_class", ALL)
@pytest.mark.parametrize("percentage", [0, 1, -0.1, 10])
def test_percentage_must_be_a_fraction(sampler_class: type, percentage: float) -> None:
    with pytest.raises(ValueError, match="percentage"):
        sampler_class(percentage)


@pytest.mark.parametrize("sampler_class", ALL)
def test_same_kind_in_and_out(sampler_class: type) -> None:
    features = points(200, 12)
    for given_features in (features, features.double(), features.half(), features.numpy()):
        kept = sampler_class(0.1).run(given_features)
        assert type(kept) is type(given_features)
        assert kept.dtype == given_features.dtype
        assert len(kept) == 20
    assert len(sampler_class(0.001).run(features)) == 1


@pytest.mark.parametrize("sampler_class", ALL)
def test_covering_radius_is_that_of_the_features(sampler_class: type) -> None:
    features = points(400, 300)  # more than 128 dimensions: selected in a projection
    sampler = sampler_class(0.1)
    kept = sampler.run(features)
    assert sampler.covering_radius_ == pytest.approx(
        float(distance_matrix(features, kept).min(1).values.max()), rel=1e-5
    )


@pytest.mark.parametrize("sampler_class", ALL)
def test_a_seed_gives_one_selection(sampler_class: type) -> None:
    features = points(500, 200)
    state = torch.get_rng_state()
    first, second, other = (sampler_class(0.1, seed=s) for s in (1, 1, 2))
    for sampler in (first, second, other):
        sampler.run(features)
    assert torch.equal(first.indices_, second.indices_)
    assert not torch.equal(first.indices_, other.indices_)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [torch.tensor([[1.0, float("nan")]]), torch.zeros(0, 3), torch.zeros(5)])
@pytest.mark.parametrize("sampler_class", ALL)
def test_features_that_have_no_distances(sampler_class: type, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="features"):
        sampler_class(0.5).run(bad)


def test_identity() -> None:
    features = points(10, 3)
    sampler = IdentitySampler()
    assert sampler.run(features) is features
    assert sampler.indices_.tolist() == list(range(10))


def test_projection_keeps_distances() -> None:
    features = points(300, 1000)
    ratio = torch.pdist(project(features, 128, 0)) / torch.pdist(features)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.std()) == pytest.approx((1 / 256) ** 0.5, rel=0.25)  # √(1/2d*) of Johnson-Lindenstrauss
    assert project(features[:, :100], 128, 0).shape == (300, 100)


def test_greedy_covers_better_than_random() -> None:
    features = points(2000, 10)
    greedy, random = GreedyCoresetSampler(0.05), RandomSampler(0.05)
    greedy.run(features)
    random.run(features)
    assert greedy.covering_radius_ < 0.8 * random.covering_radius_
    assert greedy.covering_radius_ == pytest.approx(covering_radius(features, greedy.indices_), rel=1e-5)


def test_progress_counts_every_selection() -> None:
    counted: list[int] = []
    GreedyCoresetSampler(0.5).run(points(500, 8), counted.append)
    assert sum(counted) == 250


@pytest.mark.parametrize("sampler_class", [GreedyCoresetSampler, ApproximateGreedyCoresetSampler])
def test_a_radius_stops_early(sampler_class: type) -> None:
    features = points(3000, 8)
    everything = sampler_class(0.5)
    everything.run(features)
    sampler = sampler_class(0.5, radius=2.0)
    kept = len(sampler.run(features))
    assert kept < 1500
    assert everything.indices_[:kept].tolist() == sampler.indices_.tolist()
    assert sampler.covering_radius_ <= 2.0
    # one fewer would not do
    assert covering_radius(features, sampler.indices_[:-1]) > 2.0 or sampler_class is ApproximateGreedyCoresetSampler


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 400), st.integers(1, 40), st.booleans())
def test_both_forms_are_the_literal_greedy(seed: int, n: int, d: int, rounded: bool) -> None:
    """By bounds (CPU) and by product (GPU); rounded coordinates make ties, which go to the lowest index."""
    features = points(n, d, seed)
    if rounded:
        features = features.round()
    count = max(1, n // 2)
    anchor = ff.row_norms(features)
    expected = literal_greedy(features, count)
    if rounded:  # an anchor of equal points may round either way
        expected = literal_loop(distance_matrix(features, features), anchor.sqrt(), count)
    # the literal one takes points again when every distance is zero
    expected = expected[: len(set(expected))]
    assert ff.farthest_first(features, count, anchor).indices.tolist()[: len(expected)] == expected
    assert farthest_first_by_product(features, count, anchor).indices.tolist()[: len(expected)] == expected


def test_many_points_at_one_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ff, "_POOL", 128)
    features = torch.eye(400)  # all pairs at √2, more than two pools of them
    selection = ff.farthest_first(features, 20, ff.row_norms(features))
    assert selection.indices.tolist() == list(range(20))
    assert selection.radius == pytest.approx(2**0.5)


def test_more_equal_points_than_two_pools_hold() -> None:
    features = torch.ones(10_000, 4)
    features[:3] = torch.eye(4)[:3] * 50
    for count in (2, 5, 6000):
        selection = ff.farthest_first(features, count, ff.row_norms(features))
        assert len(set(selection.indices.tolist())) == count
        assert (selection.radius == 0) == (count > 3)


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e18, 1e30])
def test_any_scale(scale: float) -> None:
    features = points(500, 12, seed=4)
    selection = ff.farthest_first(features * scale, 60, ff.row_norms(features * scale))
    assert selection.indices.tolist() == literal_greedy(features * scale, 60)


def test_many_small_sets_at_once() -> None:
    sets = [points(60 + i, 5 + i % 3, seed=i) for i in range(98)]
    selections = ff.farthest_first_of_each(sets, [10] * 98)
    assert [s.indices.tolist() for s in selections] == [literal_greedy(one, 10) for one in sets]
