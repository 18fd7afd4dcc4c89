"""What a solid part is before a camera sees it: heights and colours on a raster that lies in the ground plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchbank.demo.drawing import Field, smooth_noise

Colour: TypeAlias = "tuple[float, float, float]"

_EXTENT = 116.0  # mm along each side: what the camera sees of the ground, and a margin for its tilt
_PIXELS = 640  # along each side for a picture of 400 pixels: finer than the picture, so that nothing aliases


@dataclass(frozen=True)
class Raster:
    """A square raster in the ground plane, its origin in the middle.

    Attributes:
        n: pixels along each side.
    """

    n: int

    @classmethod
    def of_picture(cls, size: int) -> Raster:
        """The raster for a picture of `size` pixels along each side."""
        return cls(round(_PIXELS * size / 400))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.n, self.n

    @property
    def pitch(self) -> float:
        """Millimetres from one pixel to the next."""
        return _EXTENT / self.n

    def posed(self, at: Sequence[float] | NDArray[np.float64], angle: float) -> tuple[Field, Field]:
        """Coordinates of each pixel, two n×n fields in mm, in a frame at `at` (mm) turned by `angle` (radians)."""
        axis = (np.arange(self.n, dtype=np.float32) - np.float32((self.n - 1) / 2)) * np.float32(self.pitch)
        across, down = axis[None, :] - np.float32(at[0]), axis[:, None] - np.float32(at[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return cos * across + sin * down, cos * down - sin * across

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """(column, row) of a point given in mm."""
        return x / self.pitch + (self.n - 1) / 2, y / self.pitch + (self.n - 1) / 2

    def noise(self, rng: np.random.Generator, length: float) -> Field:
        """Noise of unit variance that is smooth over `length` mm."""
        cells = max(round(_EXTENT / length), 1)
        return smooth_noise(rng, self.shape, (cells, cells))

    def grain(self, rng: np.random.Generator) -> Field:
        """Noise of unit variance, each pixel on its own."""
        return rng.standard_normal(self.shape, dtype=np.float32)


@dataclass(frozen=True)
class Body:
    """A part on its ground, fields on a raster.

    Attributes:
        height: n×n, mm above the ground plane; 0 beside the part.
        solid: n×n, 0..1, where the part is.
        colour: n×n×3, the share of red, green and blue light that the surface reflects.
        gloss: 0..1, how much of the lamp it mirrors.
        stains: colours that stand out from it, as 3 shares.
        dents: mm, the range of depths of a dent that stands out from what good parts have anyway.
    """

    height: Field
    solid: Field
    colour: Field
    gloss: float
    stains: tuple[Colour, ...]
    dents: tuple[float, float]

    def pressed(self, depth: Field) -> Body:
        """The same with the surface lowered by `depth` (mm; negative: raised), never below the ground."""
        return replace(self, height=np.maximum(self.height - depth * self.solid, np.float32(0)))

    def painted(self, cover: Field, colour: Colour) -> Body:
        """The same with `colour` (3 shares) laid over it, opaque where `cover` is 1."""
        share = (cover * self.solid)[..., None]
        return replace(self, colour=self.colour + share * (np.array(colour, np.float32) - self.colour))


def on_ground(part: Field, solid: Field, rng: np.random.Generator, raster: Raster) -> Field:
    """Colours of the part where it is, and of a worn rubber mat around it: n×n×3."""
    shade = rng.uniform(0.13, 0.24)
    mat = np.float32(shade) * (1 + 0.08 * raster.noise(rng, 30) + 0.10 * raster.grain(rng))
    tint = np.array([0.95, 1.0, 1.06], dtype=np.float32)
    ground = mat[..., None] * tint
    return np.asarray(ground + solid[..., None] * (part - ground), dtype=np.float32)


def tinted(rng: np.random.Generator, colour: Colour, spread: float) -> NDArray[np.float32]:
    """A colour as it varies from part to part: brightness by `spread`, each channel by a quarter of that."""
    return np.asarray(np.array(colour) * rng.normal(1, spread) * rng.normal(1, spread / 4, size=3), dtype=np.float32)
