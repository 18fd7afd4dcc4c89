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

from patchbank.calibration.conformal import (
    Tail,
    benjamini_hochberg,
    check_rate,
    choose_threshold,
    fit_tail,
    interval,
    threshold,
)
from patchbank.calibration.correction import as_apart
from patchbank.data.groups import FOUND

if TYPE_CHECKING:  # an exported model decides without torch
    from torch import Tensor

CORRECTED = "corrected leave-one-out"
SCHEMES = ("auto", "leave-one-out", CORRECTED, "held-out", "k-fold")
FOLDS = 5  # of k-fold; held-out keeps one such part for the calibration, the correction is measured on one
WELL_RESOLVED = 5  # scores above the threshold, so that it does not hang on the largest one
MANY_PICTURES = 0.75  # parts per image: with fewer parts than that the correction is left out
LEAST_CORRECTED = 20  # images; the fifth of fewer says little
_LEAST_BELOW, _LEAST_ABOVE = 5, 20  # scores that are compared, and that they are compared with


class Row(NamedTuple):
    """What one nominal image adds to a calibration: its name, score and map peak, the label of its part, and how high
    the map is in each of several cells, where that is kept (`scoring.together`)."""

    name: str
    score: float
    peak: float
    group: str = ""
    cells: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Calibration:
    """Scores and map peaks of nominal images that were not compared with themselves, both float64, one per image.

    Split-conformal (Vovk et al.; Bates et al., "Testing for Outliers with Conformal p-values", 2023): for a new nominal
    image exchangeable with these n, P(score > threshold) ≤ `false_alarm_rate` wherever n ≥ 1/rate − 1. With fewer
    images the tail is extrapolated (`Tail`), and `is_guaranteed` is False.

    Several pictures of one part are not independent. Each score then has the weight 1/(pictures of its part), and n is
    the number of parts: for one picture of a new part the promise holds as above (Lee, Barber and Willett,
    "Distribution-free inference with hierarchical data", 2023, Eq. 5).

    `how`: where the scores come from, one of `SCHEMES` or in words; `images`: the names they belong to; `groups`: the
    label of the part that each shows ("": a part of its own), or nothing where each image is a part of its own;
    `chosen`: a threshold that was chosen by labelled defects, in place of the one from the rate, and `chosen_by` how;
    `doubt`: why new parts may score differently, as far as the images show it ("" for no sign); `cells`: N×h×w, how
    high each map is in each of several cells, during the fit of an ensemble, None otherwise, and `apart` the cells of
    some of these images in a memory that never had them.
    """

    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]
    false_alarm_rate: float
    how: str = "leave-one-out"
    images: tuple[str, ...] = ()
    chosen: float | None = None
    chosen_by: str = ""
    groups: tuple[str, ...] = ()
    doubt: str = ""
    cells: NDArray[np.float32] | None = None
    apart: Calibration | None = None

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
        """Whether new parts are rejected at no more than the rate: `no_guarantee` says why not."""
        return not self.no_guarantee

    @property
    def no_guarantee(self) -> str:
        """Why the threshold gives no guarantee; "" if it does."""
        if self.chosen is not None:
            return "the threshold was chosen"
        if self.doubt:
            return self.doubt
        found = sum(group.startswith(FOUND) for group in self.groups)
        if 2 * found > len(self):
            return "most images look like several pictures of one part, and nobody named the parts"
        if self._is_short:
            needed = math.ceil(1 / self.false_alarm_rate - 1 - 1e-9)
            return f"that takes at least {needed} {'parts' if self.groups else 'images'}"
        return ""

    @property
    def _is_short(self) -> bool:
        """Whether there are too few parts for the rate."""
        known = float(self.weights[np.isfinite(self.scores)].sum())
        return known < 1 / self.false_alarm_rate - 1 - 1e-9

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
        return fit_tail(self.scores, self.weights) if self._is_short and self.chosen is None else None

    def interval(self) -> tuple[float, float] | None:
        """Where the extrapolated threshold lies for 90 % of resamplings of the scores; None where it is none."""
        return interval(self.scores, self.false_alarm_rate, groups=self.groups) if self.tail else None

    def p_value(self, score: float) -> float:
        """(1 + #{calibration scores ≥ score}) / (n + 1), where each part counts once; as for the threshold, infinite
        scores are none."""
        known = np.isfinite(self.scores)
        above = known & (self.scores >= score)
        if not self.groups:
            return (1 + int(np.count_nonzero(above))) / (int(np.count_nonzero(known)) + 1)
        return float((1 + self.weights[above].sum()) / (round(float(self.weights[known].sum())) + 1))

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
        return self._taken([i for i, name in enumerate(self.images) if name not in images])

    def in_order(self, images: Sequence[str]) -> Calibration:
        """With the scores in the order of these images."""
        place = {name: i for i, name in enumerate(images)}
        return self._taken(sorted(range(len(self)), key=lambda i: place.get(self.images[i], len(place))))

    def _taken(self, order: list[int]) -> Calibration:
        groups = tuple(self.groups[i] for i in order) if self.groups else ()
        images = tuple(self.images[i] for i in order)
        cells = None if self.cells is None else self.cells[order]
        return dataclasses.replace(
            self, scores=self.scores[order], peaks=self.peaks[order], images=images, groups=groups, cells=cells
        )

    def joined(self, other: Calibration) -> Calibration:
        """The scores of both, at the rate of this one."""
        scores, peaks = (np.concatenate([getattr(self, k), getattr(other, k)]) for k in ("scores", "peaks"))
        groups = [part for c in (self, other) for part in (c.groups or ("",) * len(c))]
        images = self.images + other.images
        return dataclasses.replace(
            self, scores=scores, peaks=peaks, images=images, groups=tuple(groups), cells=None, apart=None
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Row], false_alarm_rate: float) -> Calibration:
        """From the rows of the images."""
        scores = np.array([row.score for row in rows], dtype=np.float64)
        peaks = np.array([row.peak for row in rows], dtype=np.float64)
        names, groups = tuple(row.name for row in rows), tuple(row.group for row in rows)
        maps = [row.cells for row in rows if row.cells is not None]
        cells = np.stack(maps) if maps and len(maps) == len(rows) else None
        return cls(scores, peaks, false_alarm_rate, images=names, groups=groups, cells=cells)

    def corrected(self, apart: Calibration) -> Calibration:
        """Leave-one-out scores brought to the level and the spread of those that some of the images got from a memory
        that never had them (`apart`), and so with peaks (`as_apart`); unchanged where `apart` is empty."""
        both = [i for i, name in enumerate(apart.images) if name in self.images]  # files go away during a fit
        if not both:
            return self
        mine = [self.images.index(apart.images[i]) for i in both]
        scores = as_apart(self.scores, self.scores[mine], apart.scores[both])
        peaks = as_apart(self.peaks, self.peaks[mine], apart.peaks[both])
        return dataclasses.replace(self, scores=scores, peaks=peaks, apart=None if apart.cells is None else apart)

    def scores_far_below(self, other: Calibration) -> bool:
        """Whether at least 5 scores have a median below 95 % of those of another calibration, of 20 at least. Good
        parts do so with a probability of a few per mille at most; twins of training images do."""
        mine, theirs = self.scores[np.isfinite(self.scores)], other.scores[np.isfinite(other.scores)]
        if len(mine) < _LEAST_BELOW or len(theirs) < _LEAST_ABOVE:
            return False
        return bool(np.median(mine) < np.quantile(theirs, 0.05))

    # ---- the model file ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As tensors and plain values."""
        import torch

        tensors = {f"calibration.{name}": torch.from_numpy(getattr(self, name)) for name in ("scores", "peaks")}
        names = ("false_alarm_rate", "how", "images", "chosen", "chosen_by", "doubt")
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
