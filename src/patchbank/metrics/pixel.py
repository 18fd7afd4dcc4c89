"""Pixel-level metrics over all pixels of a test set: AUROC, average precision and, with `region.py`, AUPRO.

One sort serves all three. Their curves turn only at the scores of defect pixels, and those are few. So the
scores of defect-free pixels are sorted as plain float32, in place and without indices; the defect pixels are
ranked apart; and two binary searches say how many defect-free pixels lie above each of them or tie with it.
This is exact: nothing is binned or sampled.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchbank.metrics.image import Curve, last_of_ties, precision_recall, step_area, trapezoid_area
from patchbank.metrics.region import aupro, label_regions, mean_overlap

CURVE_POINTS = 500
SORT_THREADS = 4


@dataclass(frozen=True)
class PixelResult:
    """Three numbers from 0 to 1, and their curves (x, y), thinned to at most `CURVE_POINTS` drawn points.

    `roc` is (false-positive rate, true-positive rate), `pr` (recall, precision), `pro` (false-positive rate,
    mean per-region overlap), and goes beyond AUPRO's limit. `n_regions` regions count in `aupro`;
    `n_regions_not_inspected` more are left out, as the maps are NaN all over them.
    """

    auroc: float
    average_precision: float
    aupro: float
    roc: Curve
    pr: Curve
    pro: Curve
    n_regions: int
    n_regions_not_inspected: int


class PixelMetrics:
    """Takes maps and masks one image at a time, then computes.

    Peak memory: at most 4.25 bytes per defect-free pixel (its float32 score in a vector that grows and is
    sorted in place), 8.5 per defect pixel, and while `compute` runs about 130 more per defect pixel, fewer
    where they tie. 583 maps of 224×224 with 1.7 % defects take 120 MB, then 190 MB.
    """

    def __init__(self) -> None:
        # An `array` grows in place by a sixteenth; a list of chunks would need twice the memory to be joined.
        self._nominal = array("f")
        self._defect = array("f")
        self._regions = array("i")
        self._n_regions = 0
        self._is_sorted = True

    def update(self, map: ArrayLike, mask: ArrayLike) -> None:
        """Add one image: `map` float32 H×W, raw scores, NaN = not inspected; `mask` bool H×W, True = defect.

        Pixels that were not inspected are left out. Raises `ValueError` if map and mask are not of one shape
        H×W, or the mask is not bool.
        """
        scores, is_defect = _checked(map, mask)
        inspected = ~np.isnan(scores)
        _extend(self._nominal, scores[inspected & ~is_defect])
        self._is_sorted = False
        if is_defect.any():
            # Regions are those of the mask: one that is cut in two by pixels not inspected remains one.
            labels, count = label_regions(is_defect)
            seen = inspected & is_defect
            _extend(self._defect, scores[seen])
            _extend(self._regions, labels[seen] + (self._n_regions - 1))
            self._n_regions += count

    def compute(self, *others: PixelMetrics, limit: float = 0.3) -> PixelResult:
        """The metrics of the images added here and to `others`; AUPRO up to the false-positive rate `limit`.

        With `others`, good images kept in one collector can count with each type of defect and with all
        types, while every pixel is held and sorted once. May be called again, also after more images.

        Raises `ValueError` if no defect pixel or no defect-free pixel was inspected (then none of the metrics
        can be computed, else all can), or if the limit is outside (0, 1].
        """
        collectors = (self, *others)
        first_region = np.cumsum([0, *(each._n_regions for each in collectors)]).tolist()
        regions = [
            np.frombuffer(each._regions, dtype=np.int32) + first
            for each, first in zip(collectors, first_region, strict=False)
        ]
        return pixel_metrics(
            [part for each in collectors for part in each._sorted_nominal()],
            np.concatenate([np.frombuffer(each._defect, dtype=np.float32) for each in collectors]),
            np.concatenate(regions),
            n_regions=first_region[-1],
            limit=limit,
        )

    def _sorted_nominal(self) -> list[NDArray[np.float32]]:
        # In parts, as NumPy sorts without the interpreter lock, and counts over sorted parts just add up.
        parts = np.array_split(np.frombuffer(self._nominal, dtype=np.float32), SORT_THREADS)
        if not self._is_sorted:
            with ThreadPoolExecutor(SORT_THREADS) as pool:
                list(pool.map(np.ndarray.sort, parts))
            self._is_sorted = True
        return parts


def pixel_metrics(
    nominal: Sequence[NDArray[np.float32]],
    defect: NDArray[np.float32],
    regions: NDArray[np.int32],
    n_regions: int,
    limit: float = 0.3,
) -> PixelResult:
    """The functional core of `PixelMetrics`.

    `nominal`: one or more vectors of scores of defect-free pixels, each rising; `defect`: scores of M defect
    pixels in any order; `regions`: their M region numbers, 0 to `n_regions` - 1. No NaN. Raises as
    `PixelMetrics.compute`.
    """
    n_nominal = sum(part.size for part in nominal)
    for kind, count in (("marked as a defect", defect.size), ("free of defects", n_nominal)):
        if count == 0:
            raise ValueError(f"no inspected pixel is {kind}: pixel AUROC, AP and AUPRO need both kinds")
    order, hits, above, reached = _rank(nominal, defect)
    pr = _measured(precision_recall(hits, reached), step_area)
    # On the way to a threshold the other curves run level, over the defect-free pixels above it; then they
    # climb, straight up or, where defect-free pixels tie with it, slanting: two corners for each threshold.
    fpr = np.concatenate([[0], np.column_stack([above, reached]).ravel(), [n_nominal]]) / n_nominal
    del above, reached
    roc = _measured((fpr, _corners(hits / defect.size)), trapezoid_area)
    overlap = mean_overlap(regions[order])[hits - 1]
    pro = _measured((fpr, _corners(overlap)), lambda x, y: aupro(x, y, limit))
    n_inspected = int(np.count_nonzero(np.bincount(regions)))
    return PixelResult(
        auroc=roc.area,
        average_precision=pr.area,
        aupro=pro.area,
        roc=roc.drawn,
        pr=pr.drawn,
        pro=pro.drawn,
        n_regions=n_inspected,
        n_regions_not_inspected=n_regions - n_inspected,
    )


class _Ranking(NamedTuple):
    """M defect pixels by falling score, and the number of pixels found at each of their K distinct scores."""

    order: NDArray[np.int64]  # M indices
    hits: NDArray[np.int64]  # K: defect pixels that score at least as high
    above: NDArray[np.int64]  # K: defect-free pixels that score higher
    reached: NDArray[np.int64]  # K: defect-free pixels that score at least as high


def _rank(nominal: Sequence[NDArray[np.float32]], defect: NDArray[np.float32]) -> _Ranking:
    order = np.argsort(defect)[::-1]
    ranked = defect[order]
    last = last_of_ties(ranked)
    thresholds = ranked[last]
    above, reached = np.zeros_like(last), np.zeros_like(last)
    for part in nominal:
        above += part.size - np.searchsorted(part, thresholds, side="right")
        reached += part.size - np.searchsorted(part, thresholds, side="left")
    return _Ranking(order, last + 1, above, reached)


class _Measured(NamedTuple):
    area: float
    drawn: Curve


def _measured(curve: Curve, area: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> _Measured:
    """The area under a curve and its thinned copy, so that no curve need be kept at full length."""
    return _Measured(area(*curve), _thinned(*curve))


def _corners(height: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights at 2K + 2 corners over the false-positive rate, from those reached at K thresholds."""
    return np.repeat(np.append(0.0, height), 2)


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """At most `CURVE_POINTS` of the points of a curve, evenly spaced along its length, both ends included."""
    way = np.abs(np.diff(x))
    way += np.abs(np.diff(y))
    np.cumsum(way, out=way)
    steps = np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS - 1))
    index = np.unique(np.append(0, steps + 1))
    return x[index], y[index]


def _checked(map: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    scores, is_defect = np.asarray(map, dtype=np.float32), np.asarray(mask)
    if scores.ndim != 2 or scores.shape != is_defect.shape:
        raise ValueError(f"map {scores.shape} and mask {is_defect.shape} must have one shape, height × width")
    if is_defect.dtype != np.bool_:
        raise ValueError(f"mask must be bool (True = defect), not {is_defect.dtype}")
    return scores, is_defect


def _extend(store: array[float] | array[int], values: NDArray[np.float32] | NDArray[np.int32]) -> None:
    store.frombytes(values.view(np.uint8).data)
