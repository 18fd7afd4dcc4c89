"""Scores and maps from distances, in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.distances import Distances, One
from patchbank.calibration.calibration import standardised
from patchbank.calibration.position_scale import PositionScale, PositionStatistics, coarse
from patchbank.scoring.maps import anomaly_map

Maps = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Variant:
    """How maps are made: `sigma` of the Gaussian in inspected pixels, and whether they are divided by what good images
    reach at each place."""

    sigma: float
    scaled: bool


@dataclass(frozen=True)
class Scored:
    """Peaks of maps of the training images, each on the scale of the others; of good, then of defective test images;
    and the maps of the latter two."""

    loo: NDArray[np.float64]
    good: NDArray[np.float64]
    bad: NDArray[np.float64]
    maps: Maps


def scored(distances: Distances, variant: Variant) -> Scored:
    """The scores of one model in one way."""
    loo, good, bad = (_maps(group, variant.sigma) for group in (distances.loo, distances.good, distances.bad))
    statistics = PositionStatistics.of([coarse(each, None) for each in loo])
    if not variant.scaled or not statistics.is_enough:
        return Scored(_peaks(loo), _peaks(good), _peaks(bad), good + bad)
    loo = [_divided(each, statistics.scale(without=[i])) for i, each in enumerate(loo)]
    scale = statistics.scale()
    good, bad = ([_divided(each, scale) for each in group] for group in (good, bad))
    return Scored(_peaks(loo), _peaks(good), _peaks(bad), good + bad)


def together(parts: Sequence[Scored]) -> Scored:
    """An ensemble's: the mean of standardised scores, and of standardised maps."""
    loo, good, bad = (
        np.mean([standardised(getattr(part, name), part.loo) for part in parts], axis=0)
        for name in ("loo", "good", "bad")
    )
    maps = []
    for of_image in zip(*(part.maps for part in parts), strict=True):
        height, width = of_image[0].shape
        same = [cv2.resize(each, (width, height)) for each in of_image]
        maps.append(np.mean([standardised(m, part.loo) for m, part in zip(same, parts, strict=True)], axis=0))
    return Scored(loo, good, bad, [np.asarray(each, np.float32) for each in maps])


def _maps(images: list[One], sigma: float) -> Maps:
    return [anomaly_map(torch.from_numpy(one.distances), one.inspected, sigma) for one in images]


def _divided(smoothed: NDArray[np.float32], scale: PositionScale) -> NDArray[np.float32]:
    height, width = smoothed.shape
    return smoothed / scale.at((height, width))


def _peaks(maps: Maps) -> NDArray[np.float64]:
    return np.array([float(each.max()) for each in maps])
