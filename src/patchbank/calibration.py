"""Thresholds and p-values from the scores of good parts alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import OptionError


@dataclass(frozen=True)
class Calibration:
    """Scores and map peaks of nominal images that were not compared with themselves, both float64, one per image.

    Split-conformal: for a new nominal image exchangeable with these n, P(score > threshold) ≤ `false_alarm_rate`
    wherever n ≥ 1/rate − 1; with fewer images the threshold is their maximum, and `is_guaranteed` is False.
    """

    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    false_alarm_rate: float

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)

    @property
    def is_guaranteed(self) -> bool:
        return len(self.scores) >= 1 / self.false_alarm_rate - 1

    @property
    def threshold(self) -> float:
        """The image score above which an image is called anomalous."""
        return upper_quantile(self.scores, self.false_alarm_rate)

    @property
    def map_threshold(self) -> float:
        """The value of the map above which a region is drawn."""
        return upper_quantile(self.peaks, self.false_alarm_rate)

    def p_value(self, score: float) -> float:
        """(1 + #{calibration scores ≥ score}) / (n + 1)."""
        return (1 + int(np.count_nonzero(self.scores >= score))) / (len(self.scores) + 1)


def upper_quantile(scores: NDArray[np.float64], rate: float) -> float:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of n scores, or the largest where n is too small for that; +inf for none."""
    finite = np.sort(scores[np.isfinite(scores)])
    if len(finite) == 0:
        return math.inf
    rank = math.ceil((len(finite) + 1) * (1 - rate) - 1e-9)  # 1e-9: (n + 1)(1 − rate) may be whole but for rounding
    return float(finite[min(rank, len(finite)) - 1])


def check_rate(rate: float) -> None:
    """Raise `OptionError` for a false-alarm rate outside (0, 1)."""
    if not 0 < rate < 1:
        raise OptionError(f"false_alarm_rate must lie in (0, 1), such as 0.01 for 1 %, not {rate}")
