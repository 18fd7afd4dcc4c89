"""Image-level metrics: how well one raw score per image separates anomalous images from nominal ones.

`labels` is a bool array of N images, True = anomalous; `scores` has N raw scores, larger = stranger, ±inf
allowed. Every function starts from one sort of the scores in falling order and groups equal scores, so that
no number depends on the order in which tied images come. All raise `ValueError` for labels that are not bool,
lengths that differ, a NaN score, or images of one kind only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


class F1Max(NamedTuple):
    """The best F1 of any threshold; that threshold, a raw score (an image is called anomalous where
    score >= threshold); and the number of images that it puts on the wrong side."""

    f1: float
    threshold: float
    misclassified: int


class _Ranking(NamedTuple):
    """K distinct scores in falling order, and the number of images that score at least as high."""

    threshold: NDArray[np.float64]
    hits: NDArray[np.int64]  # anomalous images
    false_alarms: NDArray[np.int64]  # nominal images


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """(false-positive rate, true-positive rate): (0, 0), then a point per distinct score, up to (1, 1)."""
    _, hits, false_alarms = _rank(labels, scores)
    return _from_zero(false_alarms / false_alarms[-1]), _from_zero(hits / hits[-1])


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous image outscores a nominal one; a tie is half."""
    return trapezoid_area(*roc_curve(labels, scores))


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """(recall, precision), recall rising: (0, 1), as in scikit-learn, then a point per distinct score."""
    _, hits, false_alarms = _rank(labels, scores)
    return precision_recall(hits, false_alarms)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Σ (Rₖ - Rₖ₋₁) Pₖ, with recall R and precision P, not interpolated: scikit-learn's definition."""
    return step_area(*precision_recall_curve(labels, scores))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> F1Max:
    """The best F1 and its threshold; of thresholds with equal F1 the highest: it has fewest false alarms."""
    threshold, hits, false_alarms = _rank(labels, scores)
    called = hits + false_alarms
    f1 = 2 * hits / (called + hits[-1])  # 2 TP / (2 TP + FP + FN), where TP + FN = hits[-1]
    best = int(np.argmax(f1))  # the first of equals, and the thresholds fall
    wrong = false_alarms[best] + hits[-1] - hits[best]
    return F1Max(float(f1[best]), float(threshold[best]), int(wrong))


def last_of_ties(ranked: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Index of the last of each group of equal values in the sorted vector `ranked`, which is not empty."""
    # Compared, not subtracted: inf - inf is NaN, which would split a tie.
    return np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)


def precision_recall(hits: NDArray[np.int64], false_alarms: NDArray[np.int64]) -> Curve:
    """(recall, precision), K + 1 points, from the counts at K falling thresholds; the last finds all."""
    return _from_zero(hits / hits[-1]), np.concatenate([[1.0], hits / (hits + false_alarms)])


def trapezoid_area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Area under the straight lines that join the points (x, y), x not falling."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def step_area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Area under the steps from point to point (x, y), x not falling, each as high as its right end."""
    return float(np.sum(np.diff(x) * y[1:]))


def _rank(labels: ArrayLike, scores: ArrayLike) -> _Ranking:
    is_anomalous, values = _checked(labels, scores)
    order = np.argsort(values)[::-1]
    ranked = values[order]
    last = last_of_ties(ranked)
    hits = np.cumsum(is_anomalous[order], dtype=np.int64)[last]
    return _Ranking(ranked[last], hits, last + 1 - hits)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    flags, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if flags.ndim != 1 or flags.shape != values.shape:
        raise ValueError(f"labels {flags.shape} and scores {values.shape} must be two vectors of one length")
    if flags.size == 0:
        raise ValueError("no image was scored: the metric needs nominal and anomalous ones")
    if flags.dtype != np.bool_:
        raise ValueError(f"labels must be bool (True = anomalous), not {flags.dtype}")
    if np.isnan(values).any():
        raise ValueError(f"{np.count_nonzero(np.isnan(values))} of {values.size} scores are NaN")
    if flags.all() or not flags.any():
        kind = "anomalous" if flags[0] else "nominal"
        raise ValueError(f"every scored image is {kind}: the metric needs nominal and anomalous ones")
    return flags, values


def _from_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], values])
