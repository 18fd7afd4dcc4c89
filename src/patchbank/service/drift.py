"""Whether what comes in still looks like what the threshold was set from."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAST = 200  # scores that are compared with the calibration's
_LEAST = 30  # of either: fewer say nothing
_LEAST_OF_DAY = 15  # scores that a day's median is taken seriously of
_CHANCE = 0.001  # of a warning where nothing changed
_DISTANCE = 0.2  # less is not worth a warning, however certain: a few percent of defective parts move the scores too


def quantiles(scores: Sequence[float] | NDArray[np.floating]) -> dict[str, Any]:
    """How the scores spread."""
    given = np.asarray(scores, float)
    finite = given[np.isfinite(given)]
    names = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
    values = np.quantile(finite, list(names.values())).tolist() if len(finite) else [None] * len(names)
    return {"count": len(scores), **dict(zip(names, values, strict=True))}


def by_day(rows: Iterable[tuple[str, float, int]]) -> list[dict[str, Any]]:
    """Quantiles of each day's scores; `rows` (day, score, whether rejected), sorted by day, of which one day's scores
    are held at a time."""
    days = []
    for day, group in groupby(rows, key=lambda row: row[0]):
        scores, rejected = array("d"), 0
        for _, score, is_anomalous in group:
            scores.append(score)
            rejected += is_anomalous
        days.append({"day": day, "rejected": rejected, **quantiles(scores)})
    return days


def day_warning(days: Sequence[dict[str, Any]], calibration: dict[str, Any]) -> str | None:
    """A sentence where the newest day with enough scores has its median outside the middle 90 % of the calibration's;
    both as quantiles. Where little is inspected `compare` still looks at weeks then."""
    day = next((day for day in reversed(days) if day["count"] >= _LEAST_OF_DAY), None)
    low, high = calibration["q05"], calibration["q95"]
    if day is None or calibration["count"] < _LEAST_OF_DAY or None in (day["q50"], low, high):
        return None
    if low <= day["q50"] <= high:
        return None
    return (
        f"the scores of {day['day']} are {'high' if day['q50'] > high else 'low'}: their median is {day['q50']:.4g}, "
        f"while 90 % of the calibration's good parts lie between {low:.4g} and {high:.4g}; look at light, lens and "
        "recent images"
    )


def kolmogorov_smirnov(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The largest distance between two empirical distributions, and the probability of so large a one between samples
    of one distribution (asymptotic, with Stephens' correction; ties make it too large, never too small)."""
    first, second = np.sort(a), np.sort(b)
    both = np.concatenate([first, second])
    distance = float(np.abs(
        np.searchsorted(first, both, side="right") / len(first)
        - np.searchsorted(second, both, side="right") / len(second)
    ).max())  # fmt: skip
    effective = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    scaled = (effective + 0.12 + 0.11 / effective) * distance
    if scaled < 0.2:
        return distance, 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return distance, min(1.0, max(0.0, 2 * math.fsum(terms)))


def compare(last: Sequence[float], calibration: Sequence[float]) -> dict[str, Any]:
    """`distance`, `p_value` and `warning`, a sentence or None, of the last scores against those of the calibration.

    The distance is that of the conformal p-values of the last images from a uniform distribution, as far as the
    calibration resolves it; the test takes into account that both are samples.
    """
    known = [score for score in calibration if math.isfinite(score)]
    if min(len(last), len(known)) < _LEAST:
        return {"distance": None, "p_value": None, "warning": None}
    distance, p_value = kolmogorov_smirnov(last, known)
    warning = None
    if p_value < _CHANCE and distance >= _DISTANCE:
        higher = np.median(last) >= np.median(known)
        warning = (
            f"the last {len(last)} scores are {'higher' if higher else 'lower'} than those the threshold was set from "
            f"(medians {np.median(last):.4g} and {np.median(known):.4g}): light, camera or parts have changed; look at "
            "recent images, then add good ones to the model or fit it anew"
        )
    return {"distance": distance, "p_value": p_value, "warning": warning}
