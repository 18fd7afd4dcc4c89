"""Scores and maps from distances, in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.distances import Distances, One
from patchbank.calibration.calibration import standardised
from patchbank.calibration.position_scale import PositionScale, PositionStatistics, coarse
from patchbank.scoring.maps import anomaly_map, highest_in_cells
from patchbank.scoring.together import score_together

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
    the maps of the latter two, and their highest values in cells, N×h×w."""

    loo: NDArray[np.float64]
    good: NDArray[np.float64]
    bad: NDArray[np.float64]
    maps: Maps
    cells: NDArray[np.float32]


def scored(distances: Distances, variant: Variant) -> Scored:
    """The scores of one model in one way."""
    loo, good, bad = (_maps(group, variant.sigma) for group in (distances.loo, distances.good, distances.bad))
    statistics = PositionStatistics.of([coarse(each, None) for each in loo])
    if not variant.scaled or not statistics.is_enough:
        return _scored(loo, good, bad)
    loo = [_divided(each, statistics.scale(without=[i])) for i, each in enumerate(loo)]
    scale = statistics.scale()
    good, bad = ([_divided(each, scale) for each in group] for group in (good, bad))
    return _scored(loo, good, bad)


def together(parts: Sequence[Scored]) -> tuple[NDArray[np.float64], NDArray[np.float64], Maps]:
    """An ensemble's scores of good and of defective test images, and their maps: the mean of standardised ones."""
    scores = score_together([part.cells for part in parts], [part.loo for part in parts])
    count = len(parts[0].good)
    return scores[:count], scores[count:], list(_mean_maps(parts))


def _mean_maps(parts: Sequence[Scored]) -> Iterator[NDArray[np.float32]]:
    for of_image in zip(*(part.maps for part in parts), strict=True):
        height, width = of_image[0].shape
        same = [cv2.resize(each, (width, height)) for each in of_image]
        mean = np.mean([standardised(m, part.loo) for m, part in zip(same, parts, strict=True)], axis=0)
        yield np.asarray(mean, np.float32)


def _scored(loo: Maps, good: Maps, bad: Maps) -> Scored:
    cells = np.stack([highest_in_cells(each) for each in good + bad])
    return Scored(_peaks(loo), _peaks(good), _peaks(bad), good + bad, cells)


def _maps(images: list[One], sigma: float) -> Maps:
    return [anomaly_map(torch.from_numpy(one.distances), one.inspected, sigma) for one in images]


def _divided(smoothed: NDArray[np.float32], scale: PositionScale) -> NDArray[np.float32]:
    height, width = smoothed.shape
    return smoothed / scale.at((height, width))


def _peaks(maps: Maps) -> NDArray[np.float64]:
    return np.array([float(each.max()) for each in maps])
