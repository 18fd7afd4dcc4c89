"""What the synthetic parts are drawn with: noise, spots and strokes as float32 fields, and the camera."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

_SUBPIXEL_BITS = 4  # cv2 takes points as integers in 1/16 pixel


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Smooth noise of `shape` (H, W), unit variance everywhere; `cells` (down, across) is how fine it is."""
    across = np.ascontiguousarray(spline_basis(shape[1], cells[1]).T)
    return np.asarray(cv2.gemm(smooth_lines(rng, shape[0], cells[0], len(across)), across, 1, None, 0))


def smooth_lines(rng: np.random.Generator, n: int, cells: int, lines: int) -> Field:
    """Noise of unit variance, smooth along each of `lines` independent columns of `n` pixels: n×lines."""
    coarse = rng.standard_normal((cells + 3, lines), dtype=np.float32)
    # Not numpy's product: its threads wait for each other far longer than so small a product takes.
    return np.asarray(cv2.gemm(spline_basis(n, cells), coarse, 1, None, 0))


@functools.cache
def spline_basis(n: int, cells: int) -> Field:
    """Cubic B-splines on `cells` equal intervals, sampled at `n` pixels: n×(cells + 3).

    Rows have unit length, so that it turns independent normal numbers into smooth noise of unit variance.
    """
    position = (np.arange(n) + 0.5) * cells / n
    distance = np.abs(position[:, None] - np.arange(-1, cells + 2)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - np.clip(distance, 0, 2)) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def smoothstep(x: NDArray[np.floating[Any]]) -> Field:
    """0 below 0, 1 above 1, and a cubic with flat ends between."""
    t = np.clip(x, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def blob(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    *,
    softness: float,
    roughness: float = 0.15,
) -> Field:
    """An irregular spot, 1 inside and exactly 0 outside, in a field of `shape` (H, W).

    `centre` is (x, y) and `radius` its mean extent in pixels; `softness` is the width of the edge in pixels;
    `roughness` the relative waviness of the outline.
    """
    y, x = np.ogrid[: shape[0], : shape[1]]
    dx, dy = (x - centre[0]).astype(np.float32), (y - centre[1]).astype(np.float32)
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    outline = np.full(shape, radius, dtype=np.float32)
    for waves in range(2, 8):
        amplitude, phase = rng.normal(0, roughness * radius / waves**0.7), rng.uniform(0, 2 * np.pi)
        outline += np.float32(amplitude) * np.cos(waves * angle + np.float32(phase))
    return smoothstep((outline - distance) / np.float32(softness) + np.float32(0.5))


def curve(rng: np.random.Generator, start: tuple[float, float], length: float, angle: float, bend: float) -> Field:
    """A random curved line of `length` pixels from `start` (x, y) towards `angle` (radians): points N×2, two
    pixels apart.

    `bend` is how far its direction wanders, in radians per 100 pixels.
    """
    n = max(int(length / 2), 2)
    turning = rng.normal(0, bend * 0.02 * 3, size=n)
    turning = np.convolve(turning, np.ones(9) / 3, mode="same") + rng.normal(0, bend) * 0.02
    directions = angle + np.cumsum(turning)
    steps = 2 * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    return np.asarray(np.asarray(start) + np.cumsum(steps, axis=0), dtype=np.float32)


def stroke(shape: tuple[int, int], points: Field, width: int) -> Field:
    """An antialiased line through `points` (N×2: x, y), `width` pixels wide: coverage 0..1 in a field of
    `shape`."""
    canvas = np.zeros(shape, dtype=np.uint8)
    scaled = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.polylines(canvas, [scaled.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    return np.asarray(canvas / np.float32(255))


def photograph(rng: np.random.Generator, scene: Field, *, blur: float, noise: float) -> NDArray[np.uint8]:
    """The 8-bit picture of a `scene` (H×W×3, 0..1): lens blur with sigma `blur` pixels, then sensor noise.

    `noise` is its standard deviation at full brightness in grey levels; shot noise grows with the root of the
    brightness.
    """
    height, width = scene.shape[:2]
    seen = cv2.GaussianBlur(scene, (0, 0), blur)
    grain = rng.standard_normal((height, width), dtype=np.float32)
    colour_grain = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32)  # demosaicing makes it coarser
    colour_grain = cv2.resize(colour_grain, (width, height), interpolation=cv2.INTER_NEAREST)
    levels = np.sqrt(np.clip(seen, 0.02, 1))
    levels *= np.float32(0.85 * noise) * grain[..., None] + np.float32(0.5 * noise) * colour_grain
    levels += np.float32(255) * seen + np.float32(0.5)
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8))
