"""How a camera sees a solid part: one ray for each pixel through a height field, shadows, light, and a depth sensor.

The camera frame is that of `patchbank.shape`: x to the right, y down, z away from the camera, in mm. A point of the
part is (u, v, h) in the frame of the tilted ground plane, h towards the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.demo.drawing import Field, photograph, smooth_noise, smoothstep
from patchbank.demo.solid_body import Body, Raster
from patchbank.shape import Pinhole, Shape

_FOCAL = 2700.0  # pixels, in a picture of 400
_DISTANCE = 660.0  # mm to the ground
_STEPS = 18  # levels that a ray of the camera is tested at: less than a raster pixel apart sideways
_SHADOW_STEPS = 28
_PROJECTOR = 210.0  # mm from the camera to the projector of the depth sensor, to the left
_CLEARANCE = 0.08  # mm: a ray that enters the surface less deeply is not blocked


@dataclass(frozen=True)
class Scene:
    """What a picture varies in beside the part: camera, ground, lamp, sensor. Lengths in mm, angles in radians.

    Attributes:
        camera: of a picture with `size` pixels along each side.
        raster: the ground plane's.
        ground: a point of the plane; `axes` 3×3 has its directions u, v and h as rows, in the camera frame.
        lamp: direction to the lamp (u, v, h), of length 1.
        ambient: share of the light that comes from all sides.
        exposure: factor for each channel.
        depth_noise: standard deviation of a depth.
        invalid: share of all pixels without a point.
    """

    size: int
    camera: Pinhole
    raster: Raster
    ground: NDArray[np.float64]
    axes: NDArray[np.float64]
    lamp: NDArray[np.float64]
    ambient: float
    exposure: NDArray[np.float32]
    depth_noise: float
    invalid: float


@dataclass(frozen=True)
class Hits:
    """Where the rays of all pixels meet a part: fields of the picture's shape, mm."""

    u: Field
    v: Field
    h: Field
    z: Field

    def sample(self, field: Field, raster: Raster) -> Field:
        """A field of the ground plane (up to 4 channels), seen from the camera."""
        return _sample(field, self.u, self.v, raster)


def scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw everything but the part."""
    focal, centre = _FOCAL * size / 400, (size - 1) / 2
    normal = np.array([*np.tan(np.deg2rad(rng.uniform(-4, 4, size=2))), -1.0])
    normal /= np.linalg.norm(normal)
    right = np.array([1.0, 0, 0]) - normal[0] * normal
    right /= np.linalg.norm(right)
    azimuth, height = rng.normal(-2.2, 0.35), np.deg2rad(rng.uniform(42, 58))
    lamp = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    return Scene(
        size=size,
        camera=Pinhole(focal, focal, centre, centre),
        raster=Raster.of_picture(size),
        ground=np.array([0.0, 0.0, _DISTANCE + rng.uniform(-8, 8)]),
        axes=np.stack([right, np.cross(right, normal), normal]),
        lamp=lamp,
        ambient=rng.uniform(0.30, 0.42),
        exposure=(rng.normal(1.45, 0.06) * rng.normal(1, 0.012, size=3)).astype(np.float32),
        depth_noise=rng.uniform(0.02, 0.05),
        invalid=rng.uniform(0.13, 0.28),
    )


# ---- rays ------------------------------------------------------------------------------------------------------------


def trace(body: Body, scene: Scene) -> Hits:
    """The first point of the body or the ground on the ray of each pixel."""
    camera, (right, down, normal) = scene.camera, scene.axes
    pixels = np.arange(scene.size)
    rays = np.ones((scene.size, scene.size, 3))
    rays[..., 0] = ((pixels - camera.cx) / camera.fx)[None, :]
    rays[..., 1] = ((pixels - camera.cy) / camera.fy)[:, None]
    # On each ray z, and with it u and v, is linear in the height above the ground.
    z_rise = 1 / (rays @ normal)
    z_ground = (normal @ scene.ground) * z_rise
    u_ground, v_ground = (z_ground * (rays @ axis) - axis @ scene.ground for axis in (right, down))
    lines = [(u_ground, z_rise * (rays @ right)), (v_ground, z_rise * (rays @ down)), (z_ground, z_rise)]
    (u0, du), (v0, dv), (z0, dz) = ((start.astype(np.float32), step.astype(np.float32)) for start, step in lines)

    def above(h: Field) -> Field:
        """How far the surface is above the ray where the ray has height `h`."""
        return _sample(body.height, u0 + h * du, v0 + h * dv, scene.raster) - h

    h = _first_crossing(above, float(body.height.max()), u0.shape)
    return Hits(u0 + h * du, v0 + h * dv, h, z0 + h * dz)


def _first_crossing(above: Callable[[Field], Field], top: float, shape: tuple[int, ...]) -> Field:
    """The greatest height at which `above` is not negative: steps down from `top` to 0, then three of regula falsi.

    At 0 it is never negative, because nothing lies below the ground.
    """
    high = np.full(shape, np.float32(top + 0.01))
    gap_high = above(high)
    low, gap_low = high.copy(), gap_high.copy()
    found = np.zeros(shape, dtype=bool)
    for level in np.linspace(top, 0, _STEPS, dtype=np.float32)[1:]:
        gap = above(np.full(shape, level))
        enters = ~found & (gap >= 0)
        passes = ~found & ~enters
        low[enters], gap_low[enters] = level, gap[enters]
        high[passes], gap_high[passes] = level, gap[passes]
        found |= enters
    for _ in range(3):
        middle = high + (low - high) * (gap_high / np.minimum(gap_high - gap_low, np.float32(-1e-6)))
        gap = above(middle)
        within = gap >= 0
        low, gap_low = np.where(within, middle, low), np.where(within, gap, gap_low)
        high, gap_high = np.where(within, high, middle), np.where(within, gap_high, gap)
    return np.asarray(middle, dtype=np.float32)


def blocked(body: Body, hits: Hits, scene: Scene, to_u: Field, to_v: Field) -> Field:
    """How deep under the surface the way from each hit to a source runs, mm; negative where it is free.

    `to_u` and `to_v` are how far the way goes sideways for each mm that it rises.
    """
    rises = np.linspace(0, float(body.height.max()), _SHADOW_STEPS + 1, dtype=np.float32)[1:]
    deepest = np.full(hits.h.shape, np.float32(-10))
    for rise in rises:
        field = _sample(body.height, hits.u + rise * to_u, hits.v + rise * to_v, scene.raster)
        np.maximum(deepest, field - hits.h - rise, out=deepest)
    return deepest


def _sample(field: Field, u: Field, v: Field, raster: Raster) -> Field:
    scale, middle = np.float32(1 / raster.pitch), np.float32((raster.n - 1) / 2)
    column, row = u * scale + middle, v * scale + middle
    return np.asarray(cv2.remap(field, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


# ---- colour ----------------------------------------------------------------------------------------------------------


def picture(body: Body, hits: Hits, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The colour picture, H×W×3: a lamp, light from all sides, shadows, gloss, and the noise of the camera."""
    raster, lamp = scene.raster, scene.lamp.astype(np.float32)
    rise = 1 / np.float32(8 * raster.pitch)
    slope_u = cv2.Sobel(body.height, cv2.CV_32F, 1, 0, scale=rise)
    slope_v = cv2.Sobel(body.height, cv2.CV_32F, 0, 1, scale=rise)
    wide = max(round(9 / raster.pitch), 1)
    hollow = cv2.blur(body.height, (wide, wide)) - body.height
    surface = hits.sample(cv2.merge([slope_u, slope_v, hollow]), raster)
    up = 1 / np.sqrt(1 + surface[..., 0] ** 2 + surface[..., 1] ** 2)
    facing = np.clip((lamp[2] - lamp[0] * surface[..., 0] - lamp[1] * surface[..., 1]) * up, 0, 1)
    away = np.ones_like(hits.h)
    depth = blocked(body, hits, scene, away * lamp[0] / lamp[2], away * lamp[1] / lamp[2])
    lit = 1 - smoothstep(depth / np.float32(0.5) + np.float32(0.3))
    open_sky = np.clip(1 - np.float32(0.07) * np.clip(surface[..., 2], -2, 9), 0.2, 1.1)
    ambient = np.float32(scene.ambient)
    light = ambient * open_sky * (np.float32(0.6) + np.float32(0.4) * up) + (1 - ambient) * facing * lit
    mirror = np.clip(2 * up * facing - lamp[2], 0, 1) ** 12 * lit * np.float32(body.gloss)
    seen = hits.sample(body.colour, raster) * light[..., None]
    mirror *= hits.sample(body.solid, raster)
    shaded = (seen + np.float32(0.5) * mirror[..., None]) * scene.exposure * _lamp_falloff(rng, scene)[..., None]
    return photograph(rng, np.clip(shaded, 0, 1), blur=0.65 * scene.size / 400 + 0.1, noise=4.0)


