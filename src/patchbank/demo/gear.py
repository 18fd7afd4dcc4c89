"""A machined gear on a matte tray: turned face, recessed web with holes, bore with keyway, engraved marks.

The part comes as a height map and a silhouette in its own frame, twice as fine as the image. Each picture
cuts new turning marks into it, lights it from another side, and lays it on the tray slightly rotated and
shifted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.demo.drawing import Field, blob, curve, photograph, smooth_noise, stroke
from patchbank.demo.gear_part import CENTRE, SIDE, Part, good_body, machine, on_face, polar

DEFECTS = ("scratch", "missing_hole", "chipped_tooth", "dent", "contamination")

_SHAPE = (256, 320)  # of the image, pixels
_METAL = np.array([1.0, 0.99, 0.965], dtype=np.float32)
_GREASE = np.array([0.8, 0.95, 1.2], dtype=np.float32)  # what these two take away from each channel
_RUST = np.array([0.1, 0.45, 0.65], dtype=np.float32)
_FIBRES = np.array([[0.12, 0.11, 0.11], [0.75, 0.73, 0.68], [0.5, 0.2, 0.18]], dtype=np.float32)
_TRAY = np.array([0.20, 0.235, 0.26], dtype=np.float32)


@dataclass(frozen=True)
class _Pose:
    """Where the part lies: `matrix` (2×3) takes points of its frame into the image; `angle` in radians."""

    matrix: NDArray[np.float64]
    angle: float

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """A point of the part's frame in image pixels."""
        seen = self.matrix @ np.array([x, y, 1.0])
        return float(seen[0]), float(seen[1])


@dataclass(frozen=True)
class _Light:
    """From where (angle in the image, radians), how strongly it shades (0..1), how bright the picture is."""

    azimuth: float
    strength: float
    exposure: float


def render(defect: str | None, rng: np.random.Generator, defect_rng: np.random.Generator) -> NDArray[np.uint8]:
    """One gear, 256×320×3. `rng` draws part and picture, `defect_rng` only the defect."""
    pose, light = _lie(rng), _Light(rng.normal(-2.2, 0.25), rng.uniform(0.5, 0.8), rng.normal(1.22, 0.06))
    marks, tray = _turning_marks(rng), _tray(rng)
    part = machine(defect, defect_rng)
    scene, cover = _lay_down(_shade(part, marks, light, pose.angle), part.solid, tray, pose, light)
    if defect == "contamination":
        _contaminate(scene, cover, pose, defect_rng)
    scene *= _unevenness(rng, light)
    return photograph(rng, scene, blur=0.6, noise=4.0)


def _lie(rng: np.random.Generator) -> _Pose:
    angle = float(np.deg2rad(rng.uniform(-6, 6)))
    scale = 0.5 * float(rng.normal(1, 0.006))
    x, y = (_SHAPE[1] - 1) / 2 + rng.uniform(-12, 12), (_SHAPE[0] - 1) / 2 + rng.uniform(-8, 8)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([x, y]) - turn @ np.array([CENTRE, CENTRE])
    return _Pose(np.concatenate([turn, shift[:, None]], axis=1), angle)


