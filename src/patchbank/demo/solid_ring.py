"""A machined ring nut, lying flat in any turn: six slots outside, lettering on its face, a conical thread inside."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from patchbank.demo.drawing import Field, smoothstep
from patchbank.demo.solid_body import Body, Raster, on_ground, tinted

# Millimetres.
_OUTER, _FACE, _BORE = 35.0, 27.0, 16.5  # radii: outside, where face and thread meet, the hole through it
_TOP, _LOWEST = 11.0, 4.0  # heights of the face, and of the thread at the bore
_SLOTS, _SLOT_WIDTH, _SLOT_DEPTH = 6, 7.0, 4.0
_THREAD_PITCH, _THREAD_DEPTH = 2.1, 0.9
_CHAMFER = 0.8
_STAINS = ((0.10, 0.16, 0.42), (0.32, 0.14, 0.06), (0.06, 0.06, 0.06), (0.55, 0.10, 0.08))
_ENGRAVED = 0.25
_LETTERS = 4.2  # height of the lettering
_TEXT_PIXELS = 8.0  # of its drawing, per mm


def ring(rng: np.random.Generator, raster: Raster) -> Body:
    """A good ring, its turn, place, metal and marks of the lathe drawn from `rng`."""
    x, y = raster.posed(rng.uniform(-5, 5, size=2), rng.uniform(0, 2 * np.pi))
    radius, angle = cv2.cartToPolar(x, y)
    solid, inside = _outline(x, y, radius, raster)
    height = _profile(radius, angle, phase=rng.uniform())
    letters = _lettering(radius, angle)
    height -= np.float32(_ENGRAVED) * letters
    height -= np.maximum(_CHAMFER - inside, 0)
    height += 0.01 * raster.noise(rng, 1.5) + np.float32(rng.normal(0, 0.05))
    marks = _lathe_marks(rng, radius)
    metal = tinted(rng, rng.choice([(0.50, 0.49, 0.47), (0.56, 0.48, 0.33)]), 0.05)
    wear = 1 + 0.05 * raster.noise(rng, 14) + 0.05 * raster.noise(rng, 2.5) + 0.07 * marks + 0.04 * raster.grain(rng)
    wear *= 1 - 0.25 * letters
    colour = on_ground(wear[..., None] * metal, solid, rng, raster)
    return Body(
        np.asarray(height * solid, dtype=np.float32), solid, colour, gloss=0.5, stains=_STAINS, dents=(1.0, 1.8)
    )


def _outline(x: Field, y: Field, radius: Field, raster: Raster) -> tuple[Field, Field]:
    """Where the ring is (0..1), and how far each point is from its outline (mm, positive within the ring)."""
    inside = np.minimum(_OUTER - radius, radius - _BORE)
    for turn in np.arange(_SLOTS) * 2 * np.pi / _SLOTS:
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        along, across = x * cos + y * sin, y * cos - x * sin
        beside = np.maximum(np.abs(across) - _SLOT_WIDTH / 2, _OUTER - _SLOT_DEPTH - along)
        inside = np.minimum(inside, beside)
    inside = inside.astype(np.float32)
    return np.clip(inside / np.float32(raster.pitch) + np.float32(0.5), 0, 1), inside


def _profile(radius: Field, angle: Field, phase: float) -> Field:
    """Height of the ring, mm: a flat face, and inside it a cone into which the thread is cut as a spiral."""
    cone = np.clip((radius - _BORE) / (_FACE - _BORE), 0, 1)
    turns = (radius / np.float32(_THREAD_PITCH) - angle / np.float32(2 * np.pi) + np.float32(phase)) % 1
    groove = 1 - smoothstep(np.abs(2 * turns - 1) * np.float32(1.25))
    threaded = smoothstep((_FACE - radius) / np.float32(0.6))
    return np.asarray(_LOWEST + (_TOP - _LOWEST) * cone - _THREAD_DEPTH * groove * threaded, dtype=np.float32)


def _lettering(radius: Field, angle: Field) -> Field:
    """The engraved text, 0..1: it runs around the middle of the face."""
    text = _text()
    middle = (_FACE + _OUTER - _SLOT_DEPTH) / 2
    column = (angle * np.float32(middle * _TEXT_PIXELS)).astype(np.float32)
    row = (np.float32(middle + _LETTERS / 2) - radius) * np.float32(_TEXT_PIXELS)
    return np.asarray(cv2.remap(text, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0))


@functools.cache
def _text() -> Field:
    """The drawing of the text: its rows are `_LETTERS` high."""
    rows = round(_LETTERS * _TEXT_PIXELS)
    canvas = np.zeros((rows, 60 * rows), dtype=np.uint8)
    for start, text in ((1, "M54 x 2"), (15, "LOT 0417")):
        cv2.putText(canvas, text, (start * rows, rows - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.85, 255, 5, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) / np.float32(255), (0, 0), 1.5))


def _lathe_marks(rng: np.random.Generator, radius: Field) -> Field:
    """Concentric marks of the tool, unit variance."""
    lines = rng.standard_normal((1, 512), dtype=np.float32)
    column = radius * np.float32(500 / _OUTER)
    return np.asarray(
        cv2.remap(lines, column, np.zeros_like(column), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )
