"""The pixel metrics from every pixel: AUROC, average precision, F1, and, with `region.py` and `aupimo.py`, the others.

One sort serves all. Their curves turn only at the scores of defect pixels, and those are few. So the scores of
defect-free pixels are sorted as plain float32, in place and without indices; the defect pixels are ranked apart; and
two binary searches say how many defect-free pixels lie above each of them or tie with it. This is exact: nothing is
binned or sampled.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchbank.metrics.aupimo import found_share, resolves
from patchbank.metrics.curves import PixelResult, check_both_kinds, measured
from patchbank.metrics.image import last_of_ties, precision_recall, step_area, trapezoid_area
from patchbank.metrics.region import aupro, mean_overlap

SORT_THREADS = 4

Scores = NDArray[np.float32]


class ExactPixels:
    """The scores of all inspected pixels: of good images, around defects, and in defects with region and image."""

    def __init__(self) -> None:
        # An `array` grows in place by a sixteenth; a list of chunks would need twice the memory to be joined.
        self._good = array("f")
        self._around = array("f")
        self._defect = array("f")
        self._regions = array("i")
        self._image_of_region = array("i")
        self._n_images = 0
        self._is_sorted = True

    @property
    def nbytes(self) -> int:
        """Bytes of the scores held."""
        return sum(len(each) * each.itemsize for each in (self._good, self._around, self._defect, self._regions))

    def add_good(self, scores: Scores) -> None:
        """The inspected pixels of a good image."""
        _extend(self._good, scores)
        self._is_sorted = False

    def add_defective(self, around: Scores, defect: Scores, regions: NDArray[np.int32], n_regions: int) -> None:
        """The inspected pixels of a defective image; `regions`: those of its defect pixels, 0 to `n_regions` − 1."""
        _extend(self._around, around)
        self._is_sorted = False
        _extend(self._defect, defect)
        _extend(self._regions, regions + np.int32(len(self._image_of_region)))
        self._image_of_region.extend([self._n_images] * n_regions)
        self._n_images += 1

    def good(self) -> Scores:
        """The scores of the pixels of good images, in any order."""
        return np.frombuffer(self._good, dtype=np.float32)

    def around(self) -> Scores:
        """The scores of the defect-free pixels of defective images, in any order."""
        return np.frombuffer(self._around, dtype=np.float32)

    def defect(self) -> Scores:
        """M scores of defect pixels."""
        return np.frombuffer(self._defect, dtype=np.float32)

    def regions(self) -> NDArray[np.int32]:
        """M region numbers."""
        return np.frombuffer(self._regions, dtype=np.int32)

    def image_of_region(self) -> NDArray[np.int32]:
        """The number of the defective image that each region is in."""
        return np.frombuffer(self._image_of_region, dtype=np.int32)

    @property
    def n_images(self) -> int:
        """How many defective images there are."""
        return self._n_images

    def sorted_nominal(self) -> tuple[list[Scores], list[Scores]]:
        """The defect-free pixels of good and of defective images, each in parts that rise."""
        # In parts, as NumPy sorts without the interpreter lock, and counts over sorted parts just add up.
        good, around = (np.array_split(scores, SORT_THREADS // 2) for scores in (self.good(), self.around()))
        if not self._is_sorted:
            with ThreadPoolExecutor(SORT_THREADS) as pool:
                list(pool.map(np.ndarray.sort, [*good, *around]))
            self._is_sorted = True
        return good, around


def exact_result(collected: Sequence[ExactPixels], limit: float) -> PixelResult:
    """The metrics of all that was collected. Raises `ValueError` for pixels of one kind only, or a wrong limit."""
    parts = [each.sorted_nominal() for each in collected]
    first_region = np.cumsum([0, *(each.image_of_region().size for each in collected)]).tolist()
    first_image = np.cumsum([0, *(each.n_images for each in collected)]).tolist()
    return pixel_metrics(
        [part for good, _ in parts for part in good],
        [part for _, around in parts for part in around],
        np.concatenate([each.defect() for each in collected]),
        _joined([each.regions() for each in collected], first_region),
        _joined([each.image_of_region() for each in collected], first_image),
        n_images=first_image[-1],
        limit=limit,
    )


def pixel_metrics(
    good: Sequence[Scores],
    around: Sequence[Scores],
    defect: Scores,
    regions: NDArray[np.int32],
    image_of_region: NDArray[np.int32],
    n_images: int,
    limit: float = 0.3,
) -> PixelResult:
    """The functional core.

    `good`, `around`: vectors of scores of defect-free pixels of good and of defective images, each rising; `defect`:
    scores of M defect pixels in any order; `regions`: their region numbers; `image_of_region`: the image, 0 to
    `n_images` − 1, of each region. No NaN.
    """
    n_good = sum(part.size for part in good)
    n_nominal = n_good + sum(part.size for part in around)
    check_both_kinds(defect.size, n_nominal)
    order, thresholds, hits = _rank(defect)
    above, reached = _count(good, thresholds)
    regions = regions[order]  # by falling score
    del order
    per_image = None
    if resolves(n_good):
        found = np.repeat(found_share(above, reached, n_good), np.diff(hits, prepend=0))
        per_image = _mean_by(image_of_region[regions], found, n_images)
        del found
    more_above, more_reached = _count(around, thresholds)
    above += more_above
    reached += more_reached
    del more_above, more_reached
    f1 = 2 * hits / (hits + reached + defect.size)
    best = int(np.argmax(f1))  # the first of equals, and the thresholds fall
    f1_max, f1_threshold = float(f1[best]), float(thresholds[best])
    del f1, thresholds
    pr = measured(precision_recall(hits, reached), step_area)
    # On the way to a threshold the other curves run level, over the defect-free pixels above it; then they
    # climb, straight up or, where defect-free pixels tie with it, slanting: two corners for each threshold.
    fpr = np.concatenate([[0], np.column_stack([above, reached]).ravel(), [n_nominal]]) / n_nominal
    del above, reached
    roc = measured((fpr, _corners(hits / defect.size)), trapezoid_area)
    overlap = mean_overlap(regions)[hits - 1]
    pro = measured((fpr, _corners(overlap)), lambda x, y: aupro(x, y, limit))
    n_inspected = int(np.count_nonzero(np.bincount(regions)))
    return PixelResult(
        auroc=roc.area,
        average_precision=pr.area,
        aupro=pro.area,
        f1_max=f1_max,
        f1_threshold=f1_threshold,
        aupimo=None if per_image is None else float(np.nanmean(per_image)),
        aupimo_per_image=per_image,
        roc=roc.drawn,
        pr=pr.drawn,
        pro=pro.drawn,
        n_regions=n_inspected,
        n_regions_not_inspected=image_of_region.size - n_inspected,
        n_good_pixels=n_good,
    )


class _Ranking(NamedTuple):
    """M defect pixels by falling score, their K distinct scores, and the number of pixels found at each."""

    order: NDArray[np.int64]  # M indices
    thresholds: Scores  # K
    hits: NDArray[np.int64]  # K: defect pixels that score at least as high


def _rank(defect: Scores) -> _Ranking:
    order = np.argsort(defect)[::-1]
    ranked = defect[order]
    last = last_of_ties(ranked)
    return _Ranking(order, ranked[last], last + 1)


def _count(nominal: Sequence[Scores], thresholds: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many defect-free pixels score higher than each of K falling thresholds, and at least as high."""
    above, reached = np.zeros(thresholds.size, np.int64), np.zeros(thresholds.size, np.int64)
    for part in nominal:
        above += part.size - np.searchsorted(part, thresholds, side="right")
        reached += part.size - np.searchsorted(part, thresholds, side="left")
    return above, reached


def _mean_by(group: NDArray[np.int32], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The mean of the values of each group, 0 to `count` − 1; NaN for a group without any."""
    sizes = np.bincount(group, minlength=count)
    with np.errstate(invalid="ignore"):
        return np.bincount(group, values, minlength=count) / sizes


def _corners(height: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights at 2K + 2 corners over the false-positive rate, from those reached at K thresholds."""
    return np.repeat(np.append(0.0, height), 2)


def _joined(numbers: Sequence[NDArray[np.int32]], first: Sequence[int]) -> NDArray[np.int32]:
    """Numbers that each begin at 0, one after the other."""
    return np.concatenate([each + np.int32(start) for each, start in zip(numbers, first, strict=False)])


def _extend(store: array[float] | array[int], values: Scores | NDArray[np.int32]) -> None:
    store.frombytes(np.ascontiguousarray(values).view(np.uint8).data)
