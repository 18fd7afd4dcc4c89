"""The smallest defect that an inspected size still shows, and what would show smaller ones."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.data import Geometry

SEEN = 12.0  # inspected pixels: the diameter of a spot that two models of three reject (docs/experiments/accuracy.md)
_WORTH = 1.2  # times finer, for a suggestion
_OVERLAP = 1.4  # times the pixels, of tiles of 512 that share 128


@dataclass(frozen=True)
class Finer:
    """Another way to inspect the same images: the `option` to give, the `smallest` defect in pixels of the input, and
    how many `times` longer an image takes."""

    option: str
    smallest: float
    times: float


@dataclass(frozen=True)
class Resolution:
    """How images of a size are inspected.

    Attributes:
        image: (height, width) of the image, in pixels.
        inspected: (height, width) that the network sees.
        smallest: diameter of the smallest defect to rely on, in pixels of the image.
        finer: what shows smaller ones, the cheapest first.
    """

    image: tuple[int, int]
    inspected: tuple[int, int]
    smallest: float
    finer: tuple[Finer, ...]

    def sentence(self, suggests: bool = True) -> str:
        """In words, for a person; `suggests`: with what shows smaller ones."""
        sizes = [f"{height}×{width}" for height, width in (self.inspected, self.image)]
        at = "at their own size" if self.inspected == self.image else f"at {sizes[0]}"
        words = (
            f"images of {sizes[1]} pixels are inspected {at}: defects below about {self.smallest:.0f} px may be missed"
        )
        ways = [f"{f.option} sees {f.smallest:.0f} px at {f.times:.1f} times the time" for f in self.finer if suggests]
        return "; ".join([words, *ways])


def resolution_of(geometry: Geometry, image: tuple[int, int], enlarges: bool) -> Resolution:
    """How images of a size (height, width) are inspected; `enlarges`: whether small ones can be brought to a larger
    size."""
    inspected = geometry.view(*image).inspected
    scale = min(image) / min(inspected)
    finer = [] if geometry.kind != "whole" or geometry.native else _finer(geometry, image, inspected, enlarges)
    return Resolution(image, inspected, SEEN * scale, tuple(finer))


def _finer(geometry: Geometry, image: tuple[int, int], inspected: tuple[int, int], enlarges: bool) -> list[Finer]:
    found, short = list[Finer](), min(inspected)
    most = min(image) * (3 if enlarges and min(image) * geometry.zoom <= geometry.image_size else 1)
    size = min(2 * short, most) // geometry.multiple * geometry.multiple
    if size >= _WORTH * short:
        found.append(Finer(f"--image-size {size}", SEEN * min(image) / size, (size / short) ** 2))
    if min(image) >= 2 * _WORTH * short:
        times = _OVERLAP * image[0] * image[1] / (inspected[0] * inspected[1])
        found.append(Finer("--tile 512", SEEN, times))
    return found
