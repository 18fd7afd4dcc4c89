"""Intervals: each draw against the metric of the images drawn, and how often an interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from patchbank.metrics import PixelMetrics
from patchbank.metrics.pieces import BINS, PieceCollector, PixelPieces
from patchbank.metrics.resampling import (
    auroc_interval,
    difference_interval,
    draws,
    percentiles,
    weighted_ap,
    weighted_auroc,
)


def smooth_set(seed=0, n=12):
    """Maps of different sizes around a level, higher in the defects; every third image is good."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n):
        size = i % 12
        shape = (60 + size, 80 - size)
        mask = np.zeros(shape, bool)
        if i % 3:
            mask[5:15, 10 : 20 + size] = mask[30:33, 30:60] = True
        scores = (25 + 3 * rng.standard_normal(shape) + 4 * mask + rng.standard_normal()).astype(np.float32)
        scores[:, -3:] = np.nan
        maps.append(scores)
        masks.append(mask)
    return maps, masks


def pieces_of(maps, masks):
    collector = PieceCollector()
    for scores, mask in zip(maps, masks, strict=True):
        collector.update(scores, mask)
    return collector.pieces()


def exact(maps, masks):
    metrics = PixelMetrics()
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
    result = metrics.compute()
    return {"pixel_auroc": result.auroc, "pixel_ap": result.average_precision, "aupro": result.aupro}


@pytest.mark.parametrize("decimals", [0, 7])
def test_a_draw_is_the_metric_of_the_images_drawn(decimals):
    rng = np.random.default_rng(0)
    labels = rng.random(40) < 0.4
    scores = (rng.standard_normal(40) + labels).round(decimals)
    for weights in draws(labels, seed=1, resamples=120):
        aurocs, precisions = weighted_auroc(weights, labels, scores), weighted_ap(weights, labels, scores)
        for row in range(0, len(weights), 17):
            drawn = np.repeat(np.arange(40), weights[row].astype(int))
            assert np.sum(labels[drawn]) == np.sum(labels)
            assert aurocs[row] == pytest.approx(roc_auc_score(labels[drawn], scores[drawn]), abs=1e-6)
            assert precisions[row] == pytest.approx(average_precision_score(labels[drawn], scores[drawn]), abs=1e-6)


def test_pieces_give_the_metrics_of_the_images_drawn():
    maps, masks = smooth_set()
    pieces = pieces_of(maps, masks)
    assert pieces.nominal.shape[1] <= BINS
    is_defective = np.array([mask.any() for mask in masks])
    weights = next(draws(is_defective, seed=3, resamples=5))
    weights[0] = 1
    values = pieces.metrics(weights)
    for row in range(5):
        drawn = np.repeat(np.arange(12), weights[row].astype(int))
        expected = exact([maps[i] for i in drawn], [masks[i] for i in drawn])
        for name, tolerance in {"pixel_auroc": 1e-3, "pixel_ap": 5e-3, "aupro": 2e-3}.items():
            assert values[name][row] == pytest.approx(expected[name], abs=tolerance)


def test_pieces_of_some_images_and_of_a_file(tmp_path):
    maps, masks = smooth_set()
    collector = PieceCollector()
    for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        collector.update(scores, mask)
        if i == 4:
            collector.skip()
    pieces = collector.pieces()
    pieces.write(tmp_path / "pixels.npz")
    again = PixelPieces.read(tmp_path / "pixels.npz")
    np.testing.assert_array_equal(again.overlap, pieces.overlap)
    assert not again.nominal[5].any()
    kept = np.array([0, 1, 2, 6, 7])
    expected = exact([maps[i] for i in (0, 1, 2, 5, 6)], [masks[i] for i in (0, 1, 2, 5, 6)])
    values = again.of(kept).metrics(np.ones((1, 5), np.float32))
    assert values["aupro"][0] == pytest.approx(expected["aupro"], abs=3e-3)
    assert np.sum(pieces.overlap, axis=1)[[1, 2]] == pytest.approx([2, 2], abs=1e-4)  # two regions each


