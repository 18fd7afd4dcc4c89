"""Normals and curvature are those of surfaces for which both are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from patchbank.errors import ImageError, OptionError
from patchbank.shape import Pitch, Shape
from patchbank.shape.normals import box_normals
from patchbank.shape.surface import Surface, surface_of
from tests.shape.analytic import PITCH, Scene, cylinder, plane, scene, sphere, torus, with_holes, with_noise

SOLIDS = {"sphere": sphere(), "cylinder": cylinder(), "torus": torus()}


def angles(surface: Surface, made: Scene) -> np.ndarray:
    """Degrees between the normals and the true ones."""
    cosines = (surface.normals * made.normals).sum(-1)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def inner(made: Scene) -> np.ndarray:
    """Pixels on the solid where it is not steep, farther from its edges than both smoothings reach."""
    there = cv2.erode((np.abs(made.height) > 0).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=13)
    return there.astype(bool) & (made.normals[..., 2] > 0.7)


@pytest.mark.parametrize("camera", ["pinhole", "pitch"])
@pytest.mark.parametrize("tilt", [(0, 0), (0.15, -0.1)], ids=["level", "tilted"])
@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("holes", [0, 0.2])
def test_normals_and_curvature(name: str, camera: str, tilt: tuple[float, float], holes: float) -> None:
    """Half of the pixels within 0.2° and 2 % of the curvature, 95 % within 0.5° and 5 %; with every fifth point missing
    0.5° and 1.5°, 4 % and 15 %."""
    made = scene(SOLIDS[name], camera, tilt=tilt)
    shape = with_holes(made.shape, holes) if holes else made.shape
    surface = surface_of(shape)
    where = inner(made) & shape.valid
    assert where.sum() > 500
    assert np.abs(surface.height - made.height)[where].max() < 1e-3
    wrong = angles(surface, made)[where]
    truth = made.curvature[where] * shape.pitch()
    off = np.abs(surface.curvature[where] - truth) / np.abs(truth)
    found = [np.median(wrong), np.quantile(wrong, 0.95), np.median(off), np.quantile(off, 0.95)]
    limits = [0.5, 1.5, 0.04, 0.15] if holes else [0.2, 0.5, 0.02, 0.05]
    assert (np.array(found) < limits).all(), found


@pytest.mark.parametrize("camera", ["pinhole", "pitch"])
@pytest.mark.parametrize("tilt", [(0, 0), (0.3, 0.2)], ids=["level", "tilted"])
def test_a_plane_is_exact_also_beside_holes(camera: str, tilt: tuple[float, float]) -> None:
    """Whatever stands in invalid points, and however many there are, it does not get in."""
    shape = with_holes(scene(plane, camera, tilt=tilt).shape, 0.4)
    surface = surface_of(shape)
    assert np.abs(surface.normals - (0, 0, 1)).max() < 2e-3
    assert np.abs(surface.curvature).max() < 1e-3
    assert np.abs(surface.height).max() < 1e-3


def test_a_bump_is_positive_and_a_dent_negative() -> None:
    for sign in (1, -1):
        made = scene(sphere(20), "pitch", size=240, sign=sign)
        surface = surface_of(made.shape, background=sign > 0)
        assert np.sign(surface.curvature[115:125, 115:125]).mean() == sign
        assert surface.curvature[120, 120] == pytest.approx(sign * 2 / (20 / PITCH), rel=0.02)


def test_the_frame_keeps_x() -> None:
    """x of a normal points to the right of the picture, y up: a slope that falls to the right has a positive x."""
    made = scene(sphere(), "pitch", tilt=(0.1, 0.1))
    normals = surface_of(made.shape).normals
    assert normals[80, 110, 0] > 0.3
    assert normals[80, 50, 0] < -0.3
    assert normals[50, 80, 1] > 0.3
    assert normals[110, 80, 1] < -0.3


def test_invalid_points_show_the_nearest_valid_one() -> None:
    shape = with_holes(scene(sphere()).shape, 0.3)
    surface = surface_of(shape)
    rows, columns = np.nonzero(shape.valid)
    for row, column in np.argwhere(~shape.valid)[::97]:
        y, x = divmod(int(surface.nearest[row, column]), shape.size[1])
        least = np.sqrt(((rows - row) ** 2 + (columns - column) ** 2).min())
        assert np.hypot(y - row, x - column) < least + 0.1
        assert surface.height[row, column] == surface.height[y, x]
        assert surface.curvature[row, column] == surface.curvature[y, x]
        assert (surface.normals[row, column] == surface.normals[y, x]).all()
        assert surface.filled_part[row, column] == surface.part[y, x]


def test_trusted_leaves_out_the_rim_of_holes() -> None:
    valid = np.ones((20, 30), bool)
    valid[8:10, 12] = False
    surface = surface_of(Shape(np.where(valid, np.float32(5), np.float32(0)), valid, Pitch(1, 1)))
    expected = np.ones_like(valid)
    expected[7:11, 11:14] = False
    assert (surface.trusted == expected).all()


def test_noise_is_smoothed() -> None:
    """Noise of 30 µm at a pitch of 0.25 mm leaves normals within a few degrees."""
    made = scene(sphere(), "pinhole")
    surface = surface_of(with_noise(made.shape, 0.03))
    assert np.median(angles(surface, made)[inner(made)]) < 3


def test_no_valid_point() -> None:
    empty = Shape(np.zeros((5, 6), np.float32), np.zeros((5, 6), bool), Pitch(1, 1))
    with pytest.raises(ImageError, match="no valid point"):
        surface_of(empty)


def literal_normals(xyz: np.ndarray, valid: np.ndarray, radius: int) -> np.ndarray:
    normals = np.zeros((*valid.shape, 3))
    for row, column in np.argwhere(valid):
        window = np.s_[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
        points = xyz[window][valid[window]].astype(np.float64)
        normal = np.linalg.eigh(np.cov(points.T, bias=True))[1][:, 0]
        normals[row, column] = -normal if normal @ xyz[row, column] > 0 else normal
    return normals


@pytest.mark.parametrize("radius", [1, 3])
def test_box_normals(radius: int) -> None:
    """The same as eigenvectors of each window; 20 rows are several pieces of work."""
    shape = with_noise(with_holes(scene(sphere(5), size=40).shape, 0.1), 0.05)
    xyz = shape.xyz()
    found = box_normals(xyz, shape.valid, radius, pinhole=True)
    expected = literal_normals(xyz, shape.valid, radius)
    assert np.abs(found - expected).max() < 1e-5
    flat = box_normals(xyz, shape.valid, radius)
    assert (flat[shape.valid][:, 2] <= 0).all()


def test_box_normals_of_few_points() -> None:
    xyz = np.zeros((3, 3, 3), np.float32)
    xyz[1, :, 0] = (0, 1, 2)
    valid = np.zeros((3, 3), bool)
    assert not box_normals(xyz, valid, 1).any()
    valid[1] = True
    assert (box_normals(xyz, valid, 2)[1] == (0, 0, -1)).all()
    with pytest.raises(OptionError, match="radius 0"):
        box_normals(xyz, valid, 0)
