"""Images laid over a reference before they are inspected, so that a position means the same place of every part.

The reference is one of the training images. Each image is turned, scaled and shifted onto it; what comes free at the
borders mirrors the image, so that the network sees no invented edge, and is not inspected. Maps and boxes go the same
way back, into pixels of the image as it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.data.geometry import Box, View
from patchbank.data.read import read_image
from patchbank.data.registration import SIDE, Field, Matrix, Pattern, inverse
from patchbank.data.turning import carried
from patchbank.data.values import RGB, ValueRange
from patchbank.errors import ImageError
from patchbank.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

LEAST_CORRELATION = 0.25  # of the fine structure: parts of one kind have more, others less (docs/guides/alignment.md)
LEAST_OVERLAP = 0.5  # of the reference that an image must cover
_LOOKED_AT = 50  # training images that the reference is chosen from
_PLAIN = ValueRange()
_SMALL = 32  # side of the pictures that they are compared by


@dataclass(frozen=True)
class AlignedView(View):
    """The view of an image that is laid over a reference: `input_size` is that of the reference, `given_size` that of
    the image; `matrix`: two rows of three, from pixel centres of the image to those of the reference."""

    given_size: tuple[int, int]
    matrix: tuple[float, ...]

    @classmethod
    def of(cls, view: View, given_size: tuple[int, int], matrix: Sequence[float]) -> AlignedView:
        """The view of a reference, for an image that a matrix lays over it."""
        return cls(view.input_size, view.resized, view.offset, view.inspected, given_size, tuple(matrix))

    @property
    def original_size(self) -> tuple[int, int]:
        return self.given_size

    @property
    def alignment(self) -> tuple[float, ...]:
        return self.matrix

    def laid(self, rgb: RGB) -> RGB:
        height, width = self.input_size
        laid: RGB = cv2.warpAffine(
            rgb, self._matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return laid

    def covered(self) -> NDArray[np.bool_]:
        height, width = self.input_size
        everything = np.full(self.given_size, 255, np.uint8)
        # with what the image has a share in, so that its outermost pixels find themselves there
        return np.asarray(cv2.warpAffine(everything, self._matrix, (width, height), flags=cv2.INTER_LINEAR) > 0)

    def to_input(self, values: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        left, top, right, bottom = self.inspected_box
        seen = np.zeros(self.input_size, np.uint8)
        seen[top:bottom, left:right] = 1
        if mask is not None:
            seen &= mask.astype(np.uint8)
        size = (self.given_size[1], self.given_size[0])
        # from the reference to the map, so that the map is interpolated once
        through = self._onto_map @ np.vstack([self._matrix, [0, 0, 1]])
        back = cv2.WARP_INVERSE_MAP
        given = cv2.warpAffine(
            values, through[:2], size, flags=cv2.INTER_LINEAR | back, borderMode=cv2.BORDER_REPLICATE
        )
        there = cv2.warpAffine(seen, self._matrix, size, flags=cv2.INTER_NEAREST | back)
        given[there == 0] = np.nan
        return np.asarray(given, dtype=np.float32)

    def patch_at(
        self, x: float, y: float, grid: tuple[int, int], inside: NDArray[np.bool_] | None = None
    ) -> tuple[int, int]:
        at = self._matrix @ [x, y, 1]
        return super().patch_at(float(at[0]), float(at[1]), grid, inside)

    def patch_box(self, row: int, column: int, grid: tuple[int, int]) -> Box:
        """What encloses a patch's cell in pixels of the image."""
        return carried(super().patch_box(row, column, grid), inverse(self._matrix), self.given_size)

    @property
    def _matrix(self) -> Matrix:
        return np.array(self.matrix).reshape(2, 3)


@dataclass(frozen=True, eq=False)
class Reference:
    """The image that others are laid over: its name and (height, width); a small grey picture of it, h×w uint8; the
    weights of the three channels that made it, along which the colours of the image vary most."""

    name: str
    size: tuple[int, int]
    grey: NDArray[np.uint8]
    weights: tuple[float, float, float]

    @classmethod
    def of(cls, source: Sample, values: ValueRange = _PLAIN) -> Reference:
        """Raises `ImageError` where it cannot be read."""
        rgb = read_image(source, values)
        small = _small(rgb, SIDE)
        _, axes = np.linalg.eigh(np.cov(small.reshape(-1, 3).T))
        axis = axes[:, -1] * (np.sign(axes[:, -1].sum()) or 1.0)
        grey = small @ axis
        stretched = 255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)
        weights = (float(axis[0]), float(axis[1]), float(axis[2]))
        return cls(source.name, (rgb.shape[0], rgb.shape[1]), stretched.round().astype(np.uint8), weights)

    def view(self, frame: View, rgb: RGB, name: str) -> AlignedView:
        """How an image is laid over the reference, whose own view is `frame`. Raises `ImageError`."""
        small = _small(rgb, SIDE)
        found = self._pattern.register(np.asarray(small @ np.array(self.weights), dtype=np.float32))
        if not (found.correlation >= LEAST_CORRELATION and found.overlap >= LEAST_OVERLAP):
            raise ImageError(
                f"{name}: cannot be aligned with the reference {self.name} (correlation {found.correlation:.2f}, at "
                f"least {LEAST_CORRELATION} is needed; overlap {found.overlap:.0%}): show the same side of the part "
                "wholly, or fit without align"
            )
        height, width = rgb.shape[:2]
        to_small = _scaling((height, width), small.shape)
        from_grey = np.linalg.inv(_scaling(self.size, self.grey.shape))
        matrix = from_grey @ np.vstack([found.matrix, [0, 0, 1]]) @ to_small
        return AlignedView.of(frame, (height, width), matrix[:2].ravel().tolist())

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.grey.astype(np.float32))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As a tensor and plain values, for the model file."""
        import torch

        values = {"name": self.name, "size": list(self.size), "weights": list(self.weights)}
        return {"reference": torch.from_numpy(self.grey)}, values

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], values: dict[str, Any]) -> Reference:
        """The inverse of `state`."""
        height, width = values["size"]
        grey = tensors["reference"].cpu().numpy()
        return cls(values["name"], (height, width), grey, tuple(values["weights"]))

    def same_as(self, other: Reference | None) -> bool:
        """Whether both lay images to the same place."""
        return other is not None and self.size == other.size and np.array_equal(self.grey, other.grey)


def choose_reference(sources: Sequence[Sample], values: ValueRange = _PLAIN) -> Reference | None:
    """The training image most like the others, as small grey pictures: it lies near the middle of how parts lie, so
    that the least is lost at the borders, and is no odd one. None where no image can be read."""
    found = []
    for source in sources[:: max(1, len(sources) // _LOOKED_AT)]:
        try:
            grey = _small(read_image(source, values), _SMALL).mean(2)
        except ImageError:  # told where it is learned from
            continue
        grey = cv2.resize(grey, (_SMALL, _SMALL)) - grey.mean()
        found.append((source, grey.ravel() / max(float(np.linalg.norm(grey)), 1e-6)))
    if not found:
        return None
    pictures = np.stack([picture for _, picture in found])
    return Reference.of(found[int((pictures @ pictures.sum(0)).argmax())][0], values)


def _small(rgb: RGB, side: int) -> Field:
    """H×W×3 → at most `side` pixels long, h×w×3 float32."""
    height, width = rgb.shape[:2]
    scale = min(side / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _scaling(size: tuple[int, ...], small: tuple[int, ...]) -> NDArray[np.float64]:
    """3×3: pixel centres of a picture of one (height, width) to those of the same at another."""
    y, x = small[0] / size[0], small[1] / size[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