def test_pieces_of_one_kind_of_image_are_nan():
    maps, masks = smooth_set(n=1)
    values = pieces_of(maps, masks).metrics(np.ones((2, 1), np.float32))
    assert all(np.isnan(each).all() for each in values.values())


def test_the_interval_of_an_auroc_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = norm.cdf(2.8 / np.sqrt(2))  # 0.976, where plain percentiles hold it in 87 %
    labels = np.arange(80) < 40
    held = []
    for _ in range(100):
        low, high = auroc_interval(labels, rng.standard_normal(80) + 2.8 * labels)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.88  # 0.95 − 3 standard errors


def test_the_interval_of_perfect_scores_is_that_of_disjoint_pairs():
    labels = np.arange(50) < 20
    low, high = auroc_interval(labels, labels.astype(float))
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    uneven = np.arange(23) < 17
    assert auroc_interval(uneven, uneven.astype(float)) == (pytest.approx(0.025 ** (1 / 6)), 1.0)
    assert auroc_interval(labels, -labels.astype(float)) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert auroc_interval(labels, np.zeros(50)) == (0.5, 0.5)


def test_the_interval_of_an_aupro_holds_the_truth():
    """Images with a level of their own, which is what makes pixels of one image alike."""
    truth = exact(*smooth_set(10_000, 300))["aupro"]
    held = []
    for seed in range(25):
        maps, masks = smooth_set(seed, 24)
        pieces = pieces_of(maps, masks)
        is_defective = np.array([mask.any() for mask in masks])
        values = np.concatenate([pieces.metrics(w)["aupro"] for w in draws(is_defective, resamples=100)])
        value = exact(maps, masks)["aupro"]
        low, high = percentiles(values, value - pieces.metrics(np.ones((1, 24), np.float32))["aupro"][0])
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.77  # 0.95 − 4 standard errors


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    labels = np.arange(30) < 10
    scores = rng.standard_normal(30) + labels
    assert auroc_interval(labels, scores) == auroc_interval(labels, scores)
    assert auroc_interval(labels, scores, seed=1) != auroc_interval(labels, scores)


def test_a_paired_bootstrap_rejects_as_often_as_it_says():
    rng = np.random.default_rng(0)
    labels = np.arange(100) < 50
    rejected = []
    for _ in range(80):
        common = rng.standard_normal(100) + 1.2 * labels
        first, second = common + 0.6 * rng.standard_normal((2, 100))
        drawn = [weighted_auroc(w, labels, first) - weighted_auroc(w, labels, second) for w in draws(labels, 0, 400)]
        rejected.append(difference_interval(np.concatenate(drawn))[1] < 0.05)
    assert np.mean(rejected) <= 0.125  # 0.05 + 3 standard errors


def test_bca_as_scipy():
    """SciPy resamples the two kinds one by one and takes its acceleration from a jackknife."""
    rng = np.random.default_rng(4)
    labels = np.arange(60) < 25
    scores = rng.standard_normal(60) + 1.5 * labels

    def area(bad, good, axis):
        return np.mean(bad[..., :, None] > good[..., None, :], axis=(-2, -1))

    expected = stats.bootstrap((scores[labels], scores[~labels]), area, n_resamples=2000, rng=1, batch=100)
    np.testing.assert_allclose(auroc_interval(labels, scores), expected.confidence_interval, atol=0.012)


def test_p_value_of_a_difference():
    drawn = np.linspace(-0.01, 0.09, 999)
    (low, high), p_value = difference_interval(drawn)
    assert (low, high) == (pytest.approx(-0.0075), pytest.approx(0.0875))
    assert p_value == pytest.approx(2 * (np.sum(drawn <= 0) + 1) / 1000)
    far = difference_interval(drawn, shift=0.1)[1]
    assert far == pytest.approx(2 * norm.sf(np.mean(drawn + 0.1) / np.std(drawn)))
    assert difference_interval(np.ones(99))[1] == 2 / 100  # nothing varies: no more than the number of draws shows
    assert difference_interval(np.zeros(99))[1] == 1
