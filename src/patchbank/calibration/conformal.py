"""Thresholds from scores: conformal quantiles, extrapolated tails, labelled defects, and decisions on batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchbank._system.numbers import is_finite
from patchbank.errors import OptionError

LEAST_RATE = 1e-12
_TAIL_SHARE, _TAIL_LEAST = 0.25, 10  # the tail is fitted to this share of the scores, but to so many at least
_SHAPES = (-0.5, 0.5)  # few exceedances say little of the shape: within these it has a variance and a bounded error
_RESAMPLES, _LEVEL = 400, 0.9


def threshold(scores: NDArray[np.float64], rate: float, weights: NDArray[np.float64] | None = None) -> float:
    """The smallest score that a share 1 − rate of n + 1 parts does not exceed: without `weights` the
    ⌈(n + 1)(1 − rate)⌉-th smallest of n. Where n is too small for that, the extrapolated quantile, but not less than
    the largest score; +inf for no scores."""
    finite, weight = _sorted(scores, weights)
    if len(finite) == 0:
        return math.inf
    below = np.cumsum(weight)
    reached = np.flatnonzero(below >= (below[-1] + 1) * (1 - rate) - 1e-9)  # 1e-9: it may be whole but for rounding
    if len(reached):
        return float(finite[reached[0]])
    tail = fit_tail(finite, weight)
    return float(finite[-1]) if tail is None else max(float(finite[-1]), tail.quantile(rate))


def _sorted(
    scores: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite scores in rising order, and the weight of each (by default 1)."""
    known = np.isfinite(scores)
    finite, weight = scores[known], np.ones(len(scores))[known] if weights is None else weights[known]
    order = np.argsort(finite, kind="stable")
    return finite[order], weight[order]


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of what the scores exceed `start` by: P(S > s) = `share` · (1 + shape · (s −
    start)/scale)^(−1/shape)."""

    start: float
    share: float
    shape: float
    scale: float

    def quantile(self, rate: float) -> float:
        """The score that a share `rate` of nominal images exceeds."""
        ratio = math.log(self.share / rate)
        grown = ratio if abs(self.shape) < 1e-6 else math.expm1(self.shape * ratio) / self.shape
        return self.start + self.scale * grown


def fit_tail(scores: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> Tail | None:
    """The tail of the scores of n parts by probability-weighted moments (Hosking and Wallis, 1987); None for fewer than
    20 parts, or where the largest scores are all equal. `weights`: of the scores, n in all; by default 1 each."""
    finite, weight = _sorted(scores, weights)
    parts = float(weight.sum())
    if parts < 2 * _TAIL_LEAST - 1e-9:
        return None
    wanted = max(_TAIL_LEAST, round(_TAIL_SHARE * parts))
    count = int(np.searchsorted(np.cumsum(weight[::-1]), wanted - 1e-9)) + 1
    if count >= len(finite):
        return None
    start, share = finite[-count - 1], weight[-count:]
    exceedances, within = finite[-count:] - start, float(share.sum())
    mean = float((share * exceedances).sum()) / within
    above = 1 - (np.cumsum(share) - 0.35 * share) / within
    weighted = float((share * above * exceedances).sum()) / within
    if mean <= 0 or mean - 2 * weighted <= 0:
        return None
    shape = float(np.clip(2 - mean / (mean - 2 * weighted), *_SHAPES))
    return Tail(float(start), within / parts, shape, mean * (1 - shape))


def interval(
    scores: NDArray[np.float64], rate: float, seed: int = 0, groups: Sequence[str] = ()
) -> tuple[float, float]:
    """The middle 90 % of thresholds of parts drawn again with replacement, each with all its scores."""
    rng, known = np.random.default_rng(seed), np.isfinite(scores)
    finite = scores[known]
    if groups:
        labels = [group or f"\0{i}" for i, group in enumerate(groups)]
        _, part = np.unique(np.asarray(labels)[known], return_inverse=True)
        members = [np.flatnonzero(part == i) for i in range(part.max() + 1)]
    drawn = []
    for _ in range(_RESAMPLES):
        if groups:
            again = [members[i] for i in rng.choice(len(members), len(members))]
            weights = np.concatenate([np.full(len(m), 1 / len(m)) for m in again])
            drawn.append(threshold(finite[np.concatenate(again)], rate, weights))
        else:
            drawn.append(threshold(rng.choice(finite, len(finite)), rate))
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def choose_threshold(
    good: NDArray[np.float64], defective: NDArray[np.float64], cost: float | None
) -> tuple[float, str]:
    """The threshold between two scores with the highest F1, or the least cost, and that in words."""
    if cost is not None and not (is_finite(cost) and cost > 0):
        raise OptionError(f"cost_ratio must be positive (the price of a missed defect in false alarms), not {cost}")
    good, defective = good[np.isfinite(good)], defective[np.isfinite(defective)]
    if not len(good) or not len(defective):
        raise OptionError("choosing a threshold by labels takes scores of good and of defective images")
    levels = np.unique(np.concatenate([good, defective]))
    between = (levels[1:] + levels[:-1]) / 2
    candidates = np.concatenate([[np.nextafter(levels[0], -np.inf)], between, levels[-1:]])
    found = len(defective) - np.searchsorted(np.sort(defective), candidates, side="right")
    alarms = len(good) - np.searchsorted(np.sort(good), candidates, side="right")
    if cost is None:
        f1 = 2 * found / (len(defective) + found + alarms)
        best = int(np.flatnonzero(f1 == f1.max())[-1])
        return float(candidates[best]), f"highest F1 ({f1[best]:.3f}) on {len(defective)} labelled defects"
    price = cost * (len(defective) - found) + alarms
    best = int(np.flatnonzero(price == price.min())[-1])
    return float(candidates[best]), (
        f"least cost on {len(defective)} labelled defects, a missed one priced as {cost:g} false alarms"
    )


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> NDArray[np.bool_]:
    """Which of m p-values to reject so that the expected share of good parts among the rejected is at most `rate`
    (Benjamini and Hochberg, 1995; for conformal p-values Bates et al., 2023)."""
    check_rate(rate, "the false-discovery rate")
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    passes = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1) + 1e-12)
    rejected = np.zeros(len(p), dtype=bool)
    if len(passes):
        rejected[order[: passes[-1] + 1]] = True
    return rejected


def check_rate(rate: float, name: str = "false_alarm_rate") -> None:
    """Raise `OptionError` for a rate outside (0, 1), or so small that no number of images could ever show it."""
    if not (is_finite(rate) and LEAST_RATE <= rate < 1):
        raise OptionError(f"{name} must lie in (0, 1), such as 0.01 for 1 %, not {rate}")
