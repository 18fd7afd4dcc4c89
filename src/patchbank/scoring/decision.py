"""Scores, map and calibration → the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchbank.calibration.calibration import Calibration
from patchbank.prediction import Prediction, regions_of

if TYPE_CHECKING:  # an exported model decides without torch
    from patchbank.scoring.nearest import NearestPatches


def decide(
    path: str,
    score: float,
    anomaly: NDArray[np.float32],
    calibration: Calibration,
    *,
    nearest: NearestPatches | None = None,
    timings: dict[str, float] | None = None,
    channels: dict[str, float] | None = None,
    cells: NDArray[np.float32] | None = None,
) -> Prediction:
    """The prediction for an image score and a map in input pixels.

    A rejected part has at least one region, an accepted one has none: so no more good parts have one than the
    false-alarm rate says.
    """
    is_anomalous = score > calibration.threshold
    return Prediction(
        path=path,
        score=score,
        p_value=calibration.p_value(score),
        threshold=calibration.threshold,
        is_anomalous=is_anomalous,
        map=anomaly,
        map_threshold=calibration.map_threshold,
        regions=regions_of(anomaly, calibration.map_threshold) if is_anomalous else (),
        timings=timings or {},
        channels=channels or {},
        _nearest=nearest,
        _cells=cells,
    )
