"""What is wrong with a solid part, and which of the two pictures of it, colour or depth, shows it.

A defect is drawn as a spot of the raster: 0..1, where it is.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.demo.drawing import Field, blob, curve, stroke
from patchbank.demo.solid_body import Body, Raster
from patchbank.demo.solid_view import Hits

_DARK = (0.03, 0.03, 0.03)


def dent(body: Body, at: tuple[float, float], rng: np.random.Generator, raster: Raster) -> tuple[Body, Field]:
    """A smooth hollow or bump, 6 to 12 mm wide."""
    radius, stretch = rng.uniform(3, 6), rng.uniform(0.75, 1)
    x, y = raster.posed(at, rng.uniform(0, 2 * np.pi))
    spot = np.clip(1 - (x / np.float32(radius)) ** 2 - (y / np.float32(radius * stretch)) ** 2, 0, 1) ** 2
    depth = np.float32(rng.uniform(*body.dents) * rng.choice([-1, 1]))
    return body.pressed(depth * spot), np.asarray(spot > 0.12, dtype=np.float32)


def stain(body: Body, at: tuple[float, float], rng: np.random.Generator, raster: Raster) -> tuple[Body, Field]:
    """A spot or a short stroke of foreign colour, 3 to 14 mm long."""
    centre = raster.pixels(*at)
    if rng.random() < 0.65:
        radius = rng.uniform(1.6, 4.5) / raster.pitch
        spot = blob(rng, raster.shape, centre, radius, softness=0.5 * radius, roughness=0.2)
    else:
        spot = _line(rng, at, raster, length=rng.uniform(6, 14), width=rng.uniform(0.8, 1.6), softness=0.25)
    colour = body.stains[rng.integers(len(body.stains))]
    return body.painted(np.float32(rng.uniform(0.45, 0.85)) * spot, colour), spot


def cut(body: Body, at: tuple[float, float], rng: np.random.Generator, raster: Raster) -> tuple[Body, Field]:
    """A slit 8 to 20 mm long or a hole 3 to 5 mm wide, 2 to 6 mm deep and dark inside."""
    if rng.random() < 0.6:
        spot = _line(rng, at, raster, length=rng.uniform(8, 20), width=rng.uniform(0.9, 1.8), softness=0.1)
    else:
        radius = rng.uniform(1.5, 2.5) / raster.pitch
        spot = blob(rng, raster.shape, raster.pixels(*at), radius, softness=1.2, roughness=0.06)
    return body.pressed(np.float32(rng.uniform(2, 6)) * spot).painted(np.float32(0.75) * spot, _DARK), spot


def missing(body: Body, at: tuple[float, float], rng: np.random.Generator, raster: Raster) -> tuple[Body, Field]:
    """Where no points are: a rough patch 6 to 14 mm wide. The body stays whole."""
    radius = rng.uniform(3, 7) / raster.pitch
    return body, blob(rng, raster.shape, raster.pixels(*at), radius, softness=1, roughness=0.18)


def _line(
    rng: np.random.Generator, at: tuple[float, float], raster: Raster, *, length: float, width: float, softness: float
) -> Field:
    """A slightly curved line through `at`, lengths in mm: 0..1."""
    points = curve(rng, (0.0, 0.0), length / raster.pitch, rng.uniform(0, 2 * np.pi), bend=0.4)
    points += np.asarray(raster.pixels(*at), np.float32) - points[len(points) // 2]
    line = stroke(raster.shape, points, max(round(width / raster.pitch), 2))  # a thinner one falls between pixels
    return np.asarray(cv2.GaussianBlur(line, (0, 0), max(softness / raster.pitch, 0.3)))


def place(candidates: NDArray[np.bool_], hits: Hits, margin: int, rng: np.random.Generator) -> tuple[float, float]:
    """A point (u, v) of the ground plane seen at one of the `candidates`, which are pixels with a point on the part.

    Where the part is wide enough the point is `margin` pixels from its edges and shadows; single gaps do not count.
    """
    whole = cv2.morphologyEx(candidates.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    inner = cv2.distanceTransform(whole, cv2.DIST_L2, 5) * candidates
    among = np.flatnonzero(inner >= min(float(margin), 0.7 * float(inner.max())))
    pixel = among[rng.integers(len(among))]
    return float(hits.u.flat[pixel]), float(hits.v.flat[pixel])


DRAW: dict[str, Callable[[Body, tuple[float, float], np.random.Generator, Raster], tuple[Body, Field]]] = {
    "dent": dent,
    "stain": stain,
    "cut": cut,
    "missing": missing,
}
