"""How far a number could be from what other test images of the same kind would give: bootstrap over images.

Good and defective images are drawn with replacement, each kind as often as it is there (stratified), from a seed. A
draw is a vector of N weights: how often each image was drawn. Two methods on the same images share the draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchbank.metrics.image import last_of_ties
from patchbank.metrics.paired import placements

RESAMPLES = 1000
LEVEL = 0.95
MIDDLE = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_CHUNK = 100

Weights = NDArray[np.float32]  # C×N
Interval = tuple[float, float]


def draws(is_defective: NDArray[np.bool_], seed: int = 0, resamples: int = RESAMPLES) -> Iterator[Weights]:
    """`resamples` draws of N images in chunks C×N, so that memory stays small."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        weights = np.zeros((count, is_defective.size), np.float32)
        for kind in (is_defective, ~is_defective):
            if size := int(np.count_nonzero(kind)):
                weights[:, kind] = rng.multinomial(size, np.full(size, 1 / size), size=count)
        yield weights


def weighted_auroc(weights: Weights, is_defective: NDArray[np.bool_], scores: ArrayLike) -> NDArray[np.float64]:
    """C image AUROCs, of N images with C×N weights."""
    found, alarms = _ranked(weights, is_defective, scores)
    x, y = (np.pad(each, ((0, 0), (1, 0))) / each[:, -1:] for each in (alarms, found))
    doubled: NDArray[np.float64] = np.sum(np.diff(x) * (y[:, 1:] + y[:, :-1]), axis=1)
    return doubled / 2


def weighted_ap(weights: Weights, is_defective: NDArray[np.bool_], scores: ArrayLike) -> NDArray[np.float64]:
    """C image average precisions, of N images with C×N weights."""
    found, alarms = _ranked(weights, is_defective, scores)
    new = np.diff(found, prepend=0)
    total: NDArray[np.float64] = np.sum(new * found / np.maximum(found + alarms, 1), axis=1)
    return total / found[:, -1]


def auroc_interval(labels: ArrayLike, scores: ArrayLike, seed: int = 0) -> Interval:
    """95 % interval of the image AUROC: bias-corrected and accelerated (Efron, 1987), as plain percentiles of an AUROC
    near 1 hold the truth too seldom.

    Where the kinds are apart without exception, every draw gives the same: then the limit is that of min(n good, n
    defective) pairs of which none shares an image and all are won, (1 − level) / 2 to the power of 1 / pairs
    (Clopper and Pearson), which is exact and careful.
    """
    is_defective, values = np.asarray(labels, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    bad, good = placements(is_defective, values)
    value, pairs = float(bad.mean()), min(bad.size, good.size)
    if value in (0, 1):
        limit = float(((1 - LEVEL) / 2) ** (1 / pairs))
        return (limit, 1.0) if value == 1 else (0.0, 1 - limit)
    drawn = np.concatenate([weighted_auroc(w, is_defective, values) for w in draws(is_defective, seed)])
    return percentiles(drawn, levels=_bca_levels(drawn, value, bad - value, good - value))


def percentiles(drawn: NDArray[np.float64], shift: float = 0.0, levels: Interval = MIDDLE) -> Interval:
    """The middle 95 % of drawn values (or what lies between other `levels`), moved by `shift`, within 0 to 1."""
    low, high = np.quantile(drawn, levels)
    return float(np.clip(low + shift, 0, 1)), float(np.clip(high + shift, 0, 1))


def difference_interval(drawn: NDArray[np.float64], shift: float = 0.0) -> tuple[Interval, float]:
    """The middle 95 % of drawn differences, moved by `shift`; and the two-sided p-value of no difference.

    That is twice the share of draws on the other side of 0. Where none is, the number of draws is all that it would
    show: then the normal tail beyond 0 with the error of the draws.
    """
    moved = np.asarray(drawn) + shift
    low, high = np.quantile(moved, MIDDLE)
    tail = min(np.count_nonzero(moved <= 0), np.count_nonzero(moved >= 0))
    p_value = min(1.0, 2 * (tail + 1) / (moved.size + 1))
    if tail == 0 and (error := float(moved.std())) > 0:
        p_value = min(p_value, math.erfc(abs(float(moved.mean())) / error / math.sqrt(2)))
    return (float(low), float(high)), p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm, 1979): reject those at most the level, and in at most that share of
    all such tables is any rejected wrongly."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * (p.size - np.arange(p.size))))
    corrected = np.empty_like(p)
    corrected[order] = stepped
    return [float(each) for each in corrected]


def _bca_levels(drawn: NDArray[np.float64], value: float, *influences: NDArray[np.float64]) -> Interval:
    """The levels to take of the drawn values in place of `MIDDLE`: shifted by how far the value is from their median,
    and by how the error changes with it, seen in the influence of each image (one vector for each kind)."""
    influence = np.concatenate([each / each.size for each in influences])
    spread = float(np.sum(influence**2))
    if spread < 1e-24:
        return MIDDLE
    acceleration = float(np.sum(influence**3)) / 6 / spread**1.5
    normal = NormalDist()
    below = float(np.mean(drawn < value) + np.mean(drawn == value) / 2)
    bias = normal.inv_cdf(min(max(below, 1 / drawn.size), 1 - 1 / drawn.size))
    moved = [bias + normal.inv_cdf(level) for level in MIDDLE]
    low, high = (normal.cdf(bias + each / (1 - acceleration * each)) for each in moved)
    return low, high


def _ranked(
    weights: Weights, is_defective: NDArray[np.bool_], scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of defective and of good images at or above each distinct score, falling: both C×K."""
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(values)[::-1]
    last = last_of_ties(values[order])
    ordered, defective = weights[:, order], is_defective[order]
    found = np.cumsum(ordered * defective, axis=1, dtype=np.float64)[:, last]
    return found, np.cumsum(ordered * ~defective, axis=1, dtype=np.float64)[:, last]
