"""What one evaluation hands to `metrics.json` and to the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank.metrics.pieces import PixelPieces
from patchbank.prediction import Place

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Case:
    """One test image: what it is, and what the model said. `defect` is "good" for a nominal part; `aupimo` is that of a
    defective image, NaN where its defect was not inspected, None where it cannot be computed; `channels` as of a
    `Prediction`."""

    path: str
    defect: str
    score: float
    p_value: float
    is_anomalous: bool
    aupimo: float | None = None
    channels: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_defective(self) -> bool:
        return self.defect != "good"

    @property
    def is_miss(self) -> bool:
        return self.is_defective and not self.is_anomalous

    @property
    def is_false_alarm(self) -> bool:
        return self.is_anomalous and not self.is_defective


@dataclass(frozen=True)
class Panel:
    """A picture of one case for the report: RGB uint8 H×W×3, drawn by `pictures.drawing.overlay` or
    `pictures.explanation`; the most suspicious `place`, where the method can show what good parts have there;
    `overlay_height`: how many rows of the picture are the overlay, where an explanation lies below it."""

    case: Case
    picture: NDArray[np.uint8]
    place: Place | None = None
    overlay_height: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """`metrics` is the document of `metrics.json`; `curves` has "roc", "pr", "pixel_roc", "pixel_pr" and "pro" where
    they can be computed, each (x, y) and thinned for drawing; `misses`, `false_alarms` and `examples` are panels,
    worst first; `how` says how the run was made, in words, in the order to print; `tiling`: how the first test
    image is cut into tiles, where it is; `root`: the folder of the dataset; `pieces`: what each case adds to the pixel
    metrics, where there are maps; `channels`: those that the model looks at."""

    metrics: dict[str, Any]
    cases: list[Case]
    threshold: float
    calibration_scores: NDArray[np.float64]
    curves: dict[str, Curve]
    misses: list[Panel] = field(default_factory=list)
    false_alarms: list[Panel] = field(default_factory=list)
    examples: list[Panel] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    tiling: NDArray[np.uint8] | None = None
    root: Path | None = None
    pieces: PixelPieces | None = None
    channels: tuple[str, ...] = ()
