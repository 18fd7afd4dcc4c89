"""What each image adds to the pixel metrics, small enough to keep: histograms, for bootstrap and comparison.

A resampling of images needs the curves of images drawn again and again, which no sort over all pixels gives. So each
image keeps how many of its defect-free and defect pixels, and what share of its defect regions, fall into each of at
most 512 bins of equal weight. The bins shift a value by little, alike in every draw: intervals are moved back by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchbank._system.files import replacing
from patchbank.metrics.curves import bin_of
from patchbank.metrics.pixel import checked
from patchbank.metrics.region import label_regions
from patchbank.metrics.resampling import Weights

BINS = 512
_BITS = 18

_Spread = tuple[NDArray[np.uint32], NDArray[np.float32]]  # bins and what is in them
_NOTHING: _Spread = (np.zeros(0, np.uint32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class PixelPieces:
    """For N images and B bins, the highest scores first: float32 N×B `nominal` and `defect` pixels and `overlap`, the
    sum over the image's regions of their share. An image that does not count for the pixel metrics has zeros."""

    nominal: NDArray[np.float32]
    defect: NDArray[np.float32]
    overlap: NDArray[np.float32]

    def of(self, images: NDArray[np.int64]) -> PixelPieces:
        """Those of some images, by their numbers."""
        return PixelPieces(self.nominal[images], self.defect[images], self.overlap[images])

    def counting(self) -> NDArray[np.int64]:
        """The numbers of the images that count."""
        return np.flatnonzero(self.sizes())

    def sizes(self) -> NDArray[np.float64]:
        """How many pixels of each image were inspected."""
        return np.asarray(self.nominal.sum(axis=1, dtype=np.float64) + self.defect.sum(axis=1, dtype=np.float64))

    def is_defective(self) -> NDArray[np.bool_]:
        """Which images have inspected defect pixels."""
        return np.asarray(self.defect.sum(axis=1) > 0)

    def metrics(self, weights: Weights, limit: float = 0.3) -> dict[str, NDArray[np.float64]]:
        """C values each of "pixel_auroc", "pixel_ap" and "aupro" for C×N weights; NaN where a kind of pixel is not
        there."""
        alarms, hits, overlap = (
            np.cumsum(weights @ each, axis=1, dtype=np.float64) for each in (self.nominal, self.defect, self.overlap)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            rate, found, covered = (np.pad(e / e[:, -1:], ((0, 0), (1, 0))) for e in (alarms, hits, overlap))
            new = np.diff(hits, axis=1, prepend=0)
            precision = np.sum(new * hits / np.maximum(hits + alarms, 1), axis=1) / hits[:, -1]
        return {
            "pixel_auroc": _area(rate, found, 1.0),
            "pixel_ap": precision,
            "aupro": _area(rate, covered, limit),
        }

    def write(self, path: str | PathLike[str]) -> None:
        """Keep them in a compressed .npz file."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, nominal=self.nominal, defect=self.defect, overlap=self.overlap)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> PixelPieces:
        """The inverse of `write`. Raises `OSError`, `ValueError` or `KeyError` for another file."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["nominal"], arrays["defect"], arrays["overlap"])


class PieceCollector:
    """Takes maps and masks one image at a time; some kilobytes each."""

    def __init__(self) -> None:
        self._spreads: list[tuple[_Spread, _Spread, _Spread]] = []

    def skip(self) -> None:
        """An image that does not count for the pixel metrics."""
        self._spreads.append((_NOTHING, _NOTHING, _NOTHING))

    def update(self, map: ArrayLike, mask: ArrayLike) -> None:
        """Add one image, as `PixelMetrics.update`."""
        scores, is_defect = checked(map, mask)
        inspected = ~np.isnan(scores)
        if not is_defect.any():
            self._spreads.append((_spread(scores[inspected]), _NOTHING, _NOTHING))
            return
        labels, _ = label_regions(is_defect)
        seen = inspected & is_defect
        regions = labels[seen]
        share = 1 / np.bincount(regions)[regions] if regions.size else None
        defect = scores[seen]
        self._spreads.append((_spread(scores[inspected & ~is_defect]), _spread(defect), _spread(defect, share)))

    def pieces(self) -> PixelPieces:
        """What was added, over common bins."""
        group = self._groups()
        tables = np.zeros((3, len(self._spreads), int(group.max(initial=0)) + 1), np.float32)
        for i, image in enumerate(self._spreads):
            for table, (bins, amounts) in zip(tables, image, strict=True):
                np.add.at(table[i], group[bins], amounts)
        return PixelPieces(*tables)

    def _groups(self) -> NDArray[np.int64]:
        """The bin that each fine bin goes to: the highest scores to 0, with about equal weight in each, where the
        three kinds weigh the same."""
        weight = np.zeros(1 << _BITS)
        for kind in zip(*self._spreads, strict=True):
            total = sum(float(amounts.sum(dtype=np.float64)) for _, amounts in kind)
            for bins, amounts in kind:
                weight[bins] += amounts / total
        above = np.cumsum(weight[::-1])[::-1] - weight
        coarse = np.minimum((above / max(weight.sum(), 1e-300) * BINS).astype(np.int64), BINS - 1)
        return np.unique(coarse, return_inverse=True)[1].reshape(-1)


def _spread(scores: NDArray[np.float32], amounts: NDArray[np.float64] | None = None) -> _Spread:
    if not scores.size:
        return _NOTHING
    bins = bin_of(scores, _BITS)
    low = int(bins.min())
    counts = np.bincount(bins - low, amounts)
    kept = np.flatnonzero(counts)
    return (kept + low).astype(np.uint32), counts[kept].astype(np.float32)


def _area(x: NDArray[Any], y: NDArray[Any], limit: float) -> NDArray[np.float64]:
    """C areas under rising curves of straight lines, from 0 to the limit, over the limit."""
    wide = np.diff(x, axis=1)
    inside = np.diff(np.minimum(x, limit), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(wide > 0, inside / wide, 0.0)
    area: NDArray[np.float64] = np.sum(inside * (2 * y[:, :-1] + share * np.diff(y, axis=1)), axis=1) / 2 / limit
    return area
