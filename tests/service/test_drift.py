"""Drift against scipy, and what is worth a warning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchbank.service import drift
from tests.service.conftest import GOOD, Start, inspect


@pytest.mark.parametrize(("n", "m", "shift"), [(200, 200, 0.0), (200, 60, 0.3), (150, 700, 0.5), (30, 30, 3.0)])
def test_the_test_is_scipys(n: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(n + m)
    a, b = rng.normal(shift, 1, n), rng.normal(0, 1, m)
    distance, p_value = drift.kolmogorov_smirnov(a, b)
    expected = stats.ks_2samp(a, b, method="exact")
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.25, abs=1e-4)


def test_false_warnings_are_rare() -> None:
    rng = np.random.default_rng(0)
    warned = [drift.compare(rng.gamma(9, 1, 200), rng.gamma(9, 1, 100))["warning"] for _ in range(400)]
    assert sum(w is not None for w in warned) <= 3


def test_a_few_defects_are_no_drift_and_a_shift_is() -> None:
    rng = np.random.default_rng(1)
    calibration = rng.normal(10, 1, 400)
    few = np.concatenate([rng.normal(10, 1, 185), rng.normal(30, 1, 15)])
    assert drift.compare(few, calibration)["warning"] is None
    higher = drift.compare(rng.normal(11, 1, 200), calibration)["warning"]
    assert "higher" in higher
    assert "lower" in drift.compare(rng.normal(9, 1, 200), calibration)["warning"]
    assert drift.compare(rng.normal(99, 1, 29), calibration)["warning"] is None  # too few to say


def test_a_days_median_outside_the_calibration_is_worth_a_warning() -> None:
    calibration = {"count": 20, "q05": 1.0, "q95": 2.0}

    def warned(*days: tuple[int, float | None], **changes: object) -> str | None:
        listed = [{"day": f"2026-11-0{i}", "count": n, "q50": median} for i, (n, median) in enumerate(days, 1)]
        return drift.day_warning(listed, {**calibration, **changes})

    assert "the scores of 2026-11-02 are high: their median is 2.5" in str(warned((20, 1.5), (15, 2.5)))
    assert "2026-11-01 are low" in str(warned((15, 0.5), (14, 1.5)))  # the newest day with enough of them
    assert warned((99, 2.5), (15, 2.0)) is None
    assert warned((14, 2.5)) is None
    assert warned((15, 2.5), count=14) is None
    assert warned((15, None)) is None
    assert warned() is None


def test_quantiles_are_numpys() -> None:
    scores = np.random.default_rng(2).normal(size=77).tolist()
    found = drift.quantiles(scores)
    assert [found[k] for k in ("q05", "q25", "q50", "q75", "q95")] == np.quantile(
        scores, [0.05, 0.25, 0.5, 0.75, 0.95]
    ).tolist()
    assert drift.quantiles([])["q50"] is None


def test_the_api_shows_days_and_the_last_scores(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start()
    scores = [inspect(one, GOOD)["score"] for _ in range(3)]
    found = one.get("/v1/models/parts/drift").json()
    (day,) = found["days"]
    assert (day["count"], day["q50"]) == (3, pytest.approx(scores[0]))
    assert found["last"]["count"] == 3
    assert found["calibration"]["count"] == 8
    assert found["warning"] is None
    one.app.state.service.history._transact([("UPDATE inspections SET score = 1e6", ())])  # type: ignore[attr-defined]
    monkeypatch.setattr(drift, "_LEAST_OF_DAY", 3)
    again = one.get("/v1/models/parts/drift").json()
    assert again["p_value"] is None
    assert "are high: their median is 1e+06" in again["warning"]
    assert one.get("/v1/models/parts/drift", params={"days": 0}).status_code == 422
