"""Surfaces whose normals and curvature are known, seen by a camera: rays are cut with a height over a tilted plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchbank.shape import Camera, Pinhole, Pitch, Shape

Array = NDArray[np.float64]
Solid = Callable[[Array, Array], tuple[Array, Array, Array]]

PITCH = 0.25  # millimetres from pixel to pixel
FAR = 300.0  # millimetres to the plane


@dataclass(frozen=True)
class Scene:
    """A shape and the truth about it: normals and curvature (κ₁ + κ₂, per millimetre) in the plane's frame."""

    shape: Shape
    height: Array
    normals: Array
    curvature: Array
    frame: Array


def plane(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Height, H×W×3 normals and curvature at points of the plane."""
    zero = np.zeros_like(x)
    return zero, np.stack([zero, zero, zero + 1], -1), zero


def sphere(radius: float = 15.0) -> Solid:
    """A hemisphere that stands on the plane."""

    def solid(x: Array, y: Array) -> tuple[Array, Array, Array]:
        inside = x**2 + y**2 < radius**2
        h = np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0))
        normals = np.where(inside[..., None], np.stack([x, y, h], -1) / radius, (0.0, 0.0, 1.0))
        return h, normals, np.where(inside, 2 / radius, 0.0)

    return solid


def cylinder(radius: float = 12.0) -> Solid:
    """One half of a cylinder, along y, 30 mm long."""

    def solid(x: Array, y: Array) -> tuple[Array, Array, Array]:
        inside = (np.abs(x) < radius) & (np.abs(y) < 15)
        h = np.where(inside, np.sqrt(np.maximum(radius**2 - x**2, 0)), 0)
        normals = np.where(inside[..., None], np.stack([x, 0 * x, h], -1) / radius, (0.0, 0.0, 1.0))
        return h, normals, np.where(inside, 1 / radius, 0.0)

    return solid


def torus(ring: float = 10.0, tube: float = 6.0) -> Solid:
    """The upper half of a torus."""

    def solid(x: Array, y: Array) -> tuple[Array, Array, Array]:
        rho = np.maximum(np.hypot(x, y), 1e-9)
        out = rho - ring
        inside = np.abs(out) < tube
        h = np.sqrt(np.maximum(tube**2 - out**2, 0))
        normals = np.stack([out / tube * x / rho, out / tube * y / rho, h / tube], -1)
        curvature = 1 / tube + out / tube / rho
        return h, np.where(inside[..., None], normals, (0.0, 0.0, 1.0)), np.where(inside, curvature, 0.0)

    return solid


def cameras(size: int) -> dict[str, Camera]:
    """Both kinds, with the same pitch on the plane."""
    middle = (size - 1) / 2
    return {"pinhole": Pinhole(FAR / PITCH, FAR / PITCH, middle, middle), "pitch": Pitch(PITCH, PITCH)}


def scene(
    solid: Solid, camera: str = "pinhole", size: int = 160, tilt: tuple[float, float] = (0, 0), sign: int = 1
) -> Scene:
    """Look at a solid in the middle of the picture. `tilt`: slopes of the plane along x and y; `sign` −1: a hollow."""
    columns, rows = np.meshgrid(np.arange(size) - (size - 1) / 2, np.arange(size) - (size - 1) / 2)
    seen = cameras(size)[camera]
    z = np.array([tilt[0], tilt[1], -1.0])
    z /= np.linalg.norm(z)
    x = np.array([1.0, 0.0, 0.0]) - z[0] * z
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(z, x), z])
    if isinstance(seen, Pinhole):
        start, ray = np.zeros((size, size, 3)), np.stack([columns / seen.fx, rows / seen.fy, 0 * rows + 1], -1)
    else:
        start = np.stack([columns * PITCH, rows * PITCH, 0 * rows], -1)
        ray = np.broadcast_to((0.0, 0.0, 1.0), start.shape)

    def local(depth: Array) -> Array:
        moved: Array = (start + depth[..., None] * ray - (0.0, 0.0, FAR)) @ frame.T
        return moved

    near, far = np.full((size, size), FAR / 2), np.full((size, size), FAR * 2)
    for _ in range(60):
        middle = (near + far) / 2
        point = local(middle)
        above = point[..., 2] > sign * solid(point[..., 0], point[..., 1])[0]
        near, far = np.where(above, middle, near), np.where(above, far, middle)
    point = local(near)
    h, normals, curvature = solid(point[..., 0], point[..., 1])
    normals = normals * (sign, sign, 1)
    shape = Shape(near.astype(np.float32), np.ones((size, size), bool), seen)
    return Scene(shape, sign * h, normals, sign * curvature, frame)


def with_holes(shape: Shape, share: float, seed: int = 0) -> Shape:
    """The shape with points missing at random."""
    valid = shape.valid & (np.random.default_rng(seed).random(shape.size) >= share)
    return Shape(np.where(valid, shape.z, np.float32(0)), valid, shape.camera)


def with_noise(shape: Shape, sigma: float, seed: int = 0) -> Shape:
    """The shape with normal noise of so many millimetres."""
    noise = np.random.default_rng(seed).normal(0, sigma, shape.size).astype(np.float32)
    return Shape(np.where(shape.valid, shape.z + noise, np.float32(0)), shape.valid, shape.camera)
