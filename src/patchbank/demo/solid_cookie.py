"""A baked cookie: soft, irregular and different each time, with pieces of chocolate and fine cracks."""

from __future__ import annotations

import numpy as np

from patchbank.demo.drawing import Field, blob, smoothstep
from patchbank.demo.solid_body import Body, Raster, on_ground, tinted

_STAINS = ((0.30, 0.42, 0.30), (0.80, 0.80, 0.76), (0.10, 0.16, 0.45), (0.65, 0.14, 0.20))
_CHOCOLATE = np.array([0.13, 0.075, 0.05], dtype=np.float32)


def cookie(rng: np.random.Generator, raster: Raster) -> Body:
    """A good cookie; nothing of two is alike."""
    x, y = raster.posed(rng.uniform(-4, 4, size=2), rng.uniform(0, 2 * np.pi))
    edge, inside = _outline(rng, x, y)
    solid = np.clip(inside / np.float32(raster.pitch) + np.float32(0.5), 0, 1)
    cracks = _cracks(rng, raster) * smoothstep((inside - 2) / 4)
    chips, colours = _chips(rng, raster, edge)
    height = rng.uniform(10, 13) * np.sqrt(np.clip(1 - edge**3, 0.02, 1))
    height += 0.6 * raster.noise(rng, 17) * smoothstep(inside / 6) + 0.03 * raster.noise(rng, 1.5)
    height += 0.25 * chips - 0.35 * cracks
    crumb = 1 + 0.07 * raster.noise(rng, 9) + 0.06 * raster.noise(rng, 2) + 0.08 * raster.grain(rng)
    browned = smoothstep((edge - 0.45) / 0.6) + 0.15 * raster.noise(rng, 12)
    dough = tinted(rng, (0.60, 0.40, 0.20), 0.05) * (1 - browned[..., None] * np.array([0.3, 0.42, 0.5], np.float32))
    part = (crumb * (1 - 0.35 * cracks))[..., None] * dough
    part += chips[..., None] * (colours - part)
    colour = on_ground(part.astype(np.float32), solid, rng, raster)
    return Body(
        np.asarray(np.maximum(height, 0.1) * solid, np.float32),
        solid,
        colour,
        gloss=0.05,
        stains=_STAINS,
        dents=(1.2, 2.2),
    )


def _outline(rng: np.random.Generator, x: Field, y: Field) -> tuple[Field, Field]:
    """The distance from the middle, 1 at the edge; and from the edge in mm, positive within."""
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = np.full(x.shape, rng.uniform(31, 35), dtype=np.float32)
    for waves in range(2, 9):
        edge += np.float32(rng.normal(0, 2.2 / waves)) * np.cos(waves * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(radius / edge, dtype=np.float32), np.asarray(edge - radius, dtype=np.float32)


def _cracks(rng: np.random.Generator, raster: Raster) -> Field:
    """Thin broken lines, 0..1: where smooth noise passes through 0, in some places."""
    line = smoothstep(1 - np.abs(raster.noise(rng, 8)) / np.float32(0.07))
    return np.asarray(line * smoothstep(raster.noise(rng, 13) - np.float32(0.2)), dtype=np.float32)


def _chips(rng: np.random.Generator, raster: Raster, edge: Field) -> tuple[Field, Field]:
    """Pieces of chocolate: where they are (0..1), and their colour as it varies within them."""
    chips = np.zeros(raster.shape, dtype=np.float32)
    within, reach = np.argwhere(edge < 0.85), round(8 / raster.pitch)
    for row, column in within[rng.integers(len(within), size=rng.integers(8, 15))]:
        radius = rng.uniform(1.4, 3.4) / raster.pitch
        top, left = max(row - reach, 0), max(column - reach, 0)
        near = chips[top : row + reach, left : column + reach]
        at = float(column - left), float(row - top)
        piece = blob(rng, near.shape, at, radius, softness=0.8 / raster.pitch, roughness=0.1)
        np.maximum(near, piece, out=near)
    colour = (1 + 0.15 * raster.noise(rng, 3))[..., None] * _CHOCOLATE
    return chips, np.asarray(colour, dtype=np.float32)
