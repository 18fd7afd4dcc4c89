"""Whether what comes in still looks like what the threshold was set from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

LAST = 200  # scores that are compared with the calibration's
_LEAST = 30  # of either: fewer say nothing
_CHANCE = 0.001  # of a warning where nothing changed
_DISTANCE = 0.2  # less is not worth a warning, however certain: a few percent of defective parts move the scores too


def quantiles(scores: Sequence[float]) -> dict[str, Any]:
    """How the scores spread."""
    finite = [score for score in scores if math.isfinite(score)]
    names = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
    values = np.quantile(finite, list(names.values())).tolist() if finite else [None] * len(names)
    return {"count": len(scores), **dict(zip(names, values, strict=True))}


def by_day(rows: Iterable[tuple[str, float, int]]) -> list[dict[str, Any]]:
    """Quantiles of each day's scores; `rows` (day, score, whether rejected), sorted by day."""
    days = []
    for day, group in groupby(rows, key=lambda row: row[0]):
        listed = list(group)
        days.append({"day": day, "rejected": sum(row[2] for row in listed), **quantiles([row[1] for row in listed])})
    return days


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
