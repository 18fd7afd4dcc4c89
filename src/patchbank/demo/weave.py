"""A woven textile in plain weave: light warp threads (down) and blue weft threads (across), seen from above.

Drawn flat first, in fabric coordinates, where every warp thread is a column of `_CELL` pixels and every weft
thread a row of them; then laid out with the rotation, stretch and waviness that no two pieces share; then lit
and photographed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from patchbank.demo.drawing import (
    Field,
    blob,
    curve,
    photograph,
    smooth_lines,
    smooth_noise,
    smoothstep,
    stroke,
)

DEFECTS = ("cut_thread", "hole", "stain", "loose_thread", "pulled_thread", "foreign_fibre")

_SIZE = 256  # of the image, pixels
_SHAPE = (_SIZE, _SIZE)
_CELL = 10  # fabric pixels from thread to thread
_THREADS = 42  # per direction; the image shows 36, the rest is margin for rotation and shift
_FLAT = (_CELL * _THREADS, _CELL * _THREADS)
_PITCH = 7.0  # image pixels from thread to thread
_WARP = np.array([0.80, 0.78, 0.72], dtype=np.float32)
_WEFT = np.array([0.36, 0.46, 0.62], dtype=np.float32)
_GROUND = np.array([0.07, 0.075, 0.085], dtype=np.float32)  # between and behind the threads
_DYES = np.array([[0.72, 0.26, 0.2], [0.75, 0.62, 0.22], [0.22, 0.2, 0.2], [0.36, 0.5, 0.34]], dtype=np.float32)
_X = np.arange(_SIZE, dtype=np.float32) - (_SIZE - 1) / 2  # image pixels from the centre
_CROSS = ((np.arange(_FLAT[0], dtype=np.float32) % _CELL + 0.5) / _CELL) * 2 - 1  # -1..1 through each cell


@dataclass
class _Fabric:
    """The flat fabric, fields of shape `_FLAT`.

    `warp` and `weft` are how bright each thread system would be if it lay on top everywhere, `warp_on_top`
    says where it does. Defects, 0..1: `gone_warp` and `gone_weft` where thread is missing, `dyed` where it
    has the colour `dye`.
    """

    warp: Field
    weft: Field
    warp_on_top: NDArray[np.bool_]
    gone_warp: Field | None = None
    gone_weft: Field | None = None
    dyed: Field | None = None
    dye: Field = field(default_factory=lambda: _WARP)


@dataclass
class _Layout:
    """For each image pixel the fabric position (column, row) seen there: two fields of the image's shape."""

    column: Field
    row: Field


def render(defect: str | None, rng: np.random.Generator, defect_rng: np.random.Generator) -> NDArray[np.uint8]:
    """One piece of the fabric, 256×256×3. `rng` draws piece and picture, `defect_rng` only the defect."""
    fabric, layout, light = _weave(rng), _lay_out(rng), _light(rng)
    if defect in _IN_FABRIC:
        _IN_FABRIC[defect](fabric, layout, defect_rng)
    scene = _look(fabric, layout)
    if defect in _ON_TOP:
        _ON_TOP[defect](scene, defect_rng)
    scene *= light
    return photograph(rng, scene, blur=0.6, noise=5.0)


# The good fabric


def _weave(rng: np.random.Generator) -> _Fabric:
    light_x, light_y = rng.normal(0, 0.18, size=2)
    # One grain is enough for both: at any place only one system is seen.
    grain = rng.standard_normal(_FLAT, dtype=np.float32)
    warp = _threads(rng, grain, light_x, light_y)
    weft = _threads(rng, grain.T, light_y, light_x).T
    parity = (np.arange(_FLAT[0]) // _CELL) % 2
    return _Fabric(warp, np.ascontiguousarray(weft), parity[:, None] == parity[None, :])


def _threads(rng: np.random.Generator, grain: Field, light_across: float, light_along: float) -> Field:
    """Brightness of one system of upright threads: round across, bowed where they dive under the other."""
    # Yarn is never even: each thread has its own thickness and shade, and both drift along it.
    slubs, shades = (np.repeat(_thread_noise(rng, cells), _CELL, axis=1) for cells in (9, 5))
    flattened = np.clip(1 - _CROSS**2 * (np.float32(1.16) - np.float32(0.13) * slubs), 0, 1)
    bow = 0.62 + 0.38 * np.cos(_CROSS * np.pi / 2)
    sides = (1 + light_across * _CROSS).astype(np.float32)
    length = (bow * (1 + light_along * _CROSS)).astype(np.float32)
    fibres = _twist() + np.float32(0.14) * cv2.blur(grain, (1, 5)) + np.float32(0.07) * shades
    return np.asarray(np.sqrt(flattened) * sides * length[:, None] * (1 + fibres), dtype=np.float32)


@functools.cache
def _twist() -> Field:
    """The slanting ripple of spun yarn, on upright threads."""
    position = np.arange(_FLAT[0])
    return (0.06 * np.sin(position[None, :] * 1.1 + position[:, None] * 0.65)).astype(np.float32)


def _thread_noise(rng: np.random.Generator, cells: int) -> Field:
    """Noise of unit variance for each thread (columns), smooth along it (rows): `_FLAT[0]`×`_THREADS`."""
    own = rng.standard_normal((1, _THREADS), dtype=np.float32)
    return np.asarray(np.float32(0.7) * (own + smooth_lines(rng, _FLAT[0], cells, _THREADS)))


def _lay_out(rng: np.random.Generator) -> _Layout:
    angle = np.deg2rad(rng.normal(0, 1.2))
    scale = _CELL / _PITCH * rng.normal(1, 0.015, size=2)
    shift = rng.uniform(-_CELL, _CELL, size=2) + _FLAT[0] / 2
    right, down = np.float32(np.cos(angle)) * _X, np.float32(np.sin(angle)) * _X
    column = np.float32(scale[0]) * (right[None, :] + down[:, None]) + np.float32(shift[0])
    row = np.float32(scale[1]) * (right[:, None] - down[None, :]) + np.float32(shift[1])
    for position, fine in ((column, (8, 20)), (row, (20, 8))):
        position += np.float32(1.8) * smooth_noise(rng, _SHAPE, (3, 3))
        position += np.float32(0.6) * smooth_noise(rng, _SHAPE, fine)
    return _Layout(column, row)


def _light(rng: np.random.Generator) -> Field:
    """Factor on each pixel and channel, H×W×3: exposure, slanting light, uneven dye, a colour cast."""
    slant = rng.normal(0, 0.05, size=2).astype(np.float32)
    x, y = _X / _X[-1], _X[:, None] / _X[-1]
    brightness = 1 + slant[0] * x + slant[1] * y - np.float32(0.05) * (x * x + y * y)
    brightness += np.float32(0.02) * smooth_noise(rng, _SHAPE, (3, 3))
    exposure = rng.normal(1, 0.05)
    cast = rng.normal(1, 0.015, size=3)
    return np.asarray(brightness[..., None] * (exposure * cast).astype(np.float32))


def _look(fabric: _Fabric, layout: _Layout) -> Field:
    """The laid out fabric as the camera would see it in even light: H×W×3, 0..1."""
    if fabric.gone_warp is None and fabric.gone_weft is None:
        warp, weft = fabric.warp * fabric.warp_on_top, fabric.weft * ~fabric.warp_on_top
    else:
        warp, weft = _take_away(fabric)
    dyed = fabric.dyed if fabric.dyed is not None else np.zeros(_FLAT, dtype=np.float32)
    # Blurred to the camera's resolution before sampling, or the thread edges would alias.
    flat = cv2.GaussianBlur(cv2.merge([warp, weft, dyed]), (5, 5), 0.7)
    seen = cv2.remap(flat, layout.column, layout.row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    scene = cv2.transform(seen, _mix(_WARP, _WEFT))
    if fabric.dyed is not None:
        scene += seen[..., 2:3] * (cv2.transform(seen, _mix(fabric.dye, fabric.dye)) - scene)
    return np.asarray(scene, dtype=np.float32)


def _mix(warp: Field, weft: Field) -> Field:
    """The 3×4 matrix that takes (warp, weft, dyed) brightness to a colour over the dark ground."""
    return np.stack([warp - _GROUND, weft - _GROUND, 0 * _GROUND, _GROUND], axis=1)


# Defects


def _take_away(fabric: _Fabric) -> tuple[Field, Field]:
    """Warp and weft as seen where some of them are missing: what lay below shows, sunken and in shadow."""
    no_warp = fabric.gone_warp if fabric.gone_warp is not None else np.float32(0)
    no_weft = fabric.gone_weft if fabric.gone_weft is not None else np.float32(0)
    below = np.float32(0.72)
    warp = fabric.warp * (1 - no_warp) * np.where(fabric.warp_on_top, 1, below * no_weft)
    weft = fabric.weft * (1 - no_weft) * np.where(fabric.warp_on_top, below * no_warp, 1)
    return warp.astype(np.float32), weft.astype(np.float32)


def _place(layout: _Layout, rng: np.random.Generator, margin: int) -> tuple[float, float]:
    """A fabric position (column, row) seen at least `margin` pixels inside the image."""
    x, y = rng.integers(margin, _SIZE - margin, size=2)
    return float(layout.column[y, x]), float(layout.row[y, x])


def _cut_thread(fabric: _Fabric, layout: _Layout, rng: np.random.Generator) -> None:
    """A thread is missing over 3 to 14 crossings, its ends frayed."""
    column, row = _place(layout, rng, 50)
    half = rng.uniform(1.5, 7) * _CELL
    down = rng.random() < 0.5
    thread, centre = (int(column) // _CELL, row) if down else (int(row) // _CELL, column)
    position = np.arange(_FLAT[0], dtype=np.float32)
    ends = half + rng.normal(0, 3, size=_CELL).astype(np.float32)  # every fibre breaks at a place of its own
    gone = smoothstep((ends[None, :] - np.abs(position - centre)[:, None]) / 3)
    missing = np.zeros(_FLAT, dtype=np.float32)
    missing[:, thread * _CELL : (thread + 1) * _CELL] = gone
    if down:
        fabric.gone_warp = missing
    else:
        fabric.gone_weft = np.ascontiguousarray(missing.T)


def _tear_hole(fabric: _Fabric, layout: _Layout, rng: np.random.Generator) -> None:
    """Both systems are missing in a patch of 2 to 6 threads; each thread ends at a place of its own."""
    column, row = _place(layout, rng, 40)
    radius = rng.uniform(0.9, 2.8) * _CELL
    y, x = np.ogrid[: _FLAT[0], : _FLAT[1]]
    distance = np.hypot(x - column, (y - row) * rng.uniform(0.8, 1.25)).astype(np.float32)
    ends = np.repeat(rng.normal(0, 0.3 * _CELL, size=(2, _THREADS)), _CELL, axis=1).astype(np.float32)
    fray = smooth_noise(rng, _FLAT, (_THREADS * 2, _THREADS * 2)) * 1.5
    fabric.gone_warp = smoothstep((radius + ends[0][None, :] + fray - distance) / 3)
    fabric.gone_weft = smoothstep((radius + ends[1][:, None] + fray - distance) / 3)


def _weave_in_fibre(fabric: _Fabric, layout: _Layout, rng: np.random.Generator) -> None:
    """A foreign fibre was spun into one thread: 2 to 6 of its floats take on another colour."""
    column, row = _place(layout, rng, 40)
    half = rng.uniform(1.5, 6) * _CELL
    down = rng.random() < 0.5
    across, along = (column, row) if down else (row, column)
    y, x = np.ogrid[: _FLAT[0], : _FLAT[1]]
    x, y = (x, y) if down else (y, x)
    on_top = fabric.warp_on_top if down else ~fabric.warp_on_top
    inside = (x // _CELL == int(across) // _CELL) & on_top
    fabric.dyed = (smoothstep((half - np.abs(y - along).astype(np.float32)) / 8) * inside).astype(np.float32)
    fabric.dyed *= np.float32(rng.uniform(0.5, 1.0))
    fabric.dye = _DYES[rng.integers(len(_DYES))]


def _pull_thread(fabric: _Fabric, layout: _Layout, rng: np.random.Generator) -> None:
    """A snag: for some length one thread's neighbours are drawn towards it, or pushed away from it."""
    column, row = _place(layout, rng, 50)
    reach, spread = rng.uniform(3, 8) * _CELL, rng.uniform(2, 3) * _CELL
    pull = rng.uniform(0.25, 0.8) * _CELL * rng.choice([-1, 1])
    down = rng.random() < 0.5
    across, along, moved = (layout.column, layout.row, column) if down else (layout.row, layout.column, row)
    u = np.clip((across - moved) / np.float32(spread), -1, 1)
    drawn = 3.5 * u * (1 - u * u) ** 2  # odd: both sides come nearer, or part; exactly 0 from `spread` on
    fade = smoothstep(1 - np.abs(along - (row if down else column)) / np.float32(reach))
    across += np.float32(pull) * drawn * fade


def _stain(scene: Field, rng: np.random.Generator) -> None:
    """A dried spot: darker and yellower, with a faint rim."""
    radius = rng.uniform(7, 26)
    x, y = rng.uniform(30, _SIZE - 30, size=2)
    inner = blob(rng, _SHAPE, (x, y), radius, softness=radius * 0.4, roughness=0.15)
    rim = 4 * inner * (1 - inner)
    depth = np.float32(rng.uniform(0.2, 0.5))
    tint = np.array([0.75, 0.95, 1.3], dtype=np.float32)
    scene *= 1 - depth * (inner + 0.35 * rim)[..., None] * tint


def _lay_thread_on_top(scene: Field, rng: np.random.Generator) -> None:
    """A loose end of yarn lies on the fabric and throws a shadow."""
    start = rng.uniform(60, _SIZE - 60, size=2)
    points = curve(rng, (start[0], start[1]), rng.uniform(25, 110), rng.uniform(0, 2 * np.pi), bend=2.5)
    width = int(rng.integers(1, 4))
    shadow = cv2.GaussianBlur(stroke(_SHAPE, points + np.float32(1.5), width + 1), (7, 7), 1.5)
    scene *= 1 - np.float32(0.4) * shadow[..., None]
    body, ridge = stroke(_SHAPE, points, width), stroke(_SHAPE, points - np.float32(0.4), 1)
    colour = (_WARP if rng.random() < 0.6 else _WEFT) * np.float32(rng.uniform(0.85, 1.1))
    scene += body[..., None] * (colour * (0.72 + 0.28 * ridge[..., None]) - scene)


_IN_FABRIC: dict[str, Callable[[_Fabric, _Layout, np.random.Generator], None]] = {
    "cut_thread": _cut_thread,
    "hole": _tear_hole,
    "pulled_thread": _pull_thread,
    "foreign_fibre": _weave_in_fibre,
}
_ON_TOP: dict[str, Callable[[Field, np.random.Generator], None]] = {
    "stain": _stain,
    "loose_thread": _lay_thread_on_top,
}