def _turning_marks(rng: np.random.Generator) -> Field:
    """The concentric grooves of the lathe tool, about unit variance: whole rings and arcs of some degrees."""
    arcs = 36
    rings = rng.standard_normal((SIDE // 2 + 100, 1), dtype=np.float32)
    grooves = rings + rng.standard_normal((len(rings), arcs), dtype=np.float32)
    radius, angle = polar()
    around = angle * np.float32(arcs / (2 * np.pi))
    return np.asarray(
        cv2.remap(grooves, around, radius, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) * np.float32(0.8),
        dtype=np.float32,
    )


def _shade(part: Part, marks: Field, light: _Light, angle: float) -> Field:
    """Brightness of the part in its own frame, about 0..1."""
    slope_x = cv2.Sobel(part.height, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(part.height, cv2.CV_32F, 0, 1, scale=1 / 8)
    towards = light.azimuth - angle
    tilt = -(slope_x * np.float32(np.cos(towards)) + slope_y * np.float32(np.sin(towards)))
    steep = slope_x * slope_x + slope_y * slope_y
    tilt /= np.sqrt(1 + steep)
    # A turned face gleams where its grooves run across the light: two fans, opposite each other.
    _, around = polar()
    fan = _fan(towards) + np.float32(0.35) * _fan(towards + 1.9)
    gleam = fan[(around * np.float32(len(fan) / (2 * np.pi))).astype(np.intp) % len(fan)]
    gleam /= 1 + 4 * steep
    brightness = 0.42 + 0.016 * marks + gleam * (0.27 + 0.045 * marks)
    brightness *= _openness() + np.float32(0.75 * light.strength) * tilt
    return np.asarray(brightness + part.bright, dtype=np.float32)


@functools.cache
def _openness() -> Field:
    """How much of the room each place of the face sees, about 1: less in the corners of the recess."""
    height, _ = good_body()
    hollow = cv2.blur(height, (25, 25)) - height
    return np.asarray(1 - np.float32(0.02) * np.clip(hollow, -4, 4))


def _fan(azimuth: float) -> Field:
    """Gleam of the turned face by direction from the centre, 0..1: 2048 values from 0 to 2π."""
    across = np.sin(np.arange(2048) * (2 * np.pi / 2048) - azimuth)
    gleam = 0.8 * np.exp(-((across / 0.28) ** 2)) + 0.2 * np.exp(-((across / 0.7) ** 2))
    return np.asarray(gleam, dtype=np.float32)


def _tray(rng: np.random.Generator) -> Field:
    """The tray's brightness, about 1: fine grain of a rubber mat and slow wear."""
    grain = cv2.blur(rng.standard_normal(_SHAPE, dtype=np.float32), (2, 2))
    wear = smooth_noise(rng, _SHAPE, (4, 5))
    return np.asarray(np.float32(rng.normal(1, 0.07)) + np.float32(0.07) * grain + np.float32(0.05) * wear)


def _lay_down(brightness: Field, solid: Field, tray: Field, pose: _Pose, light: _Light) -> tuple[Field, Field]:
    """The part on the tray with the shadow it throws, H×W×3, and how far it covers each pixel, H×W."""
    # At half the resolution of the frame, linear interpolation averages just enough to not alias.
    seen = cv2.warpAffine(cv2.merge([brightness * solid, solid]), pose.matrix, _SHAPE[::-1], flags=cv2.INTER_LINEAR)
    part, cover = seen[..., 0], seen[..., 1]
    away = np.array([[1, 0, -5 * np.cos(light.azimuth)], [0, 1, -5 * np.sin(light.azimuth)]])
    shadow = cv2.warpAffine(cv2.blur(cv2.blur(cover, (9, 9)), (7, 7)), away, _SHAPE[::-1])
    contact = cv2.blur(cover, (5, 5))
    ground = tray * (1 - np.float32(0.45) * shadow) * (1 - np.float32(0.35) * contact) * (1 - cover)
    return part[..., None] * _METAL + ground[..., None] * _TRAY, cover


def _unevenness(rng: np.random.Generator, light: _Light) -> Field:
    """Factor on each pixel and channel, H×W×3: exposure, fall-off of the lamp, a colour cast."""
    y = ((np.arange(_SHAPE[0]) / _SHAPE[0] - 0.5) * np.sin(light.azimuth)).astype(np.float32)
    x = ((np.arange(_SHAPE[1]) / _SHAPE[1] - 0.5) * np.cos(light.azimuth)).astype(np.float32)
    cast = (light.exposure * rng.normal(1, 0.012, size=3)).astype(np.float32)
    return np.asarray((1 + np.float32(0.22) * (x[None, :] + y[:, None]))[..., None] * cast)


# Dirt


def _contaminate(scene: Field, cover: Field, pose: _Pose, rng: np.random.Generator) -> None:
    """Dirt on the part: a film of grease, spots of rust, or a fibre."""
    where = pose(*on_face(rng, 55, 165))
    (_smear_grease, _rust, _drop_fibre)[rng.integers(3)](scene, cover, where, rng)


def _smear_grease(scene: Field, cover: Field, where: tuple[float, float], rng: np.random.Generator) -> None:
    radius = rng.uniform(6, 15)
    film = cover * blob(rng, _SHAPE, where, radius, softness=radius * 0.6)
    scene *= 1 - np.float32(rng.uniform(0.2, 0.55)) * film[..., None] * _GREASE


def _rust(scene: Field, cover: Field, where: tuple[float, float], rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 6)):
        x, y = rng.normal(where, 5)
        spot = cover * blob(rng, _SHAPE, (x, y), rng.uniform(1.5, 4), softness=2, roughness=0.25)
        scene *= 1 - np.float32(rng.uniform(0.4, 0.8)) * spot[..., None] * _RUST


def _drop_fibre(scene: Field, cover: Field, where: tuple[float, float], rng: np.random.Generator) -> None:
    points = curve(rng, where, rng.uniform(14, 45), rng.uniform(0, 2 * np.pi), bend=4)
    shadow = cover * cv2.GaussianBlur(stroke(_SHAPE, points + np.float32(1.2), 1), (5, 5), 1)
    scene *= 1 - np.float32(0.35) * shadow[..., None]
    fibre = stroke(_SHAPE, points, 1)[..., None] * np.float32(rng.uniform(0.5, 0.95))
    scene += fibre * (_FIBRES[rng.integers(len(_FIBRES))] - scene)
