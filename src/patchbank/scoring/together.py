"""Several maps of one image → one score: the highest place of their mean.

A defect is high at the same place in all maps. What is high in the maps of a good image lies here in one of them and
there in another. Maps differ in size, so the cells of `maps.highest_in_cells` are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.calibration.calibration import Calibration, standardised
from patchbank.prediction import Prediction

BY_MEAN_MAP = "mean map"  # as the `score` of an ensemble in model files and exports


def together(
    found: Sequence[tuple[Prediction, Calibration]], by_mean_map: bool
) -> tuple[float, NDArray[np.float32], dict[str, float]]:
    """Score, map and timings of an ensemble, from the predictions of its members and their calibrations."""
    if by_mean_map:
        cells = [cells for p, _ in found if (cells := p._cells) is not None]
        score = float(score_together(cells, [c.peaks for _, c in found]))
    else:
        score = float(np.mean([standardised(np.float64(p.score), c.scores) for p, c in found]))
    anomaly = np.mean([standardised(p.map, c.peaks) for p, c in found], axis=0).astype(np.float32)
    return score, anomaly, {key: sum(p.timings[key] for p, _ in found) for key in found[0][0].timings}


def score_together(cells: Sequence[NDArray[np.float32]], nominal: Sequence[NDArray[np.float64]]) -> Any:
    """The highest mean of members' cells, each standardised by the peaks that the maps of nominal images reach.

    Args:
        cells: of each member, …×h×w; the mean is over those members that inspect a cell.
        nominal: of each member, peaks of N nominal images.

    Returns:
        The score, or one for each image: shape ….
    """
    total: Any = 0.0
    seen: Any = 0
    for of_member, peaks in zip(cells, nominal, strict=True):
        is_seen = np.isfinite(of_member)
        total = total + np.where(is_seen, standardised(of_member.astype(np.float64), peaks), 0.0)
        seen = seen + is_seen.astype(int)
    mean = np.where(seen > 0, total / np.maximum(seen, 1), -np.inf)
    return mean.max(axis=(-2, -1))
