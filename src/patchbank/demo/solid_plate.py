"""A moulded plastic plate: a rim, cross ribs, a boss in the middle and four screw holes, lying nearly straight."""

from __future__ import annotations

import numpy as np

from patchbank.demo.drawing import Field, smoothstep
from patchbank.demo.solid_body import Body, Raster, on_ground, tinted

# Millimetres.
_HALF_LENGTH, _HALF_WIDTH, _CORNER = 38.0, 27.0, 6.0
_BASE, _RIM, _RIB, _BOSS = 3.0, 3.0, 4.0, 5.0  # thickness of the floor, and heights above it
_RIM_WIDTH, _RIB_WIDTH, _RIB_PITCH = 2.4, 2.2, 9.5
_DRAFT = 0.9  # how far each side of a rib leans
_HOLE, _HOLE_INSET = 2.4, 7.0
_BOSS_RADIUS, _BORE = 7.0, 3.2
_STAINS = ((0.70, 0.70, 0.66), (0.05, 0.05, 0.05), (0.50, 0.10, 0.08), (0.55, 0.42, 0.16))
_PLASTICS = ((0.16, 0.25, 0.36), (0.30, 0.33, 0.34), (0.20, 0.32, 0.27))


def plate(rng: np.random.Generator, raster: Raster) -> Body:
    """A good plate, its place, small turn, plastic and flow lines drawn from `rng`."""
    x, y = raster.posed(rng.uniform(-5, 5, size=2), float(np.deg2rad(rng.uniform(-12, 12))))
    inside, from_holes = _outline(x, y)
    edge = np.minimum(inside, from_holes)
    solid = np.clip(edge / np.float32(raster.pitch) + np.float32(0.5), 0, 1)
    height = _BASE + _raised(x, y, inside, from_holes, ribs=rng.normal(0, 0.04))
    height -= np.maximum(0.5 - edge, 0)
    height += _warp(rng, x, y) + 0.008 * raster.noise(rng, 1.2)
    plastic = tinted(rng, _PLASTICS[rng.integers(len(_PLASTICS))], 0.08)
    flow = 1 + 0.05 * raster.noise(rng, 18) + 0.04 * raster.noise(rng, 4) + 0.05 * raster.grain(rng)
    colour = on_ground(flow[..., None] * plastic, solid, rng, raster)
    return Body(
        np.asarray(height * solid, dtype=np.float32), solid, colour, gloss=0.22, stains=_STAINS, dents=(0.7, 1.5)
    )


def _outline(x: Field, y: Field) -> tuple[Field, Field]:
    """Distances (mm, positive on the plate): from its outer edge, and from the nearest hole."""
    beyond_x, beyond_y = np.abs(x) - (_HALF_LENGTH - _CORNER), np.abs(y) - (_HALF_WIDTH - _CORNER)
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0)) + np.minimum(np.maximum(beyond_x, beyond_y), 0)
    hole_x, hole_y = np.abs(x) - (_HALF_LENGTH - _HOLE_INSET), np.abs(y) - (_HALF_WIDTH - _HOLE_INSET)
    holes = np.minimum(np.hypot(hole_x, hole_y) - _HOLE, np.hypot(x, y) - _BORE)
    return np.asarray(_CORNER - outside, dtype=np.float32), np.asarray(holes, dtype=np.float32)


def _raised(x: Field, y: Field, inside: Field, from_holes: Field, ribs: float) -> Field:
    """What stands on the floor, mm: the rim, the ribs from rim to rim, rings around the holes, the boss."""
    rim = _RIM * _wall(_RIM_WIDTH - inside)
    nearest = np.abs((x / np.float32(_RIB_PITCH) + np.float32(0.5)) % 1 - np.float32(0.5)) * np.float32(_RIB_PITCH)
    between = np.abs(x) < _RIB_PITCH * 3.5
    rib = (_RIB + ribs) * _wall(_RIB_WIDTH / 2 - nearest) * between
    rib *= smoothstep((from_holes - 2.5) / 2) * smoothstep(inside - 1)  # they end at the rim
    collar = 1.5 * _wall(_HOLE - np.abs(from_holes - 1.0))
    boss = _BOSS * _wall(np.asarray(_BOSS_RADIUS - np.hypot(x, y), np.float32))
    return np.asarray(np.maximum.reduce([rim, rib, np.minimum(collar, 1.5), boss]), dtype=np.float32)


def _wall(inside: Field) -> Field:
    """1 within, 0 outside, with a side that leans by `_DRAFT` and rounded edges."""
    return smoothstep(inside / np.float32(_DRAFT) + np.float32(0.5))


def _warp(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """How a cooling plate bends, mm."""
    along, across = rng.normal(0, 0.15, size=2)
    return np.asarray(along * (x / _HALF_LENGTH) ** 2 + across * (y / _HALF_WIDTH) ** 2, dtype=np.float32)
