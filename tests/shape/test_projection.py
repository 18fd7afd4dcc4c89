"""Clouds and meshes are seen along z, as a literal version sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape import (
    DepthFormat,
    Pitch,
    read_shape,
    shape_size,
)
from tests.shape.parts import (
    BINARIES,
    SIZE,
    part,
    pcd_bytes,
    ply_bytes,
    same,
    stl_bytes,
)


@pytest.mark.parametrize("coding", ["ascii", *BINARIES])
def test_a_cloud_needs_a_projection(coding: str) -> None:
    expected = part(Pitch(0.1, 0.1), missing=0.0)
    cloud = ply_bytes(np.random.default_rng(0).permutation(expected.xyz().reshape(-1, 3)), coding)
    for ask in (read_shape, shape_size):
        with pytest.raises(ImageError, match=r"a\.ply: has points in no order.*give a projection"):
            ask(cloud, DepthFormat(), "a.ply")
    format = DepthFormat(unit="mm", projection=SIZE)
    same(read_shape(cloud, format, "a.ply"), expected)
    assert shape_size(cloud, format) == SIZE


def test_an_unorganised_pcd_needs_a_projection() -> None:
    expected = part(Pitch(0.1, 0.1), missing=0.0)
    cloud = pcd_bytes(expected.xyz().reshape(-1, 3), "binary", SIZE[0] * SIZE[1], 1)
    with pytest.raises(ImageError, match="give a projection"):
        read_shape(cloud, DepthFormat(), "a.pcd")
    same(read_shape(cloud, DepthFormat(unit="mm", projection=SIZE)), expected)


def test_of_a_cloud_the_nearest_point_is_seen() -> None:
    expected = part(Pitch(0.1, 0.1), missing=0.0)
    behind = expected.xyz().reshape(-1, 3) + np.float32([0, 0, 5])
    both = np.concatenate([expected.xyz().reshape(-1, 3), behind])
    same(read_shape(ply_bytes(both, "binary_little_endian"), DepthFormat(unit="mm", projection=SIZE)), expected)


def literal_mesh(corners: NDArray[Any], size: tuple[int, int], pitch: float) -> NDArray[np.float64]:
    """The nearest triangle at each pixel, pixel by pixel, from the definition of barycentric coordinates."""
    centre = (corners[..., :2].reshape(-1, 2).min(axis=0) + corners[..., :2].reshape(-1, 2).max(axis=0)) / 2
    depths = np.full(size, np.inf)
    for row in range(size[0]):
        for column in range(size[1]):
            at = centre + pitch * (np.array([column, row]) - (np.array([size[1], size[0]]) - 1) / 2)
            for triangle in corners:
                matrix = np.vstack([triangle[:, :2].T, np.ones(3)])
                if abs(np.linalg.det(matrix)) < 1e-12:
                    continue
                weights = np.linalg.solve(matrix, [*at, 1])
                if weights.min() >= -1e-9:
                    depths[row, column] = min(depths[row, column], weights @ triangle[:, 2])
    return depths


@pytest.mark.parametrize("text", [True, False])
def test_a_mesh_is_seen_along_z(text: bool) -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 20, (30, 1, 3)) + rng.uniform(-4, 4, (30, 3, 3))
    corners = corners.astype(np.float32).astype(np.float64)
    data = stl_bytes(corners, text)
    with pytest.raises(ImageError, match=r"a\.stl: .*give a projection"):
        read_shape(data, DepthFormat(), "a.stl")
    found = read_shape(data, DepthFormat(unit="mm", projection=(24, 30), camera=Pitch(0.9, 0.9)), "a.stl")
    depths = literal_mesh(corners, (24, 30), 0.9)
    np.testing.assert_array_equal(found.valid, np.isfinite(depths))
    np.testing.assert_allclose(found.z[found.valid], depths[found.valid], atol=1e-4)


def test_heights_of_a_mesh_are_seen_from_above() -> None:
    """y is up in the picture, and the highest triangle is seen."""
    low, high = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0.0]]), np.array([[0, 0, 3], [20, 0, 3], [0, 20, 3.0]])
    format = DepthFormat(unit="mm", axis="height", projection=(21, 21), invalid=())
    found = read_shape(stl_bytes(np.stack([low, high]), False), format)
    np.testing.assert_array_equal(found.valid, np.tri(21, dtype=bool))
    assert (found.z[found.valid] == -3).all()
