"""AUPIMO: how much of each defective image's defect is found while next to nothing is marked on good images.

Bertoldo, Ameln, Vaidya and Akçay, "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
Tolerance", BMVC 2024. For image i, T_i(F) is the share of its defect pixels at or above the threshold at which the
share F of the pixels of good images is; AUPIMO_i is the mean of T_i over log F between two bounds, 1e-5 and 1e-4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FPR_BOUNDS = (1e-5, 1e-4)


def found_share(
    above: NDArray[np.int64], reached: NDArray[np.int64], n_good: int, bounds: tuple[float, float] = FPR_BOUNDS
) -> NDArray[np.float64]:
    """Share, 0 to 1, of the range of log F in which a pixel counts as found.

    `above`, `reached`: of the `n_good` pixels of good images, those that score higher than the pixel and those that
    score at least as high. Where some tie with it, it is found by a share that grows evenly between the two rates, as
    on the straight line of a curve. The mean over the defect pixels of an image is its AUPIMO.
    """
    low, high = bounds
    start, full = above / n_good, reached / n_good
    left, right = np.clip(start, low, high), np.clip(full, low, high)
    area: NDArray[np.float64] = np.log(high / right)
    tied = right > left
    from_, to, begin = left[tied], right[tied], start[tied]
    # ∫ (F − start) / (full − start) dF/F
    area[tied] += (to - from_ - begin * np.log(to / from_)) / (full[tied] - begin)
    area /= np.log(high / low)
    return area


def resolves(n_good: int, bounds: tuple[float, float] = FPR_BOUNDS) -> bool:
    """Whether so many pixels of good images can tell the lower bound from none."""
    return n_good * bounds[0] >= 1 - 1e-9


def unresolved(n_good: int, bounds: tuple[float, float] = FPR_BOUNDS) -> str:
    """Why AUPIMO cannot be computed."""
    return (
        f"AUPIMO counts false alarms down to {bounds[0]:g} of the pixels of good images, which takes "
        f"{round(1 / bounds[0])} of them, and {n_good} were inspected"
    )
