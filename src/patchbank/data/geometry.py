"""Which pixels of an image are inspected, at which size, and the way back to the pixels of the input.

`whole` (the product's default) inspects the whole image: the shorter side is reduced to `image_size` (enlarged only by
the common factor `zoom` of all images, and to 128 pixels), the aspect ratio is kept up to rounding each side to a
multiple of 32 (of the patch, for a vision transformer), so that every level's grid fits. `paper` is the protocol of the
papers: the shorter side to 8/7 of `image_size` (256 for 224), then the central `image_size` × `image_size` crop; what
is cut away is marked as not inspected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank.data.lattice import EVEN, Lattice
from patchbank.data.values import RGB
from patchbank.errors import OptionError

KINDS = ("whole", "paper")
_SMALLEST = 128  # a shorter side below this many pixels is enlarged: a few patches say too little
_MOST_ZOOM = 3.0
_LONGEST = 8  # a longer side beyond 8 × the shorter one is squeezed, which bounds time and memory for one image

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """How one image of a given size is inspected. Sizes are (height, width) in pixels.

    The input is resized to `resized`, of which the part at `offset` (top, left) of size `inspected` goes to the
    network, whose patches lie on a `lattice`.
    """

    input_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    inspected: tuple[int, int]
    lattice: Lattice = field(default=EVEN, kw_only=True)

    @property
    def original_size(self) -> tuple[int, int]:
        """Of the image as it was given, before it was laid over a reference (`patchbank.data.alignment`)."""
        return self.input_size

    @property
    def alignment(self) -> tuple[float, ...]:
        """What laid it there; nothing where nothing did."""
        return ()

    def laid(self, rgb: RGB) -> RGB:
        """The image as it was given → the image that this is a view of."""
        return rgb

    def covered(self) -> NDArray[np.bool_] | None:
        """Which pixels of the latter show something of the former, `input_size`; None for all."""
        return None

    def apply(self, rgb: RGB) -> NDArray[np.float32]:
        """H×W×3 RGB array → 3×h×w float32 in 0..255, resized and cropped."""
        return np.ascontiguousarray(self.pixels(rgb).transpose(2, 0, 1), dtype=np.float32)

    def pixels(self, rgb: RGB) -> RGB:
        """H×W×3 RGB array → h×w×3, resized (antialiased bilinear, as Pillow does) and cropped."""
        height, width = self.resized
        if rgb.shape[:2] == self.resized:
            resized = rgb
        elif rgb.dtype == np.uint8:
            resized = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        else:  # Pillow resizes floating-point values one channel at a time
            channels = [Image.fromarray(np.ascontiguousarray(rgb[:, :, c])) for c in range(3)]
            resized = np.dstack([np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels])
        (top, left), (h, w) = self.offset, self.inspected
        part: RGB = resized[top : top + h, left : left + w]
        return part

    @property
    def inspected_box(self) -> Box:
        """(left, top, right, bottom) of the inspected part in pixels of the input."""
        top, left, bottom, right = self._to_input(*self.offset, *np.add(self.offset, self.inspected))
        return left, top, right, bottom

    def to_input(self, values: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """A map of the inspected size → a map in pixels of the input, NaN where the input was not inspected or lies
        outside a mask of `input_size`."""
        left, top, right, bottom = self.inspected_box
        part = self._enlarged(values, self.inspected_box)
        whole = np.asarray(part, dtype=np.float32)
        if part.shape != self.input_size:
            whole = np.full(self.input_size, np.nan, dtype=np.float32)
            whole[top:bottom, left:right] = part
        if mask is not None:
            whole[~mask] = np.nan
        return whole

    def cells(self, mask: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
        """Which cells of a grid over the inspected part have a pixel of an H×W mask of the input."""
        left, top, right, bottom = self.inspected_box
        part = mask[top:bottom, left:right].astype(np.float32)
        return np.asarray(cv2.resize(part, (grid[1], grid[0]), interpolation=cv2.INTER_AREA) > 0)

    def patch_at(
        self, x: float, y: float, grid: tuple[int, int], inside: NDArray[np.bool_] | None = None
    ) -> tuple[int, int]:
        """(row, column) of the patch nearest to pixel column `x`, row `y` of the input, on a grid of that size; of
        those that are `inside`, where not all are."""
        place = []
        for axis, (pixel, patches) in enumerate(zip((y, x), grid, strict=True)):
            first, step = self.lattice.along(axis, patches, self.inspected[axis])
            at = (pixel + 0.5) / self._scale(axis) - self.offset[axis] - 0.5
            place.append(min(max(math.floor((at - first) / step + 0.5), 0), patches - 1))
        row, column = place
        if inside is None or inside[row, column]:
            return row, column
        rows, columns = np.nonzero(inside)
        nearest = int(np.argmin((rows - row) ** 2 + (columns - column) ** 2))
        return int(rows[nearest]), int(columns[nearest])

    def patch_box(self, row: int, column: int, grid: tuple[int, int]) -> Box:
        """(left, top, right, bottom) of a patch's cell in pixels of the input, within the inspected part."""
        left, top, right, bottom = self.inspected_box
        sides = []
        for axis, (number, least, most) in enumerate(((row, top, bottom), (column, left, right))):
            first, step = self.lattice.along(axis, grid[axis], self.inspected[axis])
            edges = first + (np.array([number, number + 1]) - 0.5) * step + 0.5 + self.offset[axis]
            # rounded first: an edge between two pixels is that edge
            low, high = np.floor((edges * self._scale(axis)).round(6)).astype(int).tolist()
            low = min(max(low, least), most - 1)
            sides.append((low, max(min(high, most), low + 1)))
        return sides[1][0], sides[0][0], sides[1][1], sides[0][1]

    def _scale(self, axis: int) -> float:
        """Pixels of the input for one of the resized image."""
        return self.input_size[axis] / self.resized[axis]

    @property
    def _onto_map(self) -> NDArray[np.float64]:
        """3×3: pixel centres of the input to those of a map of the inspected part."""
        (y, x), (top, left) = (self._scale(0), self._scale(1)), self.offset
        return np.array([[1 / x, 0, 0.5 / x - left - 0.5], [0, 1 / y, 0.5 / y - top - 0.5], [0, 0, 1]])

    def _enlarged(self, values: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
        """A map of the inspected size → that of a box of the input, which is the inspected one up to rounding."""
        left, top, right, bottom = box
        (y, x), (height, width) = self.offset, self.inspected
        exact = np.array([x, y, x + width, y + height]) * np.tile([self._scale(1), self._scale(0)], 2)
        size = (right - left, bottom - top)
        if np.allclose(exact, box, rtol=0, atol=1e-6):
            return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR))
        matrix = self._onto_map @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(values, matrix[:2], size, flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def _to_input(self, top: float, left: float, bottom: float, right: float) -> tuple[int, int, int, int]:
        y, x = self._scale(0), self._scale(1)
        top_, left_ = round(top * y), round(left * x)
        # an input a few pixels wide still has an inspected part of at least one pixel
        return top_, left_, max(round(bottom * y), top_ + 1), max(round(right * x), left_ + 1)


def zoom_for(shorter_sides: Iterable[int], image_size: int) -> float:
    """The factor that brings the largest of images to `image_size`, between 1 and `_MOST_ZOOM`, by their shorter sides.

    A network sees structures of some pixels: small pictures show it more when they are enlarged, though they have no
    more to show. One factor for all keeps their common scale.
    """
    largest = 0
    for side in shorter_sides:
        largest = max(largest, side)
        if largest >= image_size:
            return 1.0
    return min(image_size / largest, _MOST_ZOOM) if largest else 1.0


@dataclass(frozen=True)
class Geometry:
    """The choice of `View` for any image size: `kind` is "whole" or "paper"; `image_size` and `multiple` in pixels;
    `native`: images keep their own size, up to rounding; `zoom`: what smaller images are enlarged by, up to
    `image_size`."""

    kind: str
    image_size: int
    multiple: int = 32
    native: bool = False
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"geometry must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 32 <= self.image_size <= 4096:
            raise OptionError(f"image_size must lie in 32..4096 pixels, not {self.image_size}")
        if self.kind == "whole" and self.image_size % self.multiple:
            raise OptionError(
                f"image_size must be a multiple of {self.multiple} for this backbone, not {self.image_size}"
            )

    def view(self, height: int, width: int) -> View:
        """The view of an image of `height` × `width` pixels."""
        if self.kind == "paper":
            return self._paper(height, width)
        if self.native:
            size = (self._rounded(height), self._rounded(width))
            return View((height, width), size, (0, 0), size)
        short, long = min(height, width), max(height, width)
        # parts cut out of one camera's pictures keep their common scale
        target = min(max(short * self.zoom, _SMALLEST), self.image_size)
        shorter = self._rounded(target)
        longer = self._rounded(target * min(long / short, _LONGEST))
        size = (shorter, longer) if height <= width else (longer, shorter)
        return View((height, width), size, (0, 0), size)

    def squeeze_words(self, height: int, width: int) -> str:
        """A sentence about an image whose longer side is squeezed; empty where it is not."""
        ratio = max(height, width) / min(height, width)
        if self.kind != "whole" or self.native or ratio <= _LONGEST:
            return ""
        return (
            f"has {width}×{height} pixels, so its longer side is squeezed to {_LONGEST} times the shorter one, and "
            "small defects may be lost: cut such images into parts, or fit with tiles (--tile)"
        )

    def _rounded(self, side: float) -> int:
        return max(round(side / self.multiple), 1) * self.multiple

    def _paper(self, height: int, width: int) -> View:
        short_side, crop = round(self.image_size * 8 / 7), self.image_size
        # the longer side is cut, not rounded, and the crop's offset is rounded: as in torchvision's Resize and
        # CenterCrop
        if height <= width:
            resized = (short_side, int(short_side * width / height))
        else:
            resized = (int(short_side * height / width), short_side)
        offset = (round((resized[0] - crop) / 2), round((resized[1] - crop) / 2))
        return View((height, width), resized, offset, (crop, crop))
