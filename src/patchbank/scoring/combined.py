"""The calibrations of an ensemble's members → that of the ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from patchbank.calibration.calibration import Calibration, standardised
from patchbank.calibration.correction import standardised_as_apart
from patchbank.errors import OptionError
from patchbank.scoring.together import score_together

_SHARED = 0.8  # of the images, that all members must have been calibrated on
_AT_ONCE = 256  # images whose maps are put together


def combined(all_of: Sequence[Calibration]) -> tuple[Calibration, bool]:
    """The scores of good images, and whether they are those of the mean map.

    Raises `OptionError` where the members were calibrated on different images.
    """
    common = set.intersection(*(set(calibration.images) for calibration in all_of))
    first, *others = shared = all_of
    if _SHARED * max(map(len, all_of)) <= len(common):  # a file that went away meanwhile is no reason to give up
        first, *others = shared = [each.without(set(each.images) - common) for each in all_of]
    others = [other.in_order(first.images) for other in others]  # folds have another order
    if any(other.images != first.images for other in others):
        raise OptionError("the members of an ensemble were calibrated on other images each: give them one seed")
    shared = [first, *others]
    if all(each.cells is not None for each in shared):
        nominal = [each.peaks for each in all_of]
        peaks = _peaks_of_mean(shared, nominal)
        if any(each.apart for each in shared):
            # where leave-one-out scores are not corrected, they are those of new images
            peaks = _as_new(peaks, first.images, [each.apart or each for each in shared], nominal)
        return replace(first, scores=peaks, peaks=peaks.copy(), cells=None, apart=None), True
    scores = [standardised(mine.scores, each.scores) for mine, each in zip(shared, all_of, strict=True)]
    # a method may have made the maps of some images only: NaN for the others. The mean of the peaks is never below the
    # peak of the mean
    found = [standardised(mine.peaks, each.peaks) for mine, each in zip(shared, all_of, strict=True)]
    return replace(first, scores=np.mean(scores, axis=0), peaks=np.mean(found, axis=0), cells=None, apart=None), False


def _peaks_of_mean(calibrations: Sequence[Calibration], nominal: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The highest place of the mean of standardised maps, of N images in one order."""
    cells = [each.cells for each in calibrations if each.cells is not None]
    parts = [[c[i : i + _AT_ONCE] for c in cells] for i in range(0, len(calibrations[0]), _AT_ONCE)]
    return np.concatenate([score_together(part, nominal) for part in parts])


def _as_new(
    peaks: NDArray[np.float64],
    images: Sequence[str],
    apart: Sequence[Calibration],
    nominal: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Leave-one-out peaks of the mean map as new images reach them: by what some of the `images` reach `apart`. Each
    member's own correction would not do, since the peaks of its map and of the mean map are different places."""
    common = set(images).intersection(*(each.images for each in apart))
    order = [name for name in images if name in common]
    if not order:
        return peaks
    found = _peaks_of_mean([each.without(set(each.images) - common).in_order(order) for each in apart], nominal)
    return standardised_as_apart(peaks, peaks[[name in common for name in images]], found)
