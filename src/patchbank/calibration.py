"""Thresholds, p-values and decisions on batches, from the scores of good parts alone."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchbank.errors import OptionError

if TYPE_CHECKING:  # an exported model decides without torch
    from torch import Tensor

CORRECTED = "corrected leave-one-out"
WAYS = ("auto", "leave-one-out", CORRECTED, "held-out", "k-fold")
FOLDS = 5  # of k-fold; held-out keeps one such part for the calibration, the correction is measured on one
FOUND = "like "  # begins the label of a group that was found, before the name of its first image
WELL_RESOLVED = 5  # scores above the threshold, so that it does not hang on the largest one
LEAST_CORRECTED = 20  # images; the fifth of fewer says little
_TAIL_SHARE, _TAIL_LEAST = 0.25, 10  # the tail is fitted to this share of the scores, but to so many at least
_SHAPES = (-0.5, 0.5)  # few exceedances say little of the shape: within these it has a variance and a bounded error
_RESAMPLES, _LEVEL = 400, 0.9


class Row(NamedTuple):
    """What one nominal image adds to a calibration: its name, score and map peak, and the label of its part."""

    name: str
    score: float
    peak: float
    group: str = ""


@dataclass(frozen=True)
class Calibration:
    """Scores and map peaks of nominal images that were not compared with themselves, both float64, one per image.

    Split-conformal (Vovk et al.; Bates et al., "Testing for Outliers with Conformal p-values", 2023): for a new nominal
    image exchangeable with these n, P(score > threshold) ≤ `false_alarm_rate` wherever n ≥ 1/rate − 1. With fewer
    images the tail is extrapolated (`Tail`), and `is_guaranteed` is False.

    Several pictures of one part are not independent. Each score then has the weight 1/(pictures of its part), and n is
    the number of parts: for one picture of a new part the promise holds as above (Lee, Barber and Willett,
    "Distribution-free inference with hierarchical data", 2023, Eq. 5).

    `how`: where the scores come from, one of `WAYS` or in words; `images`: the names they belong to; `groups`: the
    label of the part that each shows ("": a part of its own), or nothing where each image is a part of its own;
    `chosen`: a threshold that was chosen by labelled defects, in place of the one from the rate, and `chosen_by` how.
    """

    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    false_alarm_rate: float
    how: str = "leave-one-out"
    images: tuple[str, ...] = ()
    chosen: float | None = None
    chosen_by: str = ""
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rate(self.false_alarm_rate)
        if not any(self.groups):
            object.__setattr__(self, "groups", ())

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """One over the number of pictures of the part that each score belongs to."""
        sizes = Counter(self.groups)
        return np.array([1 / sizes[group] if group else 1.0 for group in self.groups or ("",) * len(self)])

    @property
    def parts(self) -> int:
        """How many different parts the scores belong to."""
        return round(float(self.weights.sum()))

    @property
    def is_guaranteed(self) -> bool:
        """Whether there are enough parts for the rate. A chosen threshold promises nothing, nor do scores of which half
        or more belong to groups that were only found: who has several pictures of most parts must name the parts."""
        known = float(self.weights[np.isfinite(self.scores)].sum())
        found = sum(group.startswith(FOUND) for group in self.groups)
        return self.chosen is None and known >= 1 / self.false_alarm_rate - 1 - 1e-9 and 2 * found <= len(self)

    @cached_property
    def threshold(self) -> float:
        """The image score above which an image is called anomalous."""
        return threshold(self.scores, self.false_alarm_rate, self.weights) if self.chosen is None else self.chosen

    @cached_property
    def map_threshold(self) -> float:
        """The value of the map above which a region is drawn: at most the rate of good images has one."""
        return threshold(self.peaks, self.false_alarm_rate, self.weights)

    @cached_property
    def tail(self) -> Tail | None:
        """What the threshold was extrapolated with; None where it was not."""
        return None if self.is_guaranteed or self.chosen is not None else fit_tail(self.scores, self.weights)

    def interval(self) -> tuple[float, float] | None:
        """Where the extrapolated threshold lies for 90 % of resamplings of the scores; None where it is none."""
        return interval(self.scores, self.false_alarm_rate, groups=self.groups) if self.tail else None

    def p_value(self, score: float) -> float:
        """(1 + #{calibration scores ≥ score}) / (n + 1), where each part counts once."""
        if not self.groups:
            return (1 + int(np.count_nonzero(self.scores >= score))) / (len(self.scores) + 1)
        return float((1 + self.weights[self.scores >= score].sum()) / (self.parts + 1))

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
        groups = tuple(self.groups[i] for i in kept) if self.groups else ()
        return self._of(self.scores[kept], self.peaks[kept], tuple(self.images[i] for i in kept), groups)

    def joined(self, other: Calibration) -> Calibration:
        """The scores of both, at the rate of this one."""
        scores, peaks = (np.concatenate([getattr(self, k), getattr(other, k)]) for k in ("scores", "peaks"))
        groups = [part for c in (self, other) for part in (c.groups or ("",) * len(c))]
        return self._of(scores, peaks, self.images + other.images, tuple(groups))

    @classmethod
    def of_rows(cls, rows: Sequence[Row], false_alarm_rate: float) -> Calibration:
        """From the rows of the images."""
        scores = np.array([row.score for row in rows], dtype=np.float64)
        peaks = np.array([row.peak for row in rows], dtype=np.float64)
        names, groups = tuple(row.name for row in rows), tuple(row.group for row in rows)
        return cls(scores, peaks, false_alarm_rate, images=names, groups=groups)

    def corrected(self, apart: Calibration) -> Calibration:
        """Leave-one-out scores brought to the level of those that some of the images got from a memory that never had
        them (`apart`): the median of the ratios, for scores and peaks; unchanged where `apart` is empty."""
        if not len(apart):
            return self
        mine = [self.images.index(name) for name in apart.images]
        factors = [_typical_ratio(getattr(apart, k), getattr(self, k)[mine]) for k in ("scores", "peaks")]
        return self._of(self.scores * factors[0], self.peaks * factors[1], self.images, self.groups)

    def _of(
        self,
        scores: NDArray[np.float64],
        peaks: NDArray[np.float64],
        images: tuple[str, ...],
        groups: tuple[str, ...],
    ) -> Calibration:
        return dataclasses.replace(self, scores=scores, peaks=peaks, images=images, groups=groups)

    # ---- the model file ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As tensors and plain values."""
        import torch

        tensors = {f"calibration.{name}": torch.from_numpy(getattr(self, name)) for name in ("scores", "peaks")}
        names = ("false_alarm_rate", "how", "images", "chosen", "chosen_by")
        values = {name: getattr(self, name) for name in names}
        groups = {"groups": list(self.groups)} if self.groups else {}
        return tensors, {**values, "images": list(self.images), **groups}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], values: dict[str, Any]) -> Calibration:
        """The inverse of `state`; files of version 1 have the rate alone."""
        scores, peaks = (tensors[f"calibration.{name}"].cpu().numpy().copy() for name in ("scores", "peaks"))
        # unnamed scores keep their places among those that come later
        images = tuple(values.get("images", ())) or ("",) * len(scores)
        return cls(scores, peaks, **{**values, "images": images, "groups": tuple(values.get("groups", ()))})


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


def folds_of(turned: Sequence[bool], seed: int, groups: Sequence[str] = ()) -> list[list[int]]:
    """The indices of images in `FOLDS` random folds (fewer for fewer parts); a turned image goes with the one before
    it, images of one group ("": a part of its own) go together."""
    part, first, count = list[int](), dict[str, int](), 0
    for is_turned, group in zip(turned, groups or ("",) * len(turned), strict=True):
        if is_turned and part:
            part.append(part[-1])
            continue
        part.append(first.setdefault(group, count) if group else count)
        count = max(count, part[-1] + 1)
    fold_of = np.empty(count, dtype=int)
    fold_of[np.random.default_rng(seed).permutation(count)] = np.arange(count) % min(FOLDS, count)
    folds = fold_of[np.asarray(part)]
    return [np.flatnonzero(folds == fold).tolist() for fold in range(min(FOLDS, count))]


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
    if cost is not None and cost <= 0:
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
    """Raise `OptionError` for a rate outside (0, 1)."""
    if not 0 < rate < 1:
        raise OptionError(f"{name} must lie in (0, 1), such as 0.01 for 1 %, not {rate}")
