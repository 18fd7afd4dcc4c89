"""The camera is found from the points, and points that no one camera has seen are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.errors import ImageError
from patchbank.shape import (
    DepthFormat,
    Pinhole,
    Pitch,
    Shape,
    read_shape,
)
from tests.shape.parts import (
    PINHOLE,
    SIZE,
    heights,
    part,
    same,
)


def test_points_of_parallel_rays_lose_their_offset() -> None:
    expected = part(Pitch(0.1, 0.2))
    points = expected.xyz()
    points[expected.valid] += (-50, 30, 0)
    found = read_shape(points, DepthFormat(unit="mm"), "a")
    assert isinstance(found.camera, Pitch)
    assert (found.camera.x, found.camera.y) == (pytest.approx(0.1, rel=1e-4), pytest.approx(0.2, rel=1e-4))
    np.testing.assert_allclose(found.z, expected.z, atol=1e-4)
    same(read_shape(points, DepthFormat(unit="mm", camera=Pitch(0.1, 0.2)), "a"), expected)


def test_heights_with_points_and_y_upwards() -> None:
    """x right, y up, z towards the sensor becomes x right, y down, z away from it."""
    expected = heights()
    points = expected.xyz() * np.float32([1, -1, -1])
    found = read_shape(points, DepthFormat(unit="mm", axis="height"), "a")
    np.testing.assert_allclose(found.z, expected.z, atol=1e-5)
    np.testing.assert_allclose(found.xyz(), expected.xyz(), atol=1e-3)


def test_points_of_a_camera_that_looks_along_minus_z() -> None:
    expected = part()
    points = expected.xyz() * np.float32([1, -1, -1])
    same(read_shape(points, DepthFormat(unit="mm", axis="height"), "a"), expected, 2e-3)
    with pytest.raises(ImageError, match=r"behind the camera.*set axis to height"):
        read_shape(points, DepthFormat(unit="mm"), "a")


def test_a_few_wild_points_do_not_move_the_camera() -> None:
    expected = part(missing=0.0)
    points = expected.xyz()
    points[::17, ::13] += np.float32([40, -30, 10])  # 0.5 % of them
    found = read_shape(points, DepthFormat(unit="mm"), "a")
    assert isinstance(found.camera, Pinhole)
    assert found.camera.fx == pytest.approx(PINHOLE.fx, rel=1e-3)


def test_noise_below_half_a_pixel_is_allowed() -> None:
    points = part().xyz()
    pitch = part().pitch()
    rng = np.random.default_rng(1)
    points[..., :2] += (rng.uniform(-0.3, 0.3, (*SIZE, 2)) * pitch * part().valid[..., None]).astype(np.float32)
    assert isinstance(read_shape(points, DepthFormat(unit="mm")).camera, Pinhole)
    points[..., :2] += (rng.uniform(-3, 3, (*SIZE, 2)) * pitch * part().valid[..., None]).astype(np.float32)
    with pytest.raises(ImageError, match="not in the frame of the camera"):
        read_shape(points, DepthFormat(unit="mm"))


@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_rows_that_are_missing_in_a_pattern(step: int) -> None:
    expected = part(size=(1000, 400))
    points = expected.xyz()
    points[np.arange(1000) % step != 1] = 0
    found = read_shape(points, DepthFormat(unit="mm"))
    assert isinstance(found.camera, Pinhole)
    assert found.camera.fy == pytest.approx(PINHOLE.fy, rel=1e-4)


@pytest.mark.parametrize("height", [50.0, 0.5, -20.0])
def test_a_flat_plate_under_parallel_rays_lies_before_the_sensor(height: float) -> None:
    points = Shape(np.full(SIZE, height, np.float32), np.ones(SIZE, bool), Pitch(0.1, 0.1)).xyz()
    found = read_shape(points, DepthFormat(unit="mm", axis="height"))
    np.testing.assert_allclose(found.z, -height)


def test_swapped_axes_are_named() -> None:
    with pytest.raises(ImageError, match=r"a\.npy: .*stored in the order x z y"):
        read_shape(part().xyz()[..., [0, 2, 1]], DepthFormat(unit="mm"), "a.npy")


def test_turned_points_are_refused() -> None:
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)
    with pytest.raises(ImageError, match=r"a\.npy: .*not in the frame of the camera"):
        read_shape(part().xyz() @ turn.T, DepthFormat(unit="mm"), "a.npy")


def test_a_camera_that_did_not_see_the_points_is_refused() -> None:
    with pytest.raises(ImageError, match=r"a\.npy: .*given camera does not see"):
        read_shape(part().xyz(), DepthFormat(unit="mm", camera=Pinhole(800, 905, 23.5, 19.25)), "a.npy")
    with pytest.raises(ImageError, match="given camera does not see"):
        read_shape(part().xyz(), DepthFormat(unit="mm", camera=Pitch(0.1, 0.1)), "a.npy")


@settings(deadline=None)
@given(
    focal=st.floats(200, 5000),
    ratio=st.floats(0.8, 1.25),
    centre=st.tuples(st.floats(-100, 150), st.floats(-100, 150)),
    missing=st.floats(0, 0.9),
    parallel=st.booleans(),
)
def test_the_camera_is_found_from_the_points(
    focal: float, ratio: float, centre: tuple[float, float], missing: float, parallel: bool
) -> None:
    camera = Pitch(100 / focal, 100 / focal * ratio) if parallel else Pinhole(focal, focal * ratio, *centre)
    expected = part(camera, missing=missing)
    deeper = np.random.default_rng(0).uniform(0, 300, int(expected.valid.sum()))
    expected.z[expected.valid] += deeper.astype(np.float32)
    found = read_shape(expected.xyz(), DepthFormat(unit="mm"))
    assert type(found.camera) is type(camera)
    np.testing.assert_allclose(found.xyz(), expected.xyz(), atol=0.05)
