"""Perlin noise and the masks made of it (Perlin 1985; DRAEM, Zavrtanik et al. 2021, section 3.2)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from patchbank.training.anomalies.masks import TRIES, Floats, Mask, is_large_enough

_THRESHOLD = 0.5
_EXPONENTS = 6  # of 2: 2^0 .. 2^5 cells along a side
_FORCED = 0.05  # share of the foreground that a mask gets which stayed empty


def perlin_noise(size: tuple[int, int], cells: tuple[int, int], angle: float, rng: np.random.Generator) -> Floats:
    """Gradient noise, turned about the middle of the picture.

    The noise is drawn on a square that covers the turned picture, so that its corners have noise too.

    Args:
        size: height and width of the picture, in pixels.
        cells: lattice cells along the longer side, down and across before the noise is turned.
        angle: in degrees.
        rng: draws the gradients and the offset of the lattice.

    Returns:
        H×W, about −1..1.
    """
    canvas = math.ceil(math.hypot(*size))
    down, across = (np.arange(canvas, dtype=np.float32) * (n / max(size)) + rng.random(dtype=np.float32) for n in cells)
    lattice = int(down[-1]) + 2, int(across[-1]) + 2
    turn = rng.uniform(0, 2 * np.pi, lattice).astype(np.float32)
    noise = _gradient_noise(down, across, np.sin(turn), np.cos(turn)) * np.float32(math.sqrt(2))
    matrix = cv2.getRotationMatrix2D(((canvas - 1) / 2, (canvas - 1) / 2), angle, 1.0)
    matrix[:, 2] -= (canvas - size[1]) / 2, (canvas - size[0]) / 2
    return np.asarray(cv2.warpAffine(noise, matrix, (size[1], size[0])))


def _gradient_noise(down: Floats, across: Floats, gy: Floats, gx: Floats) -> Floats:
    """Noise at the positions down × across of a lattice with gradients (gy, gx): interpolated along one axis first."""
    column, right = _split(across)
    fade = _fade(right)
    # of each line of the lattice: what both components of its gradients say along the line
    along = (1 - fade) * gx[:, column] * right + fade * gx[:, column + 1] * (right - 1)
    beside = (1 - fade) * gy[:, column] + fade * gy[:, column + 1]
    row, below = _split(down)
    below = below[:, None]
    fade = _fade(below)
    upper, lower = along[row] + below * beside[row], along[row + 1] + (below - 1) * beside[row + 1]
    return np.asarray(upper + fade * (lower - upper), dtype=np.float32)


def _split(position: Floats) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Floats]:
    """Whole part and rest of positions on the lattice."""
    whole = position.astype(np.intp)
    return whole, position - whole.astype(np.float32)


def _fade(t: Floats) -> Floats:
    return t * t * t * (t * (t * 6 - 15) + 10)


def perlin_mask(foreground: Mask, rng: np.random.Generator) -> Mask:
    """A mask of Perlin noise above 0.5: 2^0 to 2^5 cells along each axis, turned by −90 to 90 degrees.

    A mask that leaves too little of the foreground is drawn again. If it stays empty, the highest noise within the
    foreground is taken.

    Args:
        foreground: H×W, where the mask may lie; not empty.
        rng: draws scales, angle and noise.

    Returns:
        H×W bool, never empty.
    """
    size = (foreground.shape[0], foreground.shape[1])
    for _ in range(TRIES):
        down, across = (2 ** int(rng.integers(_EXPONENTS)) for _ in range(2))
        noise = perlin_noise(size, (down, across), rng.uniform(-90, 90), rng)
        mask: Mask = (noise > _THRESHOLD) & foreground
        if is_large_enough(mask, foreground):
            return mask
    inside = noise[foreground]
    rank = len(inside) - math.ceil(_FORCED * len(inside))
    return np.asarray((noise >= np.partition(inside, rank)[rank]) & foreground)
