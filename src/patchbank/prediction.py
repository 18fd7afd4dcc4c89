"""The one result type: every detector returns it, every command, report and service takes it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank._system.numbers import is_whole
from patchbank.errors import OptionError

if TYPE_CHECKING:  # an exported model predicts without torch
    from patchbank.scoring.nearest import NearestPatches


@dataclass(frozen=True)
class Region:
    """A connected part of the map above the map threshold, in pixels of the input image.

    Attributes:
        box: (left, top, right, bottom); right and bottom are exclusive.
        area: in pixels.
        score: peak of the map inside.
    """

    box: tuple[int, int, int, int]
    area: int
    score: float


@dataclass(frozen=True)
class Neighbour:
    """The nominal patch that a position was compared with.

    Attributes:
        image: name of the training image.
        row: of the patch on the grid of that image.
        column: of the patch on the grid of that image.
        box: the same place in pixels of the training image, (left, top, right, bottom).
        distance: Euclidean distance of the patch features; of several channels, in standard deviations above that of
            good patches.
    """

    image: str
    row: int
    column: int
    box: tuple[int, int, int, int]
    distance: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says about one image.

    Plain data: it can be pickled and does not hold the model. Two predictions are equal if image, scores, map and
    regions are, whatever the timings.

    Attributes:
        path: name of the image.
        score: raw image score, a distance; larger is stranger, and there is no fixed scale.
        p_value: share of good parts that are expected to score at least this high.
        threshold: score above which the image is called anomalous.
        is_anomalous: whether the score is above the threshold.
        map: float32, H×W of the input image; NaN where the image was not inspected.
        map_threshold: value of `map` from which `regions` are drawn.
        regions: largest first; an accepted image has none, a rejected one at least one.
        timings: milliseconds of each stage.
        channels: of several channels, how far the patches at the peak are from good ones in each, in standard
            deviations of good ones.
    """

    path: str
    score: float
    p_value: float
    threshold: float
    is_anomalous: bool
    map: NDArray[np.float32]
    map_threshold: float
    regions: tuple[Region, ...]
    timings: dict[str, float] = field(default_factory=dict)
    channels: dict[str, float] = field(default_factory=dict)
    _nearest: NearestPatches | None = field(default=None, repr=False)
    _cells: NDArray[np.float32] | None = field(default=None, repr=False)  # for an ensemble: `scoring.together`

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return self._decision() == other._decision() and np.array_equal(self.map, other.map, equal_nan=True)

    def __hash__(self) -> int:
        return hash(self._decision())

    def _decision(self) -> tuple[object, ...]:
        """All but the map and the timings."""
        numbers = (self.score, self.p_value, self.threshold, self.map_threshold)
        # NaN equals nothing, itself among it
        return self.path, self.is_anomalous, self.regions, tuple(str(n) if n != n else n for n in numbers)

    def nearest(self, x: int, y: int) -> Neighbour:
        """The nominal patch nearest to the patch at pixel column `x`, row `y` of the input image.

        Raises `OptionError` for a position outside the image or not inspected.
        """
        if self._nearest is None:
            raise OptionError(f"{self.path}: this method keeps no training patches to compare with")
        height, width = self.map.shape
        if not (is_whole(x) and is_whole(y)):
            raise OptionError(f"{self.path}: a position is a pixel column and row, not ({x}, {y})")
        if not (0 <= x < width and 0 <= y < height) or np.isnan(self.map[y, x]):
            raise OptionError(
                f"{self.path}: position ({x}, {y}) lies outside the inspected part of the {width}×{height} image"
            )
        return self._nearest.at(x, y)

    def at_threshold(self, threshold: float) -> Prediction:
        """The same score and map, decided at another threshold on the image score; the p-value stays. Raises
        `OptionError` for NaN, which would accept everything."""
        if isinstance(threshold, bool) or math.isnan(threshold):
            raise OptionError(f"a threshold is a score to reject above, not {threshold}")
        is_anomalous = self.score > threshold
        regions = regions_of(self.map, self.map_threshold) if is_anomalous else ()
        return replace(self, threshold=threshold, is_anomalous=is_anomalous, regions=regions)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, as plain values for JSON."""
        return {
            "path": self.path,
            "score": self.score,
            "p_value": self.p_value,
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
            "regions": [{"box": list(r.box), "area": r.area, "score": r.score} for r in self.regions],
            "timings": self.timings,
            **({"channels": self.channels} if self.channels else {}),
        }


@dataclass(frozen=True)
class Place:
    """A position of an image, and what good parts have there.

    Attributes:
        x: pixel column.
        y: pixel row.
        box: of its patch, (left, top, right, bottom).
        value: of the map.
        neighbours: the nearest patch of each of some training images, nearest first.
        channel: of several channels, the one that they were found in; "" of one.
    """

    x: int
    y: int
    box: tuple[int, int, int, int]
    value: float
    neighbours: tuple[Neighbour, ...]
    channel: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        plain = asdict(self)
        if not self.channel:
            del plain["channel"]
        return plain


@dataclass(frozen=True)
class Explanation:
    """A prediction and the places that it rests on.

    Attributes:
        prediction: of the image.
        places: the most suspicious first.
    """

    prediction: Prediction
    places: tuple[Place, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {**self.prediction.to_dict(), "places": [place.to_dict() for place in self.places]}


def find_regions(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[Region, ...]:
    """8-connected regions of the map at or above the threshold, largest first; NaN is below everything."""
    above = np.nan_to_num(anomaly_map, nan=-np.inf) >= threshold
    if not above.any():
        return ()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    peaks = np.full(count, -np.inf, dtype=np.float32)
    np.maximum.at(peaks, labels[above], anomaly_map[above])
    regions = []
    for (left, top, width, height, area), peak in zip(stats[1:].tolist(), peaks[1:].tolist(), strict=True):
        regions.append(Region((left, top, left + width, top + height), area, peak))
    return tuple(sorted(regions, key=lambda r: (-r.area, r.box)))


def regions_of(anomaly_map: NDArray[np.float32], threshold: float) -> tuple[Region, ...]:
    """As `find_regions`, at least one: where nothing reaches the threshold, at the peak. None where there is no map."""
    seen = anomaly_map[~np.isnan(anomaly_map)]
    return find_regions(anomaly_map, min(threshold, float(seen.max()))) if seen.size else ()


def finite(value: Any) -> Any:
    """Numbers that are infinite, or none, as None, also inside: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
