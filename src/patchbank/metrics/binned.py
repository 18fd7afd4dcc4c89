"""The pixel metrics from a histogram: one pass, memory that does not grow with the images, and a bound on the error.

The bins are those of `curves.bin_of`: 2 048 to each power of two, so a bin is at most 0.05 % of its score wide. At the
edges of the bins every curve is exact. Between two edges it rises from one known height to the next, in an order that
the bin has forgotten: the box between them bounds the area from both sides. The value given treats a bin as a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchbank.metrics.aupimo import FPR_BOUNDS, found_share, resolves
from patchbank.metrics.curves import PixelResult, bin_of, check_both_kinds, lowest_of, measured
from patchbank.metrics.exact import ExactPixels, Scores
from patchbank.metrics.image import precision_recall, step_area, trapezoid_area
from patchbank.metrics.region import aupro

BITS = 20
_BLOCK = 2048  # the window grows by so many bins
_GOOD, _AROUND, _DEFECT, _OVERLAP, _IMAGES = range(5)

Column = NDArray[np.float64]
Bounds = tuple[float, float]


class BinnedPixels:
    """Per bin: pixels of good images, around defects, in defects; the shares of regions and of images' defects."""

    def __init__(self) -> None:
        self._first = 0
        self._table = np.zeros((5, 0))  # bins first, first + 1, …
        self._n_regions = self._n_inspected = 0

    @classmethod
    def of(cls, exact: ExactPixels) -> BinnedPixels:
        """All pixels of an exact collection."""
        binned = cls()
        binned.add_good(exact.good())
        image = exact.image_of_region()[exact.regions()]
        binned._add(_AROUND, exact.around())
        binned._add_defect(exact.defect(), exact.regions(), image, exact.image_of_region().size)
        return binned

    @property
    def nbytes(self) -> int:
        """Bytes of the histogram."""
        return self._table.nbytes

    def add_good(self, scores: Scores) -> None:
        """The inspected pixels of a good image."""
        self._add(_GOOD, scores)

    def add_defective(self, around: Scores, defect: Scores, regions: NDArray[np.int32], n_regions: int) -> None:
        """The inspected pixels of a defective image; `regions`: those of its defect pixels, 0 to `n_regions` − 1."""
        self._add(_AROUND, around)
        self._add_defect(defect, regions, np.zeros_like(regions), n_regions)

    def _add_defect(self, defect: Scores, regions: NDArray[np.int32], image: NDArray[np.int32], n_regions: int) -> None:
        sizes = np.bincount(regions, minlength=n_regions)
        self._n_regions += n_regions
        self._n_inspected += int(np.count_nonzero(sizes))
        self._add(_DEFECT, defect)
        self._add(_OVERLAP, defect, 1 / sizes[regions])
        self._add(_IMAGES, defect, 1 / np.bincount(image)[image])

    def _add(self, column: int, scores: Scores, weights: Column | None = None) -> None:
        if not scores.size:
            return
        for start in range(0, scores.size, 1 << 22):  # so that the bins of many pixels are not all held at once
            bins = bin_of(scores[start : start + (1 << 22)], BITS)
            low, high = int(bins.min()), int(bins.max()) + 1
            self._reach(low, high)
            chosen = None if weights is None else weights[start : start + (1 << 22)]
            self._table[column, low - self._first : high - self._first] += np.bincount(bins - low, chosen)

    def _reach(self, low: int, high: int) -> None:
        """Let the window include the bins low to high − 1."""
        width = self._table.shape[1]
        first, last = (self._first, self._first + width) if width else (low, low)
        new_first = min(first, low // _BLOCK * _BLOCK)
        new_last = max(last, -(-high // _BLOCK) * _BLOCK)
        if (new_first, new_last) != (first, last) or not width:
            grown = np.zeros((5, new_last - new_first))
            grown[:, first - new_first : first - new_first + width] = self._table
            self._first, self._table = new_first, grown

    @classmethod
    def joined(cls, collected: Sequence[BinnedPixels]) -> BinnedPixels:
        """All of them as one."""
        whole = cls()
        for each in collected:
            if width := each._table.shape[1]:
                whole._reach(each._first, each._first + width)
                start = each._first - whole._first
                whole._table[:, start : start + width] += each._table
            whole._n_regions += each._n_regions
            whole._n_inspected += each._n_inspected
        return whole

    def result(self, limit: float) -> PixelResult:
        """The metrics, each with its bounds. Raises `ValueError` as `exact.exact_result`."""
        occupied = np.flatnonzero(self._table.any(axis=0))[::-1]  # by falling score
        good, around, defect, overlap, images = self._table[:, occupied]
        nominal = good + around
        check_both_kinds(defect.sum(), nominal.sum())
        hits, alarms = np.cumsum(defect), np.cumsum(nominal)
        fpr = np.append(0.0, alarms / alarms[-1])
        tpr, pro = (np.append(0.0, np.cumsum(mass) / mass.sum()) for mass in (defect, overlap))
        roc, pro_curve = measured((fpr, tpr), trapezoid_area), measured((fpr, pro), lambda x, y: aupro(x, y, limit))
        holds = defect > 0  # a threshold without a new hit is no point of the precision-recall curve
        pr = measured(precision_recall(hits[holds].astype(np.int64), alarms[holds].astype(np.int64)), step_area)
        f1 = 2 * hits / (hits + alarms + hits[-1])
        best = int(np.argmax(f1))
        within_limit = np.minimum(fpr, limit) / limit
        bounds = {
            "auroc": _box(fpr, tpr),
            "average_precision": _precision_bounds(defect, hits, nominal, alarms),
            "aupro": _box(within_limit, pro),
            "f1_max": (float(f1[best]), float(np.max(2 * hits / (hits + alarms - nominal + hits[-1])))),
        }
        aupimo, bounds_of_it = _aupimo(good, images)
        return PixelResult(
            auroc=roc.area,
            average_precision=pr.area,
            aupro=pro_curve.area,
            f1_max=float(f1[best]),
            f1_threshold=float(lowest_of(np.array([self._first + occupied[best]]), BITS)[0]),
            aupimo=aupimo,
            aupimo_per_image=None,
            roc=roc.drawn,
            pr=pr.drawn,
            pro=pro_curve.drawn,
            n_regions=self._n_inspected,
            n_regions_not_inspected=self._n_regions - self._n_inspected,
            n_good_pixels=int(good.sum()),
            bounds=bounds | bounds_of_it,
        )


def _box(x: Column, y: Column) -> Bounds:
    """What the area under a rising curve through the points (x, y) can be, over x from its first to its last."""
    wide = np.diff(x)
    return float(np.sum(wide * y[:-1])), float(np.sum(wide * y[1:]))


def _precision_bounds(defect: Column, hits: Column, nominal: Column, alarms: Column) -> Bounds:
    """What Σ (Rₖ − Rₖ₋₁) Pₖ can be: with the defect pixels of a bin before all its others, and after them."""
    most = defect * hits / np.maximum(hits + alarms - nominal, 1)
    # After them, the j-th has precision (h + j) / (h + j + alarms), concave in j: the sum is above the chord's.
    first = hits - defect + 1
    least = defect * (first / (first + alarms) + hits / np.maximum(hits + alarms, 1)) / 2
    return float(least.sum() / hits[-1]), float(most.sum() / hits[-1])


def _aupimo(good: Column, images: Column) -> tuple[float | None, dict[str, Bounds]]:
    """AUPIMO and its bounds, where the pixels of good images suffice."""
    reached = np.cumsum(good)
    n_good = int(reached[-1])
    if not resolves(n_good):
        return None, {}
    mean = images / images.sum()
    share = found_share((reached - good).astype(np.int64), reached.astype(np.int64), n_good)
    low, high = FPR_BOUNDS
    rates = np.log(np.clip(np.append(0.0, reached / n_good), low, high) / low) / np.log(high / low)
    return float(np.sum(mean * share)), {"aupimo": _box(rates, np.append(0.0, np.cumsum(mean)))}
