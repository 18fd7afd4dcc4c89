"""Region-level metric: AUPRO, the area under the per-region overlap curve.

Every defect counts the same, however large: the curve is the mean over all regions of the share of the region
that scores at or above the threshold, against the share of defect-free pixels that does (Bergmann et al.,
"The MVTec Anomaly Detection Dataset", IJCV 2021, and its evaluation code). The pixels are sorted in
`pixel.py`, once for all pixel metrics.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.metrics.image import trapezoid_area


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The 8-connected components of a mask: pixels that touch by an edge or a corner are one region.

    `mask` is bool H×W, True = defect. Returns int32 H×W with 0 = defect-free and 1 to R = region, and R.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return labels, count - 1  # OpenCV counts the background too


def mean_overlap(regions: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean share of a region found, after each of its pixels.

    `regions` has the region number (≥ 0) of each of M > 0 defect pixels, in the order in which they are
    found: by falling score. Returns M values that rise to 1. A number without a pixel is not a region.
    """
    sizes = np.maximum(np.bincount(regions), 1)
    overlap = np.cumsum((1.0 / sizes)[regions])  # 1 / |r| for each pixel
    overlap /= overlap[-1]  # which is R, the number of regions, but for rounding
    return overlap


def aupro(fpr: NDArray[np.float64], overlap: NDArray[np.float64], limit: float = 0.3) -> float:
    """Area under the overlap curve for false-positive rates from 0 to `limit`, divided by `limit`: 0 to 1.

    `fpr` and `overlap` are the K corners of the curve, both rising from 0 to 1; between them it is straight,
    also where the limit cuts it. Raises `ValueError` for a limit outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of the false-positive rate must be above 0 and at most 1, not {limit}")
    # The first corner at or beyond the limit. `np.interp` would take the last of several at one rate: the top
    # of a vertical rise at the limit instead of its foot, and so a triangle too much.
    end = int(np.searchsorted(fpr, limit, side="left"))
    share = (limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
    height = overlap[end - 1] + share * (overlap[end] - overlap[end - 1])
    return trapezoid_area(np.append(fpr[:end], limit), np.append(overlap[:end], height)) / limit