def _lamp_falloff(rng: np.random.Generator, scene: Scene) -> Field:
    """How unevenly the lamp lights the picture, about 1."""
    position = np.linspace(-1, 1, scene.size, dtype=np.float32)
    towards = scene.lamp[0] * position[None, :] + scene.lamp[1] * position[:, None]
    return np.asarray(1 + 0.10 * towards + 0.015 * smooth_noise(rng, (scene.size, scene.size), (3, 3)), np.float32)


# ---- depth -----------------------------------------------------------------------------------------------------------


def reached(body: Body, hits: Hits, scene: Scene) -> NDArray[np.bool_]:
    """Which hits the projector of the depth sensor reaches."""
    right, down, normal = scene.axes
    offset = np.array([-_PROJECTOR, 0, 0]) - scene.ground
    rise = np.float32(normal @ offset) - hits.h
    to_u, to_v = (np.float32(right @ offset) - hits.u) / rise, (np.float32(down @ offset) - hits.v) / rise
    return np.asarray(blocked(body, hits, scene, to_u, to_v) < _CLEARANCE)


def speckle(hits: Hits, reached: NDArray[np.bool_], scene: Scene, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Points that the sensor loses, single ones and clusters, more of them on steep surfaces and on the dark ground.

    With the shadows of the good part they make up the share that the scene says, and at least 4 % of the picture.
    """
    shape = (scene.size, scene.size)
    fine = rng.standard_normal(shape, dtype=np.float32)
    clusters = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 2.2 * scene.size / 400)
    steep = np.hypot(cv2.Sobel(hits.z, cv2.CV_32F, 1, 0), cv2.Sobel(hits.z, cv2.CV_32F, 0, 1))
    steep *= np.float32(scene.size / 400)
    on_ground = np.float32(0.9) + np.float32(0.3) * smooth_noise(rng, shape, (5, 5))
    loss = np.float32(0.6) * fine + clusters / clusters.std() + np.float32(0.4) * np.minimum(steep, 4)
    loss += np.where(hits.h > 0.05, np.float32(0), on_ground)
    share = max(scene.invalid - float(np.mean(~reached)), 0.04)
    return np.asarray(loss > np.quantile(loss[reached], 1 - share / np.mean(reached)))


def measure(hits: Hits, valid: NDArray[np.bool_], scene: Scene, rng: np.random.Generator) -> Shape:
    """The sensor's depths of the hits that are `valid`, with its noise."""
    shape = hits.z.shape
    fine = rng.standard_normal(shape, dtype=np.float32)
    coarse = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), 1.5)
    noise = np.float32(0.9) * fine + np.float32(0.436) * coarse / coarse.std()
    z = hits.z + np.float32(scene.depth_noise) * noise
    return Shape(np.where(valid, z, np.float32(0)).astype(np.float32), valid, scene.camera)
