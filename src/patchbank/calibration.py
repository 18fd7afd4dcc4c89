"""Thresholds, p-values and decisions on batches, from the scores of good parts alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import OptionError
from patchbank.numbers import is_finite

if TYPE_CHECKING:  # an exported model decides without torch
    from torch import Tensor

CORRECTED = "corrected leave-one-out"
WAYS = ("auto", "leave-one-out", CORRECTED, "held-out", "k-fold")
FOLDS = 5  # of k-fold; held-out keeps one such part for the calibration, the correction is measured on one
WELL_RESOLVED = 5  # scores above the threshold, so that it does not hang on the largest one
LEAST_CORRECTED = 20  # images; the fifth of fewer says little
LEAST_RATE = 1e-12
_TAIL_SHARE, _TAIL_LEAST = 0.25, 10  # the tail is fitted to this share of the scores, but to so many at least
_SHAPES = (-0.5, 0.5)  # few exceedances say little of the shape: within these it has a variance and a bounded error
_RESAMPLES, _LEVEL = 400, 0.9


@dataclass(frozen=True)
class Calibration:
    """Scores and map peaks of nominal images that were not compared with themselves, both float64, one per image.

    Split-conformal (Vovk et al.; Bates et al., "Testing for Outliers with Conformal p-values", 2023): for a new nominal
    image exchangeable with these n, P(score > threshold) ≤ `false_alarm_rate` wherever n ≥ 1/rate − 1. With fewer
    images the tail is extrapolated (`Tail`), and `is_guaranteed` is False.

    `how`: where the scores come from, one of `WAYS` or in words; `images`: the names they belong to; `chosen`: a
    threshold that was chosen by labelled defects, in place of the one from the rate, and `chosen_by` how.
    """

    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    false_alarm_rate: float
    how: str = "leave-one-out"
    images: tuple[str, ...] = ()
    chosen: float | None = None
    chosen_by: str = ""

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def is_guaranteed(self) -> bool:
        """Whether there are enough images for the rate (a chosen threshold promises nothing)."""
        return self.chosen is None and bool(np.isfinite(self.scores).sum() >= 1 / self.false_alarm_rate - 1 - 1e-9)

    @cached_property
    def threshold(self) -> float:
        """The image score above which an image is called anomalous."""
        return threshold(self.scores, self.false_alarm_rate) if self.chosen is None else self.chosen

    @cached_property
    def map_threshold(self) -> float:
        """The value of the map above which a region is drawn: at most the rate of good images has one."""
        return threshold(self.peaks, self.false_alarm_rate)

    @cached_property
    def tail(self) -> Tail | None:
        """What the threshold was extrapolated with; None where it was not."""
        return None if self.is_guaranteed or self.chosen is not None else fit_tail(self.scores)

    def interval(self) -> tuple[float, float] | None:
        """Where the extrapolated threshold lies for 90 % of resamplings of the scores; None where it is none."""
        return interval(self.scores, self.false_alarm_rate) if self.tail else None

    def p_value(self, score: float) -> float:
        """(1 + #{calibration scores ≥ score}) / (n + 1)."""
        return (1 + int(np.count_nonzero(self.scores >= score))) / (len(self.scores) + 1)

    def batch_threshold(self, scores: Sequence[float], rate: float) -> float:
        """The threshold for a batch of images with these scores, of whose rejected at most a share `rate` is expected
        to be good (`benjamini_hochberg`); +inf where none can be rejected."""
        rejected = benjamini_hochberg([self.p_value(score) for score in scores], rate)
        if not rejected.any():
            return math.inf
        # a good image that equals a calibration score has the p-value of that score
        return float(np.nextafter(np.asarray(scores)[rejected].min(), -np.inf))

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """The same scores at another rate; a chosen threshold is given up."""
        return dataclasses.replace(self, false_alarm_rate=false_alarm_rate, chosen=None, chosen_by="")

    def choose(self, scores: Sequence[float], cost: float | None = None) -> Calibration:
        """The threshold that labelled defects with these scores ask for: the highest F1 over them and the good images
        here, or, where a missed defect costs as much as `cost` false alarms, the least cost."""
        value, reason = choose_threshold(self.scores, np.asarray(scores, dtype=np.float64), cost)
        return dataclasses.replace(self, chosen=value, chosen_by=reason)

    def without(self, images: Collection[str]) -> Calibration:
        """Without the scores of some images."""
        kept = [i for i, name in enumerate(self.images) if name not in images]
        return self._of(self.scores[kept], self.peaks[kept], tuple(self.images[i] for i in kept))

    def joined(self, other: Calibration) -> Calibration:
        """The scores of both, at the rate of this one."""
        scores, peaks = (np.concatenate([getattr(self, k), getattr(other, k)]) for k in ("scores", "peaks"))
        return self._of(scores, peaks, self.images + other.images)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[str, float, float]], false_alarm_rate: float) -> Calibration:
        """From the name, score and map peak of each image."""
        scores, peaks = (np.array([row[i] for row in rows], dtype=np.float64) for i in (1, 2))
        return cls(scores, peaks, false_alarm_rate, images=tuple(name for name, _, _ in rows))

    def corrected(self, apart: Calibration) -> Calibration:
        """Leave-one-out scores brought to the level of those that some of the images got from a memory that never had
        them (`apart`): the median of the ratios, for scores and peaks; unchanged where `apart` is empty."""
        both = [i for i, name in enumerate(apart.images) if name in self.images]  # files go away during a fit
        if not both:
            return self
        mine = [self.images.index(apart.images[i]) for i in both]
        factors = [_typical_ratio(getattr(apart, k)[both], getattr(self, k)[mine]) for k in ("scores", "peaks")]
        return self._of(self.scores * factors[0], self.peaks * factors[1], self.images)

    def _of(self, scores: NDArray[np.float64], peaks: NDArray[np.float64], images: tuple[str, ...]) -> Calibration:
        return dataclasses.replace(self, scores=scores, peaks=peaks, images=images)

    # ---- the model file ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As tensors and plain values."""
        import torch

        tensors = {f"calibration.{name}": torch.from_numpy(getattr(self, name)) for name in ("scores", "peaks")}
        names = ("false_alarm_rate", "how", "images", "chosen", "chosen_by")
        values = {name: getattr(self, name) for name in names}
        return tensors, {**values, "images": list(self.images)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], values: dict[str, Any]) -> Calibration:
        """The inverse of `state`; files of version 1 have the rate alone."""
        scores, peaks = (tensors[f"calibration.{name}"].cpu().numpy().copy() for name in ("scores", "peaks"))
        # unnamed scores keep their places among those that come later
        images = tuple(values.get("images", ())) or ("",) * len(scores)
        return cls(scores, peaks, **{**values, "images": images})


