"""Whether an export computes what the model does: on real images, through the runtime that will be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank.data import Sample
from patchbank.detector import Detector
from patchbank.edge.runtime import Exported
from patchbank.errors import ExportError
from patchbank.prediction import Prediction

TOLERANCE = 1e-3  # relative
MOST_IMAGES = 32


@dataclass(frozen=True)
class Difference:
    """The largest difference of a number or a map over all images, absolute and relative."""

    absolute: float = 0.0
    relative: float = 0.0

    def __or__(self, other: Difference) -> Difference:
        return Difference(max(self.absolute, other.absolute), max(self.relative, other.relative))


@dataclass(frozen=True)
class Parity:
    """The differences of an export from the model over `images` images; `verdicts`: on how many it decides
    otherwise; `score_ratio`: the median of its scores over the model's.

    A score's is relative to the score, a map's to its largest value, or to the median of good images' where that is
    larger: a standardised score may be 0, and so may the map of a training image.
    """

    images: int
    score: Difference
    map: Difference | None
    verdicts: int
    score_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @property
    def worst(self) -> float:
        """The larger relative difference."""
        return max(self.score.relative, self.map.relative if self.map else 0.0)


def compare(detector: Detector, exported: Exported, sources: Sequence[Sample]) -> Parity:
    """The model and its export on the same images."""
    usual, usual_peak = (_median(values) for values in (detector.calibration_.scores, detector.calibration_.peaks))
    score, anomaly, verdicts = Difference(), Difference() if detector.localizes else None, 0
    ratios = []
    for source in sources:
        one, other = detector.predict(source), exported.predict(source)
        score |= _difference(one.score, other.score, max(abs(one.score), usual))
        if anomaly is not None:
            anomaly |= _of_maps(one, other, usual_peak)
        verdicts += one.is_anomalous != other.is_anomalous
        ratios.append(other.score / one.score if one.score else 1.0)
    return Parity(len(sources), score, anomaly, verdicts, float(np.median(ratios)))


def check(parity: Parity) -> None:
    """Raise `ExportError` where an export differs from the model by more than the tolerance."""
    if not parity.worst <= TOLERANCE:
        of_map = f", the map by {parity.map.relative:.1e}" if parity.map else ""
        raise ExportError(
            f"the exported graph does not compute what the model does: over {parity.images} images the score differs "
            f"by {parity.score.relative:.1e}{of_map} (relative; {TOLERANCE:.0e} is allowed): nothing was written"
        )


def thumbnails_of(detector: Detector) -> list[Sample]:
    """The model's pictures of its training images, at the size that those had."""
    sources = []
    for name, thumbnail in detector.thumbnails_.items():
        height, width = thumbnail.size
        picture = Image.fromarray(thumbnail.pixels()).resize((width, height), Image.Resampling.BICUBIC)
        sources.append(Sample.of(name, detector.values_.like(np.asarray(picture))))
    return sources


def some_of(sources: Sequence[Sample], most: int = MOST_IMAGES) -> list[Sample]:
    """At most so many, evenly spread."""
    return [sources[i] for i in sorted({round(i) for i in np.linspace(0, len(sources) - 1, min(most, len(sources)))})]


def _difference(one: float, other: float, scale: float) -> Difference:
    absolute = abs(one - other)
    # written so that a NaN is no parity
    return Difference(absolute, absolute / max(scale, 1e-12)) if absolute >= 0 else Difference(np.inf, np.inf)


def _median(values: NDArray[np.float64]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.median(finite)) if len(finite) else 0.0


def _of_maps(one: Prediction, other: Prediction, usual: float) -> Difference:
    seen = ~np.isnan(one.map)
    if one.map.shape != other.map.shape or not np.array_equal(seen, ~np.isnan(other.map)):
        return Difference(np.inf, np.inf)
    largest = max(float(np.abs(one.map[seen]).max()), usual)
    return _difference(0.0, float(np.abs(one.map[seen] - other.map[seen]).max()), largest)
