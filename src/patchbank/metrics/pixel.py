"""Pixel-level metrics over all pixels of a test set: from every pixel (`exact.py`), or from bins (`binned.py`)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchbank.metrics.binned import BinnedPixels
from patchbank.metrics.curves import AtThreshold, PixelResult
from patchbank.metrics.exact import ExactPixels, exact_result
from patchbank.metrics.region import label_regions


class PixelMetrics:
    """Takes maps and masks one image at a time, then computes.

    Peak memory: at most 4.25 bytes per defect-free pixel (its float32 score in a vector that grows and is
    sorted in place), 8.5 per defect pixel, and while `compute` runs about 130 more per defect pixel, fewer
    where they tie. 583 maps of 224×224 with 1.7 % defects take 120 MB, then 190 MB. After `to_bins`, or with
    `binned=True`, at most 42 MB, and `PixelResult.bounds` says how far each number can be from the exact one.

    `threshold`: where IoU and the recall of regions are taken, exact in both cases; None for neither.
    """

    def __init__(self, threshold: float | None = None, *, binned: bool = False) -> None:
        self.threshold = threshold
        self._pixels: ExactPixels | BinnedPixels = BinnedPixels() if binned else ExactPixels()
        self._counts = np.zeros(4, np.int64)  # marked in defects, marked elsewhere, defects, regions found

    @property
    def is_binned(self) -> bool:
        """Whether the scores are kept as a histogram."""
        return isinstance(self._pixels, BinnedPixels)

    @property
    def nbytes(self) -> int:
        """Bytes of what is held."""
        return self._pixels.nbytes

    def to_bins(self) -> None:
        """Keep a histogram from here on, and of what was added before."""
        if isinstance(self._pixels, ExactPixels):
            self._pixels = BinnedPixels.of(self._pixels)

    def update(self, map: ArrayLike, mask: ArrayLike) -> None:
        """Add one image: `map` float32 H×W, raw scores, NaN = not inspected; `mask` bool H×W, True = defect.

        Pixels that were not inspected are left out. An image whose mask has no defect is a good one. Raises
        `ValueError` if map and mask are not of one shape H×W, or the mask is not bool.
        """
        scores, is_defect = checked(map, mask)
        inspected = ~np.isnan(scores)
        if not is_defect.any():
            nominal = scores[inspected]
            self._pixels.add_good(nominal)
            self._count(nominal)
            return
        # Regions are those of the mask: one that is cut in two by pixels not inspected remains one.
        labels, count = label_regions(is_defect)
        nominal, seen = scores[inspected & ~is_defect], inspected & is_defect
        defect, regions = scores[seen], labels[seen] - np.int32(1)
        self._pixels.add_defective(nominal, defect, regions, count)
        self._count(nominal, defect, regions)

    def _count(
        self, nominal: NDArray[np.float32], defect: NDArray[np.float32] | None = None, regions: ArrayLike = ()
    ) -> None:
        if self.threshold is None:
            return
        at = np.float32(self.threshold)  # as NumPy compares a float32 map with a number
        self._counts[1] += np.count_nonzero(nominal >= at)
        if defect is not None:
            marked = defect >= at
            found = np.unique(np.asarray(regions)[marked]).size
            self._counts += np.array([np.count_nonzero(marked), 0, defect.size, found])

    def compute(self, *others: PixelMetrics, limit: float = 0.3) -> PixelResult:
        """The metrics of the images added here and to `others`; AUPRO up to the false-positive rate `limit`.

        With `others`, good images kept in one collector can count with each type of defect and with all
        types, while every pixel is held and sorted once. If one of them is binned, all are taken as binned. May be
        called again, also after more images.

        Raises `ValueError` if no defect pixel or no defect-free pixel was inspected (then none of the metrics
        can be computed, else all but AUPIMO can), if the limit is outside (0, 1], or if the thresholds differ.
        """
        collectors = (self, *others)
        if len({each.threshold for each in collectors}) > 1:
            raise ValueError("the collectors must have one threshold")
        exact = [each._pixels for each in collectors if isinstance(each._pixels, ExactPixels)]
        if len(exact) == len(collectors):
            result = exact_result(exact, limit)
        else:
            binned = [p if isinstance(p := each._pixels, BinnedPixels) else BinnedPixels.of(p) for each in collectors]
            result = BinnedPixels.joined(binned).result(limit)
        if self.threshold is None:
            return result
        hits, alarms, defects, found = np.sum([each._counts for each in collectors], axis=0).tolist()
        return dataclasses.replace(
            result, at_threshold=AtThreshold(iou=hits / (defects + alarms), region_recall=found / result.n_regions)
        )


def checked(map: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map and its mask as arrays. Raises `ValueError` where they do not fit."""
    scores, is_defect = np.asarray(map, dtype=np.float32), np.asarray(mask)
    if scores.ndim != 2 or scores.shape != is_defect.shape:
        raise ValueError(f"map {scores.shape} and mask {is_defect.shape} must have one shape, height × width")
    if is_defect.dtype != np.bool_:
        raise ValueError(f"mask must be bool (True = defect), not {is_defect.dtype}")
    return scores, is_defect
