"""What the exact and the binned pixel metrics share: their result, thinned curves, and scores in bins of their bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchbank.metrics.image import Curve

CURVE_POINTS = 500


@dataclass(frozen=True)
class AtThreshold:
    """What the map says at one threshold t, a pixel being marked where its score is at or above t (compared as float32,
    as the maps are). `iou`: pixels both marked and defective over those that are either, of all images together;
    `region_recall`: share of the inspected defect regions of which any pixel is marked."""

    iou: float
    region_recall: float


@dataclass(frozen=True)
class PixelResult:
    """Numbers from 0 to 1, and the curves (x, y), thinned to at most `CURVE_POINTS` drawn points.

    `roc` is (false-positive rate, true-positive rate), `pr` (recall, precision), `pro` (false-positive rate, mean
    per-region overlap), and goes beyond AUPRO's limit. `n_regions` regions count in `aupro`; `n_regions_not_inspected`
    more are left out, as the maps are NaN all over them. `f1_max` is reached where score >= `f1_threshold`. `aupimo`, a
    mean over the defective images, is None with fewer than 100 000 pixels of good images (`n_good_pixels`);
    `aupimo_per_image` has them in the order in which they were added, NaN where no defect pixel was inspected, and is
    None where the pixels were binned. `bounds`: name → (lowest, highest) that the exact value can be where they were
    binned; empty where all is exact.
    """

    auroc: float
    average_precision: float
    aupro: float
    f1_max: float
    f1_threshold: float
    aupimo: float | None
    aupimo_per_image: NDArray[np.float64] | None
    roc: Curve
    pr: Curve
    pro: Curve
    n_regions: int
    n_regions_not_inspected: int
    n_good_pixels: int
    at_threshold: AtThreshold | None = None
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)


class Measured(NamedTuple):
    """The area under a curve, and the curve thinned to at most `CURVE_POINTS` drawn points."""

    area: float
    drawn: Curve


def measured(curve: Curve, area: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> Measured:
    """The area under a curve and its thinned copy, so that no curve need be kept at full length."""
    return Measured(area(*curve), thinned(*curve))


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """At most `CURVE_POINTS` of the points of a curve, evenly spaced along its length, both ends included."""
    way = np.abs(np.diff(x))
    way += np.abs(np.diff(y))
    np.cumsum(way, out=way)
    steps = np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS - 1))
    index = np.unique(np.append(0, steps + 1))
    return x[index], y[index]


def check_both_kinds(n_defect: float, n_nominal: float) -> None:
    """Raise `ValueError` where the pixels are of one kind only."""
    for kind, count in (("marked as a defect", n_defect), ("free of defects", n_nominal)):
        if count == 0:
            raise ValueError(f"no inspected pixel is {kind}: pixel AUROC, AP and AUPRO need both kinds")


def bin_of(scores: NDArray[np.float32], bits: int) -> NDArray[np.int64]:
    """The bin of each score: the first `bits` bits of its float32, so ordered that bins rise with the scores.

    Needs no range known beforehand: within a power of two the 2^(bits − 9) bins have one width. -0 counts as 0.
    """
    pattern = (scores + np.float32(0)).view(np.uint32)
    ordered = np.where(pattern >> 31, ~pattern, pattern | np.uint32(1 << 31))
    bins: NDArray[np.int64] = (ordered >> (32 - bits)).astype(np.int64)
    return bins


def lowest_of(bins: NDArray[np.integer[Any]], bits: int) -> NDArray[np.float32]:
    """The lowest score that falls into each bin."""
    ordered = bins.astype(np.uint32) << np.uint32(32 - bits)
    pattern = np.where(ordered >> 31, ordered & np.uint32(0x7FFFFFFF), ~ordered).astype(np.uint32)
    values: NDArray[np.float32] = pattern.view(np.float32)
    values[np.isnan(values)] = -np.inf  # what comes before -inf is no number
    return values
