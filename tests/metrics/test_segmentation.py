"""F1, IoU, recall of regions and AUPIMO against literal definitions; the bins against the exact values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sk

from patchbank.metrics import PixelMetrics, average_precision
from patchbank.metrics.aupimo import FPR_BOUNDS, found_share
from patchbank.metrics.binned import BITS
from patchbank.metrics.curves import bin_of, lowest_of
from tests.metrics.test_pixel import collected, flat, random_set
from tests.metrics.test_region import small_sets

NAMES = ("auroc", "average_precision", "aupro", "f1_max", "aupimo")


def literal_aupimo(maps, masks, bounds):
    """Every distinct score as threshold: shares of the good pixels and of each image's defect pixels; between two
    thresholds straight lines; then the area over the logarithm of the rate, by very many narrow slices."""
    good = [scores for scores, mask in zip(maps, masks, strict=True) if not mask.any()]
    bad = [(scores, mask) for scores, mask in zip(maps, masks, strict=True) if mask.any()]
    values = np.unique(np.concatenate([np.ravel(m) for m in maps]))
    thresholds = np.concatenate([[np.inf], values[~np.isnan(values)][::-1]])
    rate = np.array([np.mean(np.concatenate([(g[~np.isnan(g)] >= t) for g in good])) for t in thresholds])
    areas = []
    for scores, mask in bad:
        seen = scores[mask & ~np.isnan(scores)]
        found = np.array([np.mean(seen >= t) for t in thresholds])
        cuts = np.geomspace(*bounds, 200_001)
        middle = np.sqrt(cuts[1:] * cuts[:-1])
        # where several thresholds have one rate the curve is vertical: no slice lies in it
        areas.append(np.mean(np.interp(middle, *_without_inner(rate, found))))
    return np.array(areas)


def _without_inner(rate, found):
    keep = np.r_[True, (rate[1:-1] != rate[:-2]) | (rate[1:-1] != rate[2:]), True]
    return rate[keep] + np.arange(keep.sum()) * 1e-15, found[keep]


def pimo_set(decimals, n_good=6, n_bad=4, shape=(20, 25)):
    rng = np.random.default_rng(decimals)
    maps, masks = [], []
    for i in range(n_good + n_bad):
        mask = np.zeros(shape, bool)
        if i >= n_good:
            mask[2:6, 3:9] = mask[12:15, 10:20] = True
        maps.append((rng.standard_normal(shape) + 2.5 * mask).round(decimals).astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_aupimo_as_the_literal_definition(decimals, monkeypatch):
    bounds = (1e-3, 1e-1)  # small images have few pixels
    monkeypatch.setattr(found_share, "__defaults__", (bounds,))
    monkeypatch.setattr("patchbank.metrics.exact.resolves", lambda n: True)
    maps, masks = pimo_set(decimals)
    result = collected(maps, masks).compute()
    expected = literal_aupimo(maps, masks, bounds)
    np.testing.assert_allclose(result.aupimo_per_image, expected, atol=2e-5)
    assert result.aupimo == pytest.approx(expected.mean(), abs=2e-5)


def test_aupimo_as_trapezoids_over_many_thresholds():
    """The other way: thresholds evenly spaced between the scores of good images, a trapezoid over log F."""
    rng = np.random.default_rng(3)
    maps = rng.standard_normal((6, 400, 400)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[3:, 100:120, 50:90] = True
    maps[masks] += 4
    good = np.sort(maps[:3].ravel())
    thresholds = np.linspace(good[-60], good[-1], 300_000)
    rate = 1 - np.searchsorted(good, thresholds) / good.size
    inside = np.flatnonzero((rate >= FPR_BOUNDS[0]) & (rate <= FPR_BOUNDS[1]))[::-1]
    expected = []
    for scores, mask in zip(maps[3:], masks[3:], strict=True):
        seen = np.sort(scores[mask])
        found = 1 - np.searchsorted(seen, thresholds[inside]) / seen.size
        expected.append(np.trapezoid(found, np.log(rate[inside])) / np.log(FPR_BOUNDS[1] / FPR_BOUNDS[0]))
    result = collected(maps, masks).compute()
    np.testing.assert_allclose(result.aupimo_per_image, expected, atol=0.02)  # 48 steps of the rate


def test_aupimo_needs_enough_pixels_of_good_images():
    maps, masks = pimo_set(7)
    result = collected(maps, masks).compute()
    assert result.aupimo is None
    assert result.aupimo_per_image is None
    assert result.n_good_pixels == 6 * 500


def test_aupimo_of_collectors_together():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((5, 250, 250)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for i in (2, 3, 4):
        masks[i, 20 : 30 * i, 20:50] = True
    maps[masks] += 3
    maps[3, :, :100] = np.nan  # no defect pixel inspected
    whole = collected(maps, masks).compute()
    good, first, others = (collected(maps[a:b], masks[a:b]) for a, b in ((0, 2), (2, 3), (3, 5)))
    parts = good.compute(first, others)
    np.testing.assert_allclose(parts.aupimo_per_image, whole.aupimo_per_image, atol=1e-12)
    assert np.isnan(whole.aupimo_per_image[1])
    assert whole.aupimo == pytest.approx(np.nanmean(whole.aupimo_per_image))


@settings(max_examples=100, deadline=None)
@given(small_sets())
def test_f1_max_tries_every_threshold(case):
    maps, masks = case
    labels, scores = flat(maps, masks)
    if labels.any() and not labels.all():
        result = collected(maps, masks).compute()
        every = [sk.f1_score(labels, scores >= t) for t in np.unique(scores)]
        assert result.f1_max == pytest.approx(max(every), abs=1e-12)
        assert sk.f1_score(labels, scores >= result.f1_threshold) == pytest.approx(result.f1_max, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(small_sets(), st.sampled_from([-1.0, 0.0, 0.1, 1.0, 3.0]), st.booleans())
def test_at_a_threshold(case, threshold, binned):
    maps, masks = case
    labels, scores = flat(maps, masks)
    if not labels.any() or labels.all():
        return
    metrics = PixelMetrics(threshold, binned=binned)
    regions = []
    for one, mask in zip(maps, masks, strict=True):
        metrics.update(one, mask)
        numbered, count = ndimage.label(mask, np.ones((3, 3)))
        pixels = [one[(numbered == r) & ~np.isnan(one)] for r in range(1, count + 1)]
        regions += [np.any(p >= np.float32(threshold)) for p in pixels if p.size]
    at = metrics.compute().at_threshold
    assert at.iou == pytest.approx(sk.jaccard_score(labels, scores >= np.float32(threshold), zero_division=0))
    assert at.region_recall == pytest.approx(np.mean(regions))


def test_no_threshold_no_numbers_and_two_are_an_error():
    maps, masks = random_set()
    assert collected(maps, masks).compute().at_threshold is None
    with pytest.raises(ValueError, match="one threshold"):
        PixelMetrics(1.0).compute(PixelMetrics(2.0))


def assert_bounded(binned, exact):
    assert set(binned.bounds) >= set(NAMES[:4])
    for name, (low, high) in binned.bounds.items():
        for value in (getattr(exact, name), getattr(binned, name)):
            assert low - 1e-12 <= value <= high + 1e-12, name
    assert (binned.n_regions, binned.n_regions_not_inspected) == (exact.n_regions, exact.n_regions_not_inspected)


def coarse(monkeypatch, bits):
    monkeypatch.setattr("patchbank.metrics.binned.BITS", bits)


@settings(max_examples=150, deadline=None)
@given(small_sets(), st.sampled_from([10, 12, 20]), st.sampled_from([0.05, 0.3, 1.0]))
def test_bounds_hold_the_exact_value(case, bits, limit):
    maps, masks = case
    labels, _ = flat(maps, masks)
    if not labels.any() or labels.all():
        return
    with pytest.MonkeyPatch.context() as patch:
        coarse(patch, bits)
        metrics = PixelMetrics(binned=True)
        for scores, mask in zip(maps, masks, strict=True):
            metrics.update(scores, mask)
        assert_bounded(metrics.compute(limit=limit), collected(maps, masks).compute(limit=limit))


@pytest.mark.parametrize(("bits", "width"), [(10, 1.0), (13, 0.2), (20, 0.002)])
def test_bounds_on_smooth_maps(bits, width, monkeypatch):
    coarse(monkeypatch, bits)
    rng = np.random.default_rng(0)
    maps = np.array([ndimage.gaussian_filter(rng.standard_normal((200, 200)), 4) for _ in range(10)], np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[5:, 50:70, 50:70] = masks[5:, 100:102, 90:150] = True
    maps = 20 + 20 * (maps + 0.3 * masks)
    exact = collected(maps, masks)
    before = exact.compute()
    exact.to_bins()
    result = exact.compute()
    assert_bounded(result, before)
    assert set(result.bounds) == set(NAMES)
    assert all(high - low < width for low, high in result.bounds.values())
    fresh = PixelMetrics(binned=True)
    for scores, mask in zip(maps, masks, strict=True):
        fresh.update(scores, mask)
    for name in NAMES:
        assert getattr(fresh.compute(), name) == pytest.approx(getattr(result, name), abs=1e-12)


def test_binned_and_exact_collectors_together():
    maps, masks = random_set(n=9)
    kinds = [collected(maps[i::3], masks[i::3]) for i in range(3)]
    exact = kinds[0].compute(*kinds[1:])
    kinds[1].to_bins()
    assert kinds[1].is_binned
    mixed = kinds[0].compute(*kinds[1:])
    assert_bounded(mixed, exact)
    labels, scores = flat(maps, masks)
    binned = lowest_of(bin_of(scores, BITS), BITS)
    assert mixed.auroc == pytest.approx(sk.roc_auc_score(labels, binned), abs=1e-12)
    assert mixed.average_precision == pytest.approx(average_precision(labels, binned), abs=1e-12)


def test_bins_rise_with_the_scores():
    values = [-np.inf, -3e38, -2.0, -1.0, -1e-30, -0.0, 0.0, 1e-45, 1e-30, 1.0, 1.0005, 2.0, 3e38, np.inf]
    scores = np.array(values, np.float32)
    for bits in (12, 20, 24):
        bins = bin_of(scores, bits)
        assert (np.diff(bins) >= 0).all()
        assert bins.min() >= 0
        assert bins.max() < 2**bits
        lowest = lowest_of(bins, bits)
        assert (lowest <= scores).all()
        np.testing.assert_array_equal(bin_of(lowest[1:], bits), bins[1:])
    random = np.sort(np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    assert (np.diff(bin_of(random, 20)) >= 0).all()
    assert np.max(np.abs(lowest_of(bin_of(random, 20), 20) / random - 1)) < 0.0005


def test_memory_of_bins_does_not_grow():
    rng = np.random.default_rng(0)
    metrics = PixelMetrics(binned=True)
    mask = np.zeros((100, 100), bool)
    mask[:5, :5] = True
    for i in range(4):
        metrics.update(rng.lognormal(i, 3, mask.shape), mask)
    assert metrics.nbytes <= 5 * 8 * 2**20
    before = metrics.nbytes
    for _ in range(20):
        metrics.update(rng.lognormal(0, 1, mask.shape), mask)
    assert metrics.nbytes == before
