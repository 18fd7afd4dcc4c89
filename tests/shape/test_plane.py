"""The background plane is found by the border, whatever covers it, and the part is what stands on it."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank.shape import Pinhole, Pitch, Shape
from patchbank.shape.plane import background_plane, best_plane, part_on
from patchbank.shape.surface import surface_of
from tests.shape.analytic import cylinder, plane, scene, sphere, with_holes, with_noise


def degrees(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.degrees(np.arccos(min(abs(float(one @ two)), 1.0))))


def block(size: int = 120, noise: float = 0.03, seed: int = 0) -> np.ndarray:
    """Depths of a flat, tilted background in millimetres, 100 away."""
    y, x = np.mgrid[:size, :size] * 0.25
    return 100 + 0.1 * x - 0.05 * y + np.random.default_rng(seed).normal(0, noise, (size, size))


def seen(z: np.ndarray, valid: np.ndarray | None = None) -> Shape:
    valid = np.ones(z.shape, bool) if valid is None else valid
    return Shape(np.where(valid, z, 0).astype(np.float32), valid, Pitch(0.25, 0.25))


TRUE = np.array([0.1, -0.05, -1.0]) / np.linalg.norm([0.1, -0.05, -1.0])


@pytest.mark.parametrize("camera", ["pinhole", "pitch"])
@pytest.mark.parametrize("tilt", [(0, 0), (0.2, -0.1)])
def test_the_plane_of_a_scene(camera: str, tilt: tuple[float, float]) -> None:
    made = scene(sphere(), camera, tilt=tilt)
    shape = with_noise(with_holes(made.shape, 0.3), 0.02)
    found = background_plane(shape.xyz(), shape.valid)
    assert found is not None
    assert degrees(found.normal, made.frame[2]) < 0.05
    assert np.abs(found.frame() - made.frame).max() < 1e-3
    assert 0.015 < found.spread < 0.025


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("flat", [True, False], ids=["flat part", "round part"])
def test_a_border_half_covered(seed: int, flat: bool) -> None:
    """Whichever plane has more points: the part is in front of its background."""
    z = block(seed=seed)
    rows = np.arange(60)[:, None] / 60
    z[:60] -= 8 if flat else 3 + 8 * np.sqrt(1 - rows**2)
    shape = seen(z)
    found = background_plane(shape.xyz(), shape.valid, seed=seed)
    assert found is not None
    assert degrees(found.normal, TRUE) < 0.1
    surface = surface_of(shape, seed)
    assert surface.plane.is_background
    assert surface.part[:60].all()
    assert not surface.part[60:].any()


def test_an_invalid_border() -> None:
    valid = np.zeros((120, 120), bool)
    valid[20:100, 20:100] = True
    shape = seen(block(), valid)
    assert background_plane(shape.xyz(), shape.valid) is None
    valid[:, :4] = True
    shape = seen(block(), valid)
    found = background_plane(shape.xyz(), shape.valid)
    assert found is not None
    assert degrees(found.normal, TRUE) < 2  # a strip of 1 mm


def test_the_same_seed_gives_the_same_plane() -> None:
    shape = with_noise(scene(cylinder()).shape, 0.03)
    one, two = (background_plane(shape.xyz(), shape.valid, seed=3) for _ in range(2))
    assert one is not None
    assert two is not None
    assert (one.normal == two.normal).all()
    assert one.offset == two.offset


def test_a_round_part_that_fills_the_picture() -> None:
    """Its border shows no plane: the best one through all points is its frame, and all of it is inspected."""
    z = 100 - np.sqrt(30.0**2 - ((np.mgrid[:120, :120] - 59.5) ** 2).sum(0) * 0.25**2)
    shape = seen(z)
    assert background_plane(shape.xyz(), shape.valid) is None
    surface = surface_of(shape)
    assert not surface.plane.is_background
    assert surface.part.all()
    assert degrees(surface.plane.normal, np.array([0, 0, -1.0])) < 0.01
    assert abs(surface.height.mean()) < 1e-3


@pytest.mark.parametrize("hole", [0, 5.0])
def test_a_flat_part_that_fills_the_picture(hole: float) -> None:
    """Nothing stands on it, and a deep hole is no part on a background: the whole is inspected."""
    z = block(noise=0.2)
    z[50:80, 40:90] += hole
    surface = surface_of(seen(z))
    assert not surface.plane.is_background
    assert surface.part.all()


def test_no_background_is_looked_for() -> None:
    shape = scene(sphere()).shape
    assert surface_of(shape).plane.is_background
    surface = surface_of(shape, background=False)
    assert not surface.plane.is_background
    assert surface.part.all()


def test_components_by_area_and_distance() -> None:
    z = block(noise=0.02)
    z[30:80, 30:80] -= 6
    z[90:94, 90:94] -= 2  # a piece that broke off: few pixels, but far
    z[100, 100] -= 40  # a spike
    z[20:22, 100:102] -= 0.12  # a speck that hardly stands out
    part = surface_of(seen(z)).part
    expected = np.zeros_like(part)
    expected[30:80, 30:80] = expected[90:94, 90:94] = True
    assert (part == expected).all()


def test_a_quantised_height_map() -> None:
    """Steps of the sensor's own resolution do not stand out from a plane that lies between two of them."""
    z = np.round((block(noise=0.003) - 0.09 * np.mgrid[:120, :120][1] * 0.25) / 0.05) * 0.05
    z[40:80, 40:80] -= 5
    surface = surface_of(seen(z))
    assert surface.plane.is_background
    assert surface.part[40:80, 40:80].all()
    assert surface.part.sum() == 1600


def test_no_threshold_is_a_length() -> None:
    shape = with_noise(scene(sphere(), "pitch").shape, 0.03)
    large = Shape(shape.z * 1000, shape.valid, Pitch(250, 250))
    assert (surface_of(shape).part == surface_of(large).part).all()


def test_a_line_of_points_has_a_plane() -> None:
    shape = Shape(np.full((1, 1000), 5, np.float32), np.ones((1, 1000), bool), Pinhole(900, 900, 500, 0))
    found = best_plane(shape.xyz(), shape.valid)
    assert degrees(found.normal, np.array([0, 0, -1.0])) < 0.1
    point = Shape(np.full((1, 1), 5, np.float32), np.ones((1, 1), bool), Pitch(1, 1))
    assert (best_plane(point.xyz(), point.valid).normal == (0, 0, -1)).all()


def test_nothing_stands_on_an_empty_plane() -> None:
    shape = with_noise(scene(plane, "pitch").shape, 0.03)
    found = background_plane(shape.xyz(), shape.valid)
    assert found is not None
    assert part_on(found, found.height(shape.xyz()), shape.valid) is None


def test_no_background_is_seen_from_its_edge() -> None:
    """A height map in the wrong unit has walls that are planes."""
    rng = np.random.default_rng(0)
    z = 100 + np.cumsum(np.cumsum(rng.normal(0, 1, (120, 120)), 0), 1) + 40 * np.mgrid[:120, :120][0]
    shape = seen(z)
    found = background_plane(shape.xyz(), shape.valid)
    assert found is None
