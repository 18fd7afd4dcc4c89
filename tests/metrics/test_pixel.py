"""Pixel metrics against scikit-learn over the pixels of all images; AUPRO is tested in `test_region.py`."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from patchbank.metrics import PixelMetrics
from patchbank.metrics.curves import CURVE_POINTS


def collected(maps, masks):
    metrics = PixelMetrics()
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
    return metrics


def flat(maps, masks):
    """Labels and scores of the inspected pixels, as scikit-learn wants them."""
    scores = np.concatenate([np.ravel(each) for each in maps]).astype(np.float32)
    labels = np.concatenate([np.ravel(each) for each in masks])
    return labels[~np.isnan(scores)], scores[~np.isnan(scores)]


def random_set(seed=0, n=6, decimals=7):
    """Maps of different sizes, a little higher in the defects; every third image good, some pixels NaN."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n):
        shape = (30 + 3 * i, 41 - 2 * i)
        mask = np.zeros(shape, bool)
        if i % 3:
            mask[3:9, 4:11] = mask[15:18, 2:20] = True
        scores = (rng.standard_normal(shape) + mask).round(decimals).astype(np.float32)
        scores[rng.random(shape) < 0.05] = np.nan
        maps.append(scores)
        masks.append(mask)
    return maps, masks


def assert_same(result, other):
    for name in ("auroc", "average_precision", "aupro", "n_regions", "n_regions_not_inspected"):
        assert getattr(result, name) == pytest.approx(getattr(other, name), abs=1e-12)
    for name in ("roc", "pr", "pro"):
        np.testing.assert_allclose(getattr(result, name), getattr(other, name), atol=1e-12)


def assert_as_scikit_learn(result, maps, masks):
    labels, scores = flat(maps, masks)
    assert result.auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    expected = sk.average_precision_score(labels, scores)
    assert result.average_precision == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [-2, 0, 1, 7])  # all tied, heavily tied, some ties, none
def test_as_scikit_learn(decimals):
    maps, masks = random_set(decimals=decimals)
    assert_as_scikit_learn(collected(maps, masks).compute(), maps, masks)


def test_as_scikit_learn_on_a_few_pixels():
    rng = np.random.default_rng(0)
    for _ in range(100):
        size = rng.integers(2, 7)
        mask = rng.permutation(size) < rng.integers(1, size)
        maps, masks = [rng.integers(0, 3, (1, size))], [mask[None]]
        assert_as_scikit_learn(collected(maps, masks).compute(), maps, masks)


def test_drawn_curves_are_few_points_of_the_exact_ones():
    maps, masks = random_set(n=12)
    labels, scores = flat(maps, masks)
    result = collected(maps, masks).compute()
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    exact = {"roc": set(zip(fpr, tpr, strict=True)), "pr": set(zip(recall, precision, strict=True))}
    for name, first in {"roc": (0, 0), "pr": (0, 1), "pro": (0, 0)}.items():
        x, y = getattr(result, name)
        assert 300 < x.size <= CURVE_POINTS
        assert (x[0], y[0]) == first
        assert x[-1] == 1
        assert (np.diff(x) >= 0).all()
        assert exact.get(name, set(zip(x, y, strict=True))) >= set(zip(x, y, strict=True))
    np.testing.assert_allclose(np.interp(fpr, *result.roc), tpr, atol=0.01)


def test_images_may_come_in_any_order_and_after_a_result():
    maps, masks = random_set()
    whole = collected(maps, masks).compute()
    assert_same(collected(maps[::-1], masks[::-1]).compute(), whole)
    metrics = collected(maps[:3], masks[:3])
    metrics.compute()
    for scores, mask in zip(maps[3:], masks[3:], strict=True):
        metrics.update(scores, mask)
    assert_same(metrics.compute(), whole)
    assert_same(metrics.compute(), whole)


def test_collectors_together_are_as_one():
    maps, masks = random_set()
    good = collected(maps[::3], masks[::3])
    kinds = [collected(maps[i::3], masks[i::3]) for i in (1, 2)]
    assert_same(good.compute(*kinds), collected(maps, masks).compute())
    pick = [0, 3, 2, 5]
    alone = collected([maps[i] for i in pick], [masks[i] for i in pick])
    assert_same(good.compute(kinds[1]), alone.compute())
    assert_same(PixelMetrics().compute(alone), alone.compute())


def test_infinite_scores_rank_and_tie():
    mask = np.array([[True, True, False, False]])
    infinite = collected([[[np.inf, 0.0, np.inf, -np.inf]]], [mask]).compute()
    assert_same(infinite, collected([[[2.0, 1.0, 2.0, 0.0]]], [mask]).compute())
    assert infinite.auroc == 0.625


def test_regions_not_inspected_are_left_out_and_counted():
    mask = np.zeros((9, 9), bool)
    mask[1:3, 1:3] = mask[5:8, 5:8] = True
    scores = mask.astype(np.float32)
    scores[1:3, 1:3] = np.nan
    result = collected([scores], [mask]).compute()
    assert (result.n_regions, result.n_regions_not_inspected) == (1, 1)
    assert result.aupro == pytest.approx(1.0)


def test_a_region_cut_by_pixels_not_inspected_is_one_region():
    mask = np.zeros((5, 9), bool)
    mask[2] = True
    scores = mask.astype(np.float32)
    scores[:, 4] = np.nan
    assert collected([scores], [mask]).compute().n_regions == 1


@pytest.mark.parametrize(
    ("map", "mask", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "marked as a defect"),
        (np.zeros((2, 3)), np.ones((2, 3), bool), "free of defects"),
        (np.full((2, 3), np.nan), np.eye(2, 3, dtype=bool), "marked as a defect"),
        (np.where(np.eye(2), 1.0, np.nan), np.eye(2, dtype=bool), "free of defects"),
    ],
)
def test_one_kind_of_pixel_only(map, mask, message):
    metrics = collected([map], [mask])
    with pytest.raises(ValueError, match=message):
        metrics.compute()
    metrics.update([[1.0, 0.0]], np.array([[True, False]]))  # the collector is still good
    assert metrics.compute().n_regions >= 1


def test_nothing_added():
    with pytest.raises(ValueError, match="no inspected pixel"):
        PixelMetrics().compute()


@pytest.mark.parametrize(
    ("map", "mask", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), "must have one shape"),
        (np.zeros(4), np.zeros(4, bool), "must have one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), "mask must be bool"),
    ],
)
def test_map_and_mask_that_do_not_fit(map, mask, message):
    with pytest.raises(ValueError, match=message):
        PixelMetrics().update(map, mask)


def test_peak_memory_is_what_the_docstring_says():
    rng = np.random.default_rng(0)
    mask = np.zeros((224, 224), bool)
    mask[20:40, 30:60] = True
    n_images, one_image = 40, 1e6
    tracemalloc.start()
    try:
        metrics = PixelMetrics()
        for _ in range(n_images):
            metrics.update(rng.random(mask.shape, dtype=np.float32), mask)
        held = n_images * (4.25 * np.sum(~mask) + 8.5 * np.sum(mask))
        assert tracemalloc.get_traced_memory()[1] < held + one_image
        metrics.compute()
        assert tracemalloc.get_traced_memory()[1] < held + n_images * 135 * np.sum(mask)
    finally:
        tracemalloc.stop()
