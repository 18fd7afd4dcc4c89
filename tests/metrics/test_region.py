"""Regions and AUPRO against a slow literal implementation of the definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from patchbank.metrics import PixelMetrics, aupro, label_regions, mean_overlap

EIGHT_CONNECTED = np.ones((3, 3))


def literal_aupro(maps, masks, limit):
    """Every distinct score as threshold: binarise, overlap per region, false-positive rate; trapezoids."""
    maps = [np.asarray(each, dtype=np.float32) for each in maps]
    labels = [ndimage.label(mask, EIGHT_CONNECTED)[0] for mask in masks]
    values = np.unique(np.concatenate([each[~np.isnan(each)] for each in maps]))
    points = [(0.0, 0.0)]
    for threshold in values[::-1]:
        overlaps, false_positives, defect_free = [], 0, 0
        for scores, mask, regions in zip(maps, masks, labels, strict=True):
            inspected, found = ~np.isnan(scores), scores >= threshold
            false_positives += np.sum(found & ~mask)
            defect_free += np.sum(inspected & ~mask)
            pixels = [inspected & (regions == r) for r in range(1, regions.max() + 1)]
            overlaps += [np.sum(found & region) / np.sum(region) for region in pixels if region.any()]
        points.append((false_positives / defect_free, np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        right = min(x1, limit)
        if right > x0:
            area += (right - x0) * (y0 + y0 + (y1 - y0) * (right - x0) / (x1 - x0)) / 2
    return area / limit


def our_aupro(maps, masks, limit=0.3):
    metrics = PixelMetrics()
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
    return metrics.compute(limit=limit).aupro


@st.composite
def small_sets(draw):
    """One to three small images, each of its size, with any mask; scores different, tied or constant; NaN."""
    kind = draw(st.sampled_from([st.floats(-8, 8, width=32), st.integers(0, 3).map(float), st.just(1.0)]))
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        score = st.one_of(kind, kind, kind, st.just(np.nan))
        maps.append(draw(hnp.arrays(np.float32, shape, elements=score)))
        masks.append(draw(hnp.arrays(np.bool_, shape)))
    return maps, masks


@settings(max_examples=150, deadline=None)
@given(small_sets(), st.sampled_from([0.05, 0.25, 0.3, 0.5, 1.0]))
def test_as_the_literal_definition(case, limit):
    maps, masks = case
    inspected = np.concatenate([mask[~np.isnan(scores)] for scores, mask in zip(maps, masks, strict=True)])
    if inspected.any() and not inspected.all():
        assert our_aupro(maps, masks, limit) == pytest.approx(literal_aupro(maps, masks, limit), abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_as_the_literal_definition_on_smooth_maps(decimals):
    """Several regions in a mask, good images among them, sizes that differ, a border not inspected."""
    rng = np.random.default_rng(decimals)
    maps, masks = [], []
    for shape in ((12, 15), (10, 10), (17, 9), (11, 13)):
        mask = np.zeros(shape, bool)
        if shape != (10, 10):
            mask[1:4, 2:6] = mask[6:9, 5:8] = mask[9, 1] = True
        scores = ndimage.gaussian_filter(rng.standard_normal(shape) + mask, 1).round(decimals)
        scores[:, :2] = np.nan
        maps.append(scores.astype(np.float32))
        masks.append(mask)
    for limit in (0.05, 0.3, 1.0):
        assert our_aupro(maps, masks, limit) == pytest.approx(literal_aupro(maps, masks, limit), abs=1e-9)


def test_perfect_map_is_one_and_reversed_map_is_zero():
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:17, 9:12] = True
    assert our_aupro([mask.astype(np.float32)], [mask]) == pytest.approx(1.0, abs=1e-12)
    assert our_aupro([-mask.astype(np.float32)], [mask]) == pytest.approx(0.0, abs=1e-12)


def test_constant_map_is_the_diagonal():
    mask = np.arange(100).reshape(10, 10) < 7
    assert our_aupro([np.ones((10, 10))], [mask], 0.3) == pytest.approx(0.15)


def test_regions_count_alike_whatever_their_size():
    mask = np.zeros((20, 20), bool)
    mask[0, 0], mask[5:15, 5:15] = True, True
    scores = np.where(mask, 2.0, 1.0)
    scores[0, 0] = 0.0  # only the region of one pixel is missed
    assert our_aupro([scores], [mask]) == pytest.approx(0.5)


def test_a_diagonal_is_one_region():
    labels, count = label_regions(np.eye(4, dtype=bool))
    assert count == 1
    np.testing.assert_array_equal(labels, np.eye(4))
    assert label_regions(np.zeros((3, 2), bool))[1] == 0
    assert label_regions(np.array([[True, False, True]]))[1] == 2


def test_mean_overlap_weighs_each_region_alike():
    regions = np.array([0, 2, 0, 0, 0], np.int32)
    np.testing.assert_allclose(mean_overlap(regions), [1 / 8, 5 / 8, 6 / 8, 7 / 8, 1])


def test_rise_at_the_limit_itself_does_not_count():
    # Level up to the limit 0.3, then straight up: np.interp(0.3) is 1, which would make a triangle of area.
    fpr, overlap = np.array([0.0, 0.1, 0.3, 0.3, 1.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    assert aupro(fpr, overlap, 0.3) == 0.0
    assert aupro(fpr, overlap, 1.0) == pytest.approx(0.7)


def test_curve_is_cut_at_the_limit_by_interpolation():
    assert aupro(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.3) == pytest.approx(0.15)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, np.nan])
def test_limit_outside_zero_to_one(limit):
    with pytest.raises(ValueError, match="limit of the false-positive rate"):
        aupro(np.array([0.0, 1.0]), np.array([0.0, 1.0]), limit)
