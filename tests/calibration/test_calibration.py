"""Thresholds, p-values and batches from good parts alone."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.calibration.calibration import Calibration, folds_of
from patchbank.calibration.conformal import benjamini_hochberg, choose_threshold, fit_tail, interval, threshold
from patchbank.errors import OptionError

SCORES = st.lists(st.floats(0, 1e6) | st.sampled_from([1.0, 2.0]), min_size=2, max_size=60)  # with ties
RATES = st.sampled_from([0.01, 0.05, 0.1, 0.5])


def calibration(scores: list[float], rate: float = 0.1) -> Calibration:
    names = tuple(f"{i}.png" for i in range(len(scores)))
    return Calibration(np.array(scores, float), np.array(scores, float), rate, images=names)


def test_the_quantile_is_the_conformal_one() -> None:
    scores = np.arange(1.0, 100.0)  # n = 99: the 99th smallest for 1 %, the 90th for 10 %
    assert threshold(scores, 0.01) == 99
    assert threshold(scores, 0.1) == 90
    assert threshold(scores[:10], 0.01) == 10  # too few even for a tail: the largest
    assert threshold(np.array([np.inf, 3.0]), 0.5) == 3
    assert threshold(np.array([np.inf]), 0.5) == math.inf


@given(SCORES, RATES)
def test_coverage_on_exchangeable_scores(scores: list[float], rate: float) -> None:
    """The guarantee, exactly: of n + 1 exchangeable scores each is as likely to be the new one, so the share of them
    that lies above the threshold of the others is the probability of a false alarm."""
    everything = np.array(scores)
    alarms = rejected = 0
    for i, new in enumerate(scores):
        others = calibration(np.delete(everything, i).tolist(), rate)
        rejected += others.p_value(new) <= rate + 1e-12
        if others.is_guaranteed:
            alarms += new > others.threshold
    assert alarms <= rate * len(scores) + 1e-9
    assert rejected <= rate * len(scores) + 1e-9


@given(SCORES, RATES, st.floats(0, 1e6))
def test_decision_and_p_value_agree(scores: list[float], rate: float, score: float) -> None:
    fitted = calibration(scores, rate)
    if fitted.is_guaranteed:
        assert (score > fitted.threshold) == (fitted.p_value(score) <= rate + 1e-9)


def test_p_values() -> None:
    fitted = calibration([1, 2, 3, 4])
    assert [fitted.p_value(s) for s in (0, 2.5, 4, 5)] == [1.0, 0.6, 0.4, 0.2]
    assert not fitted.is_guaranteed
    assert calibration(list(range(9))).is_guaranteed


@pytest.mark.parametrize(("shape", "draw"), [(0.0, "exponential"), (0.3, "pareto"), (-0.3, "bounded")])
def test_the_tail_of_many_scores_is_found(shape: float, draw: str) -> None:
    uniform = np.random.default_rng(0).uniform(size=20_000)
    excess = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
    tail = fit_tail(5 + excess)
    assert tail is not None
    assert tail.shape == pytest.approx(shape, abs=0.06)
    truth = -math.log(1e-3) if shape == 0 else (1e-3**-shape - 1) / shape
    assert tail.quantile(1e-3) == pytest.approx(5 + truth, rel=0.1)


def test_few_images_are_extrapolated_and_say_so() -> None:
    rng = np.random.default_rng(1)
    alarms, lengths = [], []
    for _ in range(400):
        scores = rng.gamma(4, size=50)
        fitted = calibration(scores.tolist(), 0.005)
        assert not fitted.is_guaranteed
        assert fitted.tail is not None
        assert fitted.threshold >= scores.max()
        alarms.append(np.mean(rng.gamma(4, size=1000) > fitted.threshold))
        lengths.append(np.mean(rng.gamma(4, size=1000) > scores.max()))
    assert np.mean(alarms) < 0.015  # the largest of 50 alone: 2 %
    assert np.mean(lengths) == pytest.approx(1 / 51, abs=0.006)
    low, high = fitted.interval() or (0, 0)
    assert low < fitted.threshold < high
    assert interval(scores, 0.005) == (low, high)  # seeded


def test_without_a_tail_there_is_no_interval() -> None:
    assert calibration([1.0] * 60, 0.01).interval() is None  # all equal
    assert calibration([1.0, 2.0], 0.01).interval() is None
    assert calibration(list(range(99)), 0.01).interval() is None  # not needed


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.05, 0.2]))
def test_benjamini_hochberg_is_the_literal_procedure(p_values: list[float], rate: float) -> None:
    ordered = sorted(p_values)
    passing = [k for k, p in enumerate(ordered, 1) if p <= rate * k / len(ordered) + 1e-12]
    count = max(passing, default=0)
    rejected = benjamini_hochberg(p_values, rate)
    assert rejected.sum() == count
    assert sorted(np.array(p_values)[rejected].tolist()) == ordered[:count]


def test_a_batch_keeps_the_false_discovery_rate() -> None:
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(300):
        fitted = calibration(rng.standard_normal(200).tolist())
        good, bad = rng.standard_normal(80), 3 + rng.standard_normal(20)
        cut = fitted.batch_threshold([*good, *bad], 0.2)
        alarms, found = (good > cut).sum(), (bad > cut).sum()
        shares.append(alarms / max(alarms + found, 1))
    assert 0.1 < np.mean(shares) <= 0.2
    assert math.isinf(calibration([1, 2, 3]).batch_threshold([0.5, 9.0], 0.1))  # four p-values at best say nothing


def test_labelled_defects_choose_the_threshold() -> None:
    good, bad = np.array([1.0, 2, 3, 6]), np.array([5.0, 7, 8])
    best, reason = choose_threshold(good, bad, None)
    assert 3 < best < 5
    assert "0.857" in reason
    assert 6 < choose_threshold(good, bad, 0.5)[0] < 7  # a missed defect is cheap
    assert 3 < choose_threshold(good, bad, 100)[0] < 5
    fitted = calibration(good.tolist()).choose(bad.tolist())
    assert fitted.threshold == best
    assert fitted.map_threshold == calibration(good.tolist()).map_threshold
    assert not fitted.is_guaranteed
    assert fitted.at_rate(0.5).threshold == 3
    with pytest.raises(OptionError, match="cost_ratio"):
        choose_threshold(good, bad, 0)
    with pytest.raises(OptionError, match="defective"):
        choose_threshold(good, np.array([]), None)


def test_scores_come_and_go_with_their_images() -> None:
    fitted = calibration([1, 2, 3])
    assert fitted.without(["1.png"]).scores.tolist() == [1, 3]
    assert fitted.without(["1.png"]).images == ("0.png", "2.png")
    joined = fitted.joined(calibration([4], 0.3))
    assert joined.scores.tolist() == [1, 2, 3, 4]
    assert joined.false_alarm_rate == fitted.false_alarm_rate
    tensors, values = joined.state()
    again = Calibration.of(tensors, values)
    assert again.images == joined.images
    assert again.threshold == joined.threshold


def test_folds_keep_turned_images_together() -> None:
    turned = [False, True, True] * 7
    folds = folds_of(turned, 0)
    assert sorted(i for fold in folds for i in fold) == list(range(21))
    images = [{i // 3 for i in fold} for fold in folds]
    assert sum(map(len, images)) == 7
    assert len(folds) == 5
    assert len(folds_of([False] * 3, 0)) == 3
    assert folds_of([False] * 9, 1) == folds_of([False] * 9, 1) != folds_of([False] * 9, 2)


@pytest.mark.parametrize("rate", [0, 1, -1, 5])
def test_rates_outside_0_1(rate: float) -> None:
    with pytest.raises(OptionError, match="false_alarm_rate"):
        calibration([1.0], rate)


def test_leave_one_out_scores_are_corrected_by_held_out_ones() -> None:
    fitted = calibration([2.0, 4, 6, 8])
    apart = Calibration(np.array([1.8, 7.2]), np.array([1.0, 4.0]), 0.1, images=("0.png", "3.png"))
    corrected = fitted.corrected(apart)
    assert corrected.scores.tolist() == pytest.approx([1.8, 3.6, 5.4, 7.2])
    assert corrected.peaks.tolist() == pytest.approx([1, 2, 3, 4])
    assert fitted.corrected(calibration([])) is fitted


def test_the_spread_of_leave_one_out_scores_is_corrected() -> None:
    """The line in logarithms, literally: through the means, by the ratio of the spreads with half a standard error."""
    rng = np.random.default_rng(3)
    alone = np.exp(3 + 0.1 * rng.standard_normal(200))
    some = rng.permutation(200)[:40]
    new = 1.6 * alone[some] ** 0.6 * np.exp(0.02 * rng.standard_normal(40))
    found = calibration(alone.tolist()).corrected(
        Calibration(new, new, 0.1, images=tuple(f"{i}.png" for i in some.tolist()))
    )
    x, y = [math.log(alone[i]) for i in some], [math.log(score) for score in new]
    slope = statistics.pstdev(y) / statistics.pstdev(x) * math.exp(0.5 / math.sqrt(39))
    level = statistics.mean(y) - slope * statistics.mean(x)
    assert 0.6 < slope < 0.8
    assert found.scores.tolist() == pytest.approx([math.exp(level + slope * math.log(s)) for s in alone])
    assert found.threshold < calibration(alone.tolist()).threshold * np.median(new / alone[some])
    flat = calibration([1.0, 2, 4]).corrected(
        dataclasses.replace(calibration([2.0] * 3), images=("0.png", "1.png", "2.png"))
    )
    assert flat.scores.tolist() == pytest.approx([2**0.5, 2, 8**0.5])  # three images do not say that all score alike
    below = calibration([-1.0, 2, 4]).corrected(calibration([-0.5, 1, 2]))
    assert below.scores.tolist() == [-0.5, 1, 2]  # without logarithms, the factor alone


def test_cells_of_maps_stay_for_a_correction_of_their_mean() -> None:
    cells = np.random.default_rng(4).random((30, 3, 3)).astype(np.float32)
    peaks = cells.max(axis=(1, 2)).astype(np.float64)
    names = tuple(f"{i}.png" for i in range(30))
    fitted = Calibration(peaks, peaks, 0.1, images=names, cells=cells)
    apart = Calibration(peaks[:10] / 2, peaks[:10] / 2, 0.1, images=names[:10], cells=cells[:10] / 2)
    found = fitted.corrected(apart)
    assert found.peaks.max() < fitted.peaks.max()
    assert found.cells is cells
    assert found.apart is apart
    some = found.without(["1.png"]).in_order(names[::-1])
    assert np.array_equal(some.cells, np.delete(cells, 1, 0)[::-1])  # type: ignore[arg-type]
    assert some.apart is apart


# ---- several pictures of one part ------------------------------------------------------------------------------------

GROUPED = st.lists(
    st.lists(st.floats(0, 1e6) | st.sampled_from([1.0, 2.0]), min_size=1, max_size=4), min_size=2, max_size=20
)


def of_parts(parts: list[list[float]], rate: float) -> Calibration:
    scores = np.array([score for part in parts for score in part])
    groups = tuple(f"part {i}" for i, part in enumerate(parts) for _ in part)
    return Calibration(scores, scores, rate, images=tuple(map(str, range(len(scores)))), groups=groups)


@given(GROUPED, RATES)
def test_coverage_on_exchangeable_parts(parts: list[list[float]], rate: float) -> None:
    """The guarantee counts parts: of k + 1 exchangeable parts each is as likely to be the new one, and one of its
    pictures is taken at random."""
    alarms = rejected = 0.0
    for i, new in enumerate(parts):
        others = of_parts(parts[:i] + parts[i + 1 :], rate)
        rejected += float(np.mean([others.p_value(score) <= rate + 1e-12 for score in new]))
        if others.is_guaranteed:
            alarms += float(np.mean([score > others.threshold for score in new]))
    assert alarms <= rate * len(parts) + 1e-6
    assert rejected <= rate * len(parts) + 1e-6


@settings(deadline=None)  # intervals take hundreds of resamplings
@given(SCORES, RATES)
def test_parts_with_one_picture_are_images(scores: list[float], rate: float) -> None:
    alone, grouped = calibration(scores, rate), of_parts([[score] for score in scores], rate)
    assert grouped.threshold == alone.threshold
    assert grouped.is_guaranteed == alone.is_guaranteed
    assert grouped.p_value(scores[0]) == pytest.approx(alone.p_value(scores[0]))
    assert (grouped.interval() is None) == (alone.interval() is None)


def test_the_guarantee_counts_parts() -> None:
    many = of_parts([[float(i)] * 10 for i in range(8)], 0.1)  # 80 pictures of 8 parts
    assert not many.is_guaranteed
    assert many.no_guarantee == "that takes at least 9 parts"
    assert of_parts([[float(i)] * 10 for i in range(9)], 0.1).is_guaranteed
    found = dataclasses.replace(many, groups=tuple(f"like {group}" for group in many.groups), false_alarm_rate=0.5)
    assert "nobody named the parts" in found.no_guarantee


def test_groups_go_through_the_model_file_and_stay_with_their_scores() -> None:
    fitted = of_parts([[1.0, 2.0], [3.0], [4.0, 5.0]], 0.5)
    tensors, values = fitted.state()
    again = Calibration.of(tensors, values)
    assert again.groups == fitted.groups
    assert again.without({"1", "2"}).groups == ("part 0", "part 2", "part 2")
    assert again.joined(calibration([9.0], 0.5)).groups == (*fitted.groups, "")
    assert again.joined(calibration([9.0], 0.5)).parts == 4


def test_the_tail_of_weighted_scores_is_that_of_the_parts() -> None:
    scores = np.random.default_rng(0).exponential(size=200)
    once = fit_tail(scores)
    twice = fit_tail(np.repeat(scores, 2), np.full(400, 0.5))
    assert once is not None
    assert twice is not None
    assert twice.quantile(0.001) == pytest.approx(once.quantile(0.001), rel=0.02)