def standardised(values: Any, nominal: NDArray[np.float64]) -> Any:
    """Values in standard deviations of those of nominal images above their mean."""
    finite = nominal[np.isfinite(nominal)]
    if len(finite) < 2 or finite.std() == 0:
        return values
    return (values - finite.mean()) / finite.std(ddof=1)


def _typical_ratio(apart: NDArray[np.float64], left_out: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = apart / left_out
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else 1.0


def folds_of(turned: Sequence[bool], seed: int) -> list[list[int]]:
    """The indices of images in `FOLDS` random parts (fewer for fewer images); a turned image goes with the one before
    it."""
    image = np.cumsum([not t for t in turned]) - 1
    count = int(image[-1]) + 1
    part_of = np.empty(count, dtype=int)
    part_of[np.random.default_rng(seed).permutation(count)] = np.arange(count) % min(FOLDS, count)
    return [np.flatnonzero(part_of[image] == part).tolist() for part in range(min(FOLDS, count))]


def threshold(scores: NDArray[np.float64], rate: float) -> float:
    """The ⌈(n + 1)(1 − rate)⌉-th smallest of n scores; where n is too small for that, the extrapolated quantile, but
    not less than the largest; +inf for none."""
    finite = np.sort(scores[np.isfinite(scores)])
    if len(finite) == 0:
        return math.inf
    # 1e-9: (n + 1)(1 − rate) may be whole but for rounding
    rank = max(1, math.ceil((len(finite) + 1) * (1 - rate) - 1e-9))
    if rank <= len(finite):
        return float(finite[rank - 1])
    tail = fit_tail(finite)
    return float(finite[-1]) if tail is None else max(float(finite[-1]), tail.quantile(rate))


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


def fit_tail(scores: NDArray[np.float64]) -> Tail | None:
    """The tail of n scores by probability-weighted moments (Hosking and Wallis, 1987); None for fewer than 20, or where
    the largest are all equal."""
    finite = np.sort(scores[np.isfinite(scores)])
    count = max(_TAIL_LEAST, round(_TAIL_SHARE * len(finite)))
    if len(finite) < 2 * _TAIL_LEAST:
        return None
    start, above = finite[-count - 1], finite[-count:]
    exceedances = above - start
    mean = float(exceedances.mean())
    weights = 1 - (np.arange(1, count + 1) - 0.35) / count
    weighted = float((weights * exceedances).mean())
    if mean <= 0 or mean - 2 * weighted <= 0:
        return None
    shape = float(np.clip(2 - mean / (mean - 2 * weighted), *_SHAPES))
    return Tail(float(start), count / len(finite), shape, mean * (1 - shape))


def interval(scores: NDArray[np.float64], rate: float, seed: int = 0) -> tuple[float, float]:
    """The middle 90 % of thresholds of scores drawn again with replacement."""
    finite = scores[np.isfinite(scores)]
    rng = np.random.default_rng(seed)
    drawn = [threshold(rng.choice(finite, len(finite)), rate) for _ in range(_RESAMPLES)]
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
