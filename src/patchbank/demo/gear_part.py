"""The body of the synthetic gear: its height map and silhouette, and the damage that changes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from patchbank.demo.drawing import Field, blob, curve, smooth_noise, smoothstep, stroke

SIDE = 440  # of the part's square frame, in pixels of which two make one of the image
FRAME = (SIDE, SIDE)
CENTRE = (SIDE - 1) / 2

_TEETH, _TIP, _ROOT = 26, 206.0, 178.0  # number, and radii of their ends
_WEB = (96.0, 160.0)  # radii between which the face is recessed
_BORE = 42.0
_HOLES, _HOLE_CIRCLE, _HOLE = 5, 128.0, 22.0  # number, radius of the circle they lie on, own radius
_CHAMFER = 5.0


@dataclass
class Part:
    """The part in its own frame, fields of shape `FRAME`.

    `height` in pixels, `solid` 0..1 the silhouette, `bright` bare metal, which adds to the brightness.
    """

    height: Field
    solid: Field
    bright: Field


def machine(defect: str | None, rng: np.random.Generator) -> Part:
    """The gear, with the damage `defect` if that is one of the body; `rng` is used for nothing else."""
    height, solid = good_body()
    part = Part(height.copy(), solid.copy(), np.zeros(FRAME, dtype=np.float32))
    radii = [_HOLE] * _HOLES
    if defect == "missing_hole":  # not drilled at all, or drilled too small
        radii[rng.integers(_HOLES)] *= 0 if rng.random() < 0.4 else rng.uniform(0.4, 0.85)
    for i, radius in enumerate(radii):
        if radius > 0:
            _drill(part, _hole_centre(i), radius)
    if defect in _DAMAGES:
        _DAMAGES[defect](part, rng)
    return part


@functools.cache
def polar() -> tuple[Field, Field]:
    """Radius in pixels and angle in radians (0 to 2π) of each pixel of the part's frame."""
    offset = np.arange(SIDE) - CENTRE
    radius = np.hypot(offset[:, None], offset[None, :])
    angle = np.arctan2(offset[:, None], offset[None, :]) % (2 * np.pi)
    return radius.astype(np.float32), angle.astype(np.float32)


@functools.cache
def good_body() -> tuple[Field, Field]:
    """Height and silhouette of the gear before its holes are drilled."""
    fine = 4
    outline = ((_tooth_outline() + CENTRE + 0.5) * fine - 0.5).round().astype(np.int32)
    canvas = np.zeros((SIDE * fine, SIDE * fine), dtype=np.uint8)
    cv2.fillPoly(canvas, [outline], 255)
    centre = int((CENTRE + 0.5) * fine)
    cv2.circle(canvas, (centre, centre), int(_BORE * fine), 0, -1)
    keyway = (centre - 9 * fine, centre - int((_BORE + 13) * fine)), (centre + 9 * fine, centre)
    cv2.rectangle(canvas, *keyway, 0, -1)
    solid = cv2.resize(canvas, FRAME, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    inside = cv2.distanceTransform(canvas, cv2.DIST_L2, 5) / np.float32(fine)
    height = np.minimum(cv2.resize(inside, FRAME, interpolation=cv2.INTER_AREA), _CHAMFER)
    radius, _ = polar()
    height -= 7 * smoothstep((radius - _WEB[0]) / 8) * smoothstep((_WEB[1] - radius) / 8)
    height -= 2 * _engraving()
    return np.asarray(height, dtype=np.float32), np.asarray(solid, dtype=np.float32)


def _tooth_outline() -> Field:
    """Corners of the gear around its centre, N×2: per tooth the root, two points of each flank, the tip."""
    pitch = 2 * np.pi / _TEETH
    share = np.array([-0.5, -0.31, -0.255, -0.2, -0.12, 0.12, 0.2, 0.255, 0.31])
    middle = (_ROOT + _TIP) / 2
    radius = np.array([_ROOT, _ROOT, _ROOT + 5, middle, _TIP, _TIP, middle, _ROOT + 5, _ROOT])
    angle = (np.arange(_TEETH)[:, None] + share[None, :]).ravel() * pitch
    radius = np.tile(radius, _TEETH)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _engraving() -> Field:
    """The marks, 0..1: type and batch in the web between holes, a centre punch on the hub."""
    marks = np.zeros(FRAME, dtype=np.uint8)
    for text, turn in (("Z26 M4", 0.0), ("0417 C", 144.0)):
        label = np.zeros(FRAME, dtype=np.uint8)
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.58, 2)
        corner = (int(CENTRE - width / 2), int(CENTRE - _HOLE_CIRCLE + 8))
        cv2.putText(label, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.58, 255, 2, cv2.LINE_AA)
        rotation = cv2.getRotationMatrix2D((CENTRE, CENTRE), -turn, 1)
        marks = np.maximum(marks, cv2.warpAffine(label, rotation, FRAME))
    cv2.circle(marks, (int(CENTRE + 52), int(CENTRE + 48)), 6, 255, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(marks.astype(np.float32) / np.float32(255), (0, 0), 0.8))


