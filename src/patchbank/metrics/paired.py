"""Whether two methods differ on the same images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Difference(NamedTuple):
    """First minus second, its 95 % interval, and the two-sided p-value of there being none; interval and p-value are
    None where the images cannot tell."""

    value: float
    interval: tuple[float, float] | None
    p_value: float | None


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Difference:
    """The difference of two image AUROCs on the same images (DeLong, DeLong and Clarke-Pearson, 1988).

    `labels`: N bools, True = anomalous, with two of each kind at least; `first`, `second`: N scores each. Its error is
    estimated from how the share of the other kind that an image wins against varies over the images. Where it does
    not vary at all for a difference that is not 0, there is no estimate.
    """
    is_anomalous = np.asarray(labels, dtype=np.bool_)
    n_bad, n_good = np.count_nonzero(is_anomalous), np.count_nonzero(~is_anomalous)
    if min(n_bad, n_good) < 2:
        raise ValueError("DeLong's test takes at least two nominal and two anomalous images")
    bad, good = (a - b for a, b in zip(placements(is_anomalous, first), placements(is_anomalous, second), strict=True))
    value = float(bad.mean())
    error = math.sqrt(bad.var(ddof=1) / n_bad + good.var(ddof=1) / n_good)
    if error < 1e-12:
        return Difference(value, *(((0.0, 0.0), 1.0) if abs(value) < 1e-12 else (None, None)))
    p_value = math.erfc(abs(value) / error / math.sqrt(2))
    return Difference(value, (value - 1.959964 * error, value + 1.959964 * error), p_value)


def mcnemar(first: ArrayLike, second: ArrayLike) -> Difference:
    """The difference of two shares over the same images, such as of parts rejected (McNemar's test, exact).

    `first`, `second`: N bools each. The interval is the normal one for paired shares.
    """
    a, b = np.asarray(first, dtype=np.bool_), np.asarray(second, dtype=np.bool_)
    only_a, only_b, count = int(np.sum(a & ~b)), int(np.sum(b & ~a)), a.size
    value = (only_a - only_b) / count
    error = math.sqrt(max(only_a + only_b - (only_a - only_b) ** 2 / count, 0.0)) / count
    discordant = only_a + only_b
    tail = math.fsum(_half_binomial(k, discordant) for k in range(min(only_a, only_b) + 1))
    return Difference(value, (value - 1.959964 * error, value + 1.959964 * error), min(1.0, 2 * tail))


def _half_binomial(k: int, n: int) -> float:
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_ways - n * math.log(2))


def placements(is_anomalous: NDArray[np.bool_], scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each anomalous image the share of nominal ones that it outscores, and for each nominal image the share of
    anomalous ones that outscore it; a tie is half."""
    values = np.asarray(scores, dtype=np.float64)
    bad, good = values[is_anomalous], values[~is_anomalous]
    return _below(good, bad), 1 - _below(bad, good)


def _below(others: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    ranked = np.sort(others)
    sides = (np.searchsorted(ranked, values, side="left"), np.searchsorted(ranked, values, side="right"))
    below: NDArray[np.float64] = (sides[0] + sides[1]) / (2 * others.size)
    return below
