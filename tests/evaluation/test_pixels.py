"""Pixel metrics of an evaluation: exact or in bins, with intervals, and a reason for each number that is missing."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank.evaluation.pixels import KEYS, NAMES, PixelRun


def filled(memory=None, n=14, threshold=3.0, shape=(120, 120)):
    """Half of the images good; two kinds of defects, one image of which has an empty mask."""
    run = PixelRun(threshold, memory)
    rng = np.random.default_rng(0)
    for i in range(n):
        kind = ("good", "spot", "good", "cut")[i % 4]
        mask = np.zeros(shape, bool)
        if kind != "good" and i != 5:
            mask[10:20, 10 : 20 + i] = mask[50:53, 60:90] = True
        run.add(kind, (10 + rng.standard_normal(shape) + 2 * mask).astype(np.float32), mask)
    return run


def measured(run):
    notes, curves = {}, {}
    return run.metrics(run.pieces(), notes, curves), notes, curves


def test_exact_and_binned_agree_within_the_bounds():
    exact, notes, curves = measured(filled(memory=10**9))
    assert set(exact) == set(KEYS)
    assert exact["pixel_bounds"] is None
    assert set(curves) == {"pixel_roc", "pixel_pr", "pro"}
    assert "1 defective images have no" in notes["masks"]
    for memory in (0, 300_000):  # from the beginning, and after some images
        binned, notes, _ = measured(filled(memory=memory))
        assert set(binned["pixel_bounds"]) == set(NAMES) - {"pixel_f1_threshold"}
        for key, (low, high) in binned["pixel_bounds"].items():
            assert low - 1e-12 <= exact[key] <= high + 1e-12
            assert high - low < 0.02
        assert "2^20 bins" in notes["pixel_bounds"]
        for key in ("iou_at_threshold", "region_recall_at_threshold"):
            assert binned[key] == exact[key]
        assert filled(memory=memory).of_kind("cut")["aupro"] == pytest.approx(
            filled().of_kind("cut")["aupro"], abs=1e-3
        )


def test_intervals_hold_the_value():
    values, notes, _ = measured(filled(n=30))
    for key in ("pixel_auroc", "aupro"):
        low, high = values[f"{key}_interval"]
        assert low < values[key] < high
        assert high - low < 0.1
    assert "aupro_interval" not in notes


def test_no_interval_from_bins_that_are_too_coarse():
    run = PixelRun(3.0)
    rng = np.random.default_rng(0)
    for i in range(12):
        mask = np.zeros((60, 60), bool)
        mask[10:20, 10:30] = i % 2
        anomaly = 100 + 0.02 * (rng.standard_normal(mask.shape) + 2 * mask)
        run.add("spot" if i % 2 else "good", anomaly.astype(np.float32), mask)
    values, notes, _ = measured(run)
    assert values["aupro"] > 0.7
    assert values["aupro_interval"] is None
    assert "vary too little" in notes["aupro_interval"]


def test_aupimo_belongs_to_its_image():
    run = filled(n=14)
    values, _, _ = measured(run)
    assert sorted(run.aupimo) == [1, 3, 7, 9, 11, 13]
    assert values["aupimo"] == pytest.approx(np.mean(list(run.aupimo.values())))
    alone = PixelRun(3.0)
    rng = np.random.default_rng(0)
    for i in range(14):
        kind = ("good", "spot", "good", "cut")[i % 4]
        mask = np.zeros((120, 120), bool)
        if kind != "good" and i != 5:
            mask[10:20, 10 : 20 + i] = mask[50:53, 60:90] = True
        anomaly = (10 + rng.standard_normal(mask.shape) + 2 * mask).astype(np.float32)
        if kind == "good" or i == 9:
            alone.add(kind, anomaly, mask)
    measured(alone)
    assert list(alone.aupimo.values()) == pytest.approx([run.aupimo[9]])


def test_reasons_for_what_is_missing():
    values, notes, _ = measured(filled(n=6, threshold=np.inf))
    assert values["aupimo"] is None
    assert "43200 were inspected" in notes["aupimo"]
    assert values["iou_at_threshold"] is None
    assert "no finite map threshold" in notes["iou_at_threshold"]
    assert values["aupro_interval"] is None
    assert "3 good and 2 defective" in notes["aupro_interval"]
    values, notes, curves = measured(PixelRun(3.0))
    assert set(values) == set(KEYS)
    assert {*values.values()} == {None}
    assert set(notes) == set(KEYS) - {"pixel_bounds"}
    assert curves == {}


def test_a_kind_outside_the_inspected_part_has_no_numbers():
    run = filled()
    mask = np.zeros((20, 20), bool)
    mask[:3, :3] = True
    run.add("edge", np.where(mask, np.nan, 10.0).astype(np.float32), mask)
    assert run.of_kind("edge") == dict.fromkeys(("pixel_auroc", "aupro", "region_recall_at_threshold"))
    assert run.of_kind("unknown")["aupro"] is None
    values, notes, _ = measured(run)
    assert values["aupro"] is not None
    assert "1 defect regions lie wholly outside" in notes["not_inspected"]