def _hole_centre(i: int) -> tuple[float, float]:
    angle = 2 * np.pi * i / _HOLES + np.pi / 2
    return CENTRE + _HOLE_CIRCLE * float(np.cos(angle)), CENTRE + _HOLE_CIRCLE * float(np.sin(angle))


def _drill(part: Part, centre: tuple[float, float], radius: float) -> None:
    reach = int(radius + _CHAMFER + 3)
    left, top = int(centre[0]) - reach, int(centre[1]) - reach
    window = (slice(top, top + 2 * reach + 1), slice(left, left + 2 * reach + 1))
    y, x = np.ogrid[window]
    distance = (np.hypot(x - centre[0], y - centre[1]) - radius).astype(np.float32)
    part.solid[window] *= np.clip(distance + np.float32(0.5), 0, 1)
    part.height[window] -= np.clip(_CHAMFER - distance, 0, _CHAMFER) * np.float32(0.8)


# Damage


def on_face(rng: np.random.Generator, inner: float, outer: float) -> tuple[float, float]:
    """A point (x, y) of the part's frame between two radii, and not in a hole."""
    while True:
        radius, angle = rng.uniform(inner, outer), rng.uniform(0, 2 * np.pi)
        x, y = CENTRE + radius * float(np.cos(angle)), CENTRE + radius * float(np.sin(angle))
        if all(np.hypot(x - hx, y - hy) > _HOLE + 4 for hx, hy in map(_hole_centre, range(_HOLES))):
            return x, y


def _scratch(part: Part, rng: np.random.Generator) -> None:
    """A thin line through the turning marks that catches the light, 20 to 70 image pixels long."""
    points = curve(rng, on_face(rng, 55, 165), rng.uniform(40, 140), rng.uniform(0, 2 * np.pi), bend=0.5)
    line = stroke(FRAME, points, int(rng.integers(2, 5)))
    depth = np.float32(rng.uniform(0.5, 1.0))
    part.height -= 2 * depth * line
    part.bright += np.float32(0.28) * depth * line


def _chip_tooth(part: Part, rng: np.random.Generator) -> None:
    """A piece has broken off a tooth; the fracture is rough and bright."""
    angle = 2 * np.pi * (rng.integers(_TEETH) + rng.uniform(-0.12, 0.12)) / _TEETH
    reach = _TIP + rng.uniform(-8, 2)
    centre = CENTRE + reach * float(np.cos(angle)), CENTRE + reach * float(np.sin(angle))
    radius = rng.uniform(12, 28)
    gone = blob(rng, FRAME, centre, radius, softness=1.5, roughness=0.16)
    fracture = blob(rng, FRAME, centre, radius + rng.uniform(3, 6), softness=3, roughness=0.14)
    part.solid *= 1 - gone
    part.height -= fracture * (3 + 1.5 * smooth_noise(rng, FRAME, (110, 110)))
    part.bright += np.float32(0.14) * fracture


def _dent(part: Part, rng: np.random.Generator) -> None:
    """Something hard hit the face: a smooth hollow, 12 to 30 image pixels wide."""
    x, y = on_face(rng, 60, 170)
    wide, stretch, turn = rng.uniform(12, 30), rng.uniform(0.6, 1), rng.uniform(0, np.pi)
    offset_y, offset_x = np.ogrid[: FRAME[0], : FRAME[1]]
    dx, dy = (offset_x - x).astype(np.float32), (offset_y - y).astype(np.float32)
    along = (dx * np.float32(np.cos(turn)) + dy * np.float32(np.sin(turn))) / np.float32(wide)
    across = (dy * np.float32(np.cos(turn)) - dx * np.float32(np.sin(turn))) / np.float32(wide * stretch)
    hollow = np.clip(1 - along * along - across * across, 0, 1) ** 2
    part.height -= np.float32(wide * rng.uniform(0.25, 0.6)) * hollow


_DAMAGES: dict[str, Callable[[Part, np.random.Generator], None]] = {
    "scratch": _scratch,
    "chipped_tooth": _chip_tooth,
    "dent": _dent,
}
