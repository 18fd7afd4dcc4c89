"""How high good parts score at each place of the picture, so that a map can be read on one scale everywhere.

Leave-one-out maps of good images are higher at some places than at others: at borders, at edges of the part, where
light glances off. Divided by what good images reach there, a map has the same meaning at every place. The field is the
mean of the good maps plus `SPREADS` standard deviations, smoothed, divided by its mean, and shrunk towards 1. Places
are relative: a fraction of the height and of the width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

if TYPE_CHECKING:
    import torch

LEAST_IMAGES = 24  # good images with a map; fewer say too little of single places
CELLS = 64  # along each side of the field
SPREADS = 5.0  # standard deviations above the mean
BLUR = 2.0  # cells, σ of the Gaussian
SHRINK = 0.3  # share of 1 in the field: the rest is what was found
_KEY = "post.position_scale"


@dataclass(frozen=True, eq=False)
class PositionScale:
    """`field`: CELLS×CELLS float32 with mean 1, what a map is divided by at each place."""

    field: NDArray[np.float32]

    def at(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """The field at an inspected size (height, width), bilinear."""
        return _resized(self, size)

    def state(self) -> dict[str, torch.Tensor]:
        """As a tensor for the model file."""
        import torch

        return {_KEY: torch.from_numpy(self.field.copy())}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> PositionScale | None:
        """The inverse of `state`; None where a model has no field."""
        return cls(tensors[_KEY].cpu().numpy().copy()) if _KEY in tensors else None

    def joined(self, mine: int, other: PositionScale, theirs: int) -> PositionScale:
        """The mean with the field of another model, weighted by the numbers of images."""
        whole = (self.field * mine + other.field * theirs) / (mine + theirs)
        return PositionScale(np.asarray(whole, dtype=np.float32))


@lru_cache(maxsize=8)
def _resized(scale: PositionScale, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(scale.field, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def coarse(smoothed: NDArray[np.float32], inspected: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """H×W map → CELLS×CELLS means; places that are not inspected (H×W bool) have the mean of the others."""
    if inspected is not None:
        smoothed = np.where(inspected, smoothed, smoothed[inspected].mean(dtype=np.float64).astype(np.float32))
    return np.asarray(cv2.resize(smoothed, (CELLS, CELLS), interpolation=cv2.INTER_AREA), dtype=np.float32)


@dataclass
class PositionStatistics:
    """Sums over coarse maps of good images, from which any of them can be taken out again."""

    maps: list[NDArray[np.float32]] = field(default_factory=list)
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, CELLS, CELLS)))

    def add(self, of_image: NDArray[np.float32]) -> None:
        """Take the coarse map of an image in."""
        self.maps.append(of_image)
        self._sums += _powers(of_image)

    @property
    def is_enough(self) -> bool:
        """Whether there are as many images as a field takes."""
        return len(self.maps) >= LEAST_IMAGES

    def scale(self, without: Collection[int] = ()) -> PositionScale:
        """The field of all images but those of some numbers."""
        count = len(self.maps) - len(without)
        first, second = self._sums - sum((_powers(self.maps[i]) for i in without), np.zeros((2, CELLS, CELLS)))
        mean = first / count
        spread = np.sqrt(np.maximum(second / count - mean**2, 0))
        return PositionScale(_field(mean + SPREADS * spread))

    @classmethod
    def of(cls, maps: Sequence[NDArray[np.float32]]) -> Self:
        """Of many at once."""
        found = cls()
        for of_image in maps:
            found.add(of_image)
        return found


def _powers(of_image: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = of_image.astype(np.float64)
    return np.stack([exact, exact**2])


def _field(reached: NDArray[np.float64]) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(reached, (0, 0), BLUR, borderType=cv2.BORDER_REFLECT)
    mean = smooth.mean()
    # good images without any distance, or maps with a sign: no ratio tells places apart
    if not np.isfinite(mean) or smooth.min() <= 0:
        return np.ones((CELLS, CELLS), dtype=np.float32)
    return np.asarray((1 - SHRINK) * smooth / mean + SHRINK, dtype=np.float32)
