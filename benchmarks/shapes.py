"""Shape images and FPFH of one part of 400×400 points, and what people write for them in numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchbank.shape import Pinhole, Shape
from patchbank.shape.fpfh import fpfh, window
from patchbank.shape.images import SHAPE_IMAGES, relief
from patchbank.shape.normals import box_normals
from patchbank.shape.surface import surface_of

Array = NDArray[Any]
SIZE, FOCAL, DISTANCE = 400, 2700.0, 650.0


@lru_cache
def part(holes: float) -> Shape:
    """A dome with a step around it on a tilted plane, 30 µm of noise, and that share of its points missing."""
    rng = np.random.default_rng(0)
    middle = (SIZE - 1) / 2
    y, x = (np.mgrid[:SIZE, :SIZE] - middle) * (DISTANCE / FOCAL)
    rho = np.hypot(x, y)
    z = DISTANCE + 0.05 * x - 0.08 * y - np.where(rho < 30, 3 + 8 * (1 - (rho / 30) ** 2), 0)
    valid = rng.random(z.shape) >= holes
    z = np.where(valid, z + rng.normal(0, 0.03, z.shape), 0)
    return Shape(z.astype(np.float32), valid, Pinhole(FOCAL, FOCAL, middle, middle))


def literal_images(shape: Shape, top_mm: float) -> list[Array]:
    """RANSAC in a loop, scipy's nearest valid point, Gaussian and gradients over whole arrays: all four images."""
    xyz, valid = shape.xyz().astype(np.float64), shape.valid
    rim = np.ones(valid.shape, bool)
    rim[10:-10, 10:-10] = False
    normal, offset, spread = _ransac(xyz[rim & valid])
    z_axis = normal
    x_axis = np.array([1.0, 0, 0]) - z_axis[0] * z_axis
    x_axis /= np.linalg.norm(x_axis)
    points = xyz @ np.stack([x_axis, np.cross(z_axis, x_axis), z_axis]).T
    points[..., 2] += offset
    height = points[..., 2]
    labels, count = ndimage.label((np.abs(height) > 5 * spread) & valid, np.ones((3, 3)))
    large = ndimage.sum_labels(np.abs(height), labels, range(1, count + 1)) > 5 * spread * 1e-4 * height.size
    on_part = np.concatenate([[False], large])[labels]
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    weight = ndimage.gaussian_filter(valid.astype(np.float64), 1.5, mode="constant")

    def smooth(values: Array) -> Array:
        sums = [ndimage.gaussian_filter(values[..., k] * valid, 1.5, mode="constant") for k in range(values.shape[-1])]
        return np.stack(sums, -1) / np.maximum(weight, 1e-9)[..., None]

    smoothed = smooth(points)
    normals = np.cross(np.gradient(smoothed, axis=0), np.gradient(smoothed, axis=1))
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    both = smooth(np.concatenate([normals[..., :2], smoothed[..., :2]], -1))
    (nx_v, ny_v, x_v, y_v), (nx_u, ny_u, x_u, y_u) = (np.moveaxis(np.gradient(both, axis=k), -1, 0) for k in (0, 1))
    area = np.minimum(x_u * y_v - x_v * y_u, -0.25 * shape.pitch() ** 2)
    curvature = (nx_u * y_v - nx_v * y_u + x_u * ny_v - x_v * ny_u) / area * shape.pitch()
    normals, curvature, height, on_part = (each[tuple(nearest)] for each in (normals, curvature, height, on_part))
    lights = [(np.cos(a) / 2**0.5, np.sin(a) / 2**0.5, 1 / 2**0.5) for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    high = height / top_mm * 255
    images = [
        np.stack([high] * 3, -1),
        normals * 127.5 + 127.5,
        np.stack([curvature * 400 + 127.5, normals[..., 2] * 255, high], -1),
        255 * normals @ np.array(lights).T,
    ]
    levels = [(0, 0, 0), (128, 128, 255), (128, 255, 0), (180, 180, 180)]
    return [
        np.where(on_part[..., None], np.rint(image).clip(0, 255), level).astype(np.uint8)
        for image, level in zip(images, levels, strict=True)
    ]


def _ransac(points: Array) -> tuple[Array, float, float]:
    rng = np.random.default_rng(0)
    best, least = None, np.inf
    for _ in range(200):
        a, b, c = points[rng.integers(len(points), size=3)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length > 0:
            distance = np.abs((points - a) @ normal / length)
            cost = np.quantile(distance, 0.4)
            if cost < least:
                best, least = distance <= 3 * cost / 0.52, cost
    assert best is not None
    for _ in range(5):
        mean = points[best].mean(0)
        normal = np.linalg.svd(points[best] - mean, full_matrices=False)[2][2]
        distance = np.abs((points - mean) @ normal)
        spread = 1.4826 * float(np.median(distance[best]))
        best = distance <= 3 * spread
    normal = -np.sign(normal[2]) * normal
    return normal, -float(normal @ mean), spread


def literal_fpfh(xyz: Array, normals: Array, step: float = 3.0) -> Array:
    """The definition with numpy, one neighbour of all points at a time."""
    height, width = xyz.shape[:2]
    xyz, normals = xyz.astype(np.float64), normals.astype(np.float64)
    pitch = float(np.median(np.linalg.norm(np.diff(xyz[..., :2], axis=1), axis=-1)))
    spfh, total = np.zeros((height * width, 33)), np.zeros(height * width)
    pairs = []
    for dy, dx in window(3):
        here = np.s_[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
        there = np.s_[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        d, n1, n2 = xyz[there] - xyz[here], normals[here], normals[there]
        distance = np.linalg.norm(d, axis=-1)
        near = distance <= step * pitch * np.hypot(dy, dx)
        d = d / distance[..., None]
        a1, a2 = (n1 * d).sum(-1), (n2 * d).sum(-1)
        swap = np.abs(a1) < np.abs(a2)
        flip = swap[..., None]
        source, target, d = np.where(flip, n2, n1), np.where(flip, n1, n2), np.where(flip, -d, d)
        phi = np.where(swap, -a2, a1)
        v = np.cross(d, source)
        v /= np.linalg.norm(v, axis=-1, keepdims=True)
        w = np.cross(source, v)
        theta = np.arctan2((w * target).sum(-1), (source * target).sum(-1))
        alpha = (v * target).sum(-1)
        at = np.arange(height * width).reshape(height, width)[here][near]
        bins = (11 * (theta + np.pi) / (2 * np.pi), 11 + 11 * (alpha + 1) / 2, 22 + 11 * (phi + 1) / 2)
        for block, values in enumerate(bins):
            spfh[at, values[near].astype(int).clip(11 * block, 11 * block + 10)] += 1
        total[at] += 1
        to = np.arange(height * width).reshape(height, width)[there][near]
        pairs.append((at, to, 1 / distance[near] ** 2))
    spfh *= 100 / np.maximum(total, 1)[:, None]
    sums = np.zeros_like(spfh)
    for at, to, weight in pairs:
        sums[at] += weight[:, None] * spfh[to]
    blocks = sums.reshape(-1, 3, 11)
    blocks *= 100 / np.maximum(blocks.sum(2, keepdims=True), 1e-300)
    return (spfh + sums).reshape(height, width, 33)


def image_row() -> tuple[Callable[[], object], Callable[[], object], str]:
    """Baseline, product, and how far they are apart."""
    shape = part(0.15)
    top = relief(surface_of(shape))

    def product() -> list[Array]:
        surface = surface_of(shape)
        return [make(surface, top) for make in SHAPE_IMAGES.values()]

    pairs = zip(literal_images(shape, top), product(), strict=True)
    same = np.mean([np.abs(a.astype(int) - b.astype(int)).max(-1) <= 2 for a, b in pairs])
    note = f"numpy and scipy; {same:.1%} of the pixels of four images within 2 grey levels"
    return lambda: literal_images(shape, top), product, note


def fpfh_row() -> tuple[Callable[[], object], Callable[[], object], str]:
    """Baseline, product, and how far they are apart."""
    shape = part(0.0)
    xyz = shape.xyz()
    normals = box_normals(xyz, shape.valid, 3, pinhole=True)
    error = np.abs(literal_fpfh(xyz, normals) - fpfh(xyz, normals, shape.valid))
    note = (
        f"numpy, one neighbour at a time; largest difference of 99.99 % of the numbers {np.quantile(error, 0.9999):.0e}"
    )
    return lambda: literal_fpfh(xyz, normals), lambda: fpfh(xyz, normals, shape.valid), note
