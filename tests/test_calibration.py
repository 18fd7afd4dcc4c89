"""Thresholds and p-values from good parts alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank.calibration import Calibration, upper_quantile
from patchbank.errors import OptionError


def calibration(scores: list[float], rate: float = 0.1) -> Calibration:
    return Calibration(np.array(scores), np.array(scores), rate)


def test_the_quantile_is_the_conformal_one() -> None:
    scores = np.arange(1.0, 100.0)  # n = 99: the 99th smallest for 1 %, the 90th for 10 %
    assert upper_quantile(scores, 0.01) == 99
    assert upper_quantile(scores, 0.1) == 90
    assert upper_quantile(scores[:50], 0.01) == 50  # too few: the largest
    assert upper_quantile(np.array([np.inf, 3.0]), 0.5) == 3
    assert upper_quantile(np.array([np.inf]), 0.5) == math.inf


def test_p_values() -> None:
    fitted = calibration([1, 2, 3, 4])
    assert [fitted.p_value(s) for s in (0, 2.5, 4, 5)] == [1.0, 0.6, 0.4, 0.2]
    assert not fitted.is_guaranteed
    assert calibration(list(range(9))).is_guaranteed


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 1e6), st.sampled_from([0.05, 0.1, 0.5]))
def test_decision_and_p_value_agree(scores: list[float], score: float, rate: float) -> None:
    fitted = calibration(scores, rate)
    if fitted.is_guaranteed and score > fitted.threshold:
        assert fitted.p_value(score) <= rate + 1e-9


def test_the_false_alarm_rate_is_kept_on_exchangeable_scores() -> None:
    rng = np.random.default_rng(0)
    alarms = [rng.standard_normal() > upper_quantile(rng.standard_normal(99), 0.05) for _ in range(4000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("rate", [0, 1, -1, 5])
def test_rates_outside_0_1(rate: float) -> None:
    with pytest.raises(OptionError, match="false_alarm_rate"):
        calibration([1.0], rate)
