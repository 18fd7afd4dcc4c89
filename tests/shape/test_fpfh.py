"""FPFH is what its definition says, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank.errors import OptionError
from patchbank.shape.fpfh import fpfh, window
from patchbank.shape.normals import box_normals
from tests.shape.analytic import scene, sphere


def literal_pair(p: np.ndarray, q: np.ndarray, n: np.ndarray, m: np.ndarray) -> tuple[float, float, float]:
    """θ, α, φ of a point p with normal n, and its neighbour q with m."""
    d = (q - p) / np.linalg.norm(q - p)
    if abs(n @ d) >= abs(m @ d):
        source, target, phi = n, m, n @ d
    else:
        source, target, d, phi = m, n, -d, -(m @ d)
    v = np.cross(d, source)
    if np.linalg.norm(v) > 0:
        v = v / np.linalg.norm(v)
    w = np.cross(source, v)
    return float(np.arctan2(w @ target, source @ target)), float(v @ target), float(phi)


def bin_of(value: float, low: float, high: float) -> int:
    return min(max(int(11 * (value - low) / (high - low)), 0), 10)


def literal_fpfh(
    xyz: np.ndarray, normals: np.ndarray, trusted: np.ndarray, radius: int, step: float, pitch: float
) -> np.ndarray:
    """All pairs of all points."""
    xyz, normals = xyz.astype(np.float64), normals.astype(np.float64)
    points = [tuple(at) for at in np.argwhere(trusted)]
    neighbours = {at: [] for at in points}
    for one in points:
        for two in points:
            apart = (one[0] - two[0]) ** 2 + (one[1] - two[1]) ** 2
            distance = np.linalg.norm(xyz[one] - xyz[two])
            if 0 < apart <= radius**2 + 1 and 0 < distance <= step * pitch * np.sqrt(apart):
                neighbours[one].append(two)
    spfh = {at: np.zeros((3, 11)) for at in points}
    for one in points:
        for two in neighbours[one]:
            theta, alpha, phi = literal_pair(xyz[one], xyz[two], normals[one], normals[two])
            for block, which in enumerate([bin_of(theta, -np.pi, np.pi), bin_of(alpha, -1, 1), bin_of(phi, -1, 1)]):
                spfh[one][block, which] += 100 / len(neighbours[one])
    out = np.zeros((*trusted.shape, 33))
    for one in points:
        near = sum((spfh[two] / ((xyz[one] - xyz[two]) ** 2).sum() for two in neighbours[one]), np.zeros((3, 11)))
        if neighbours[one]:
            out[one] = (spfh[one] + 100 * near / near.sum(1, keepdims=True)).ravel()
    return out


def rough(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random surface with a depth step and points missing; pitch 0.2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    z = np.sin(x / 3 + seed) * np.cos(y / 4) + 0.1 * rng.normal(size=size) + (3 if seed % 2 else 0) * (x > size[1] / 2)
    xyz = np.stack([0.2 * x, 0.2 * y, 0.4 * z], -1).astype(np.float32)
    trusted = rng.random(size) > 0.15
    return xyz, box_normals(xyz, trusted, 2), trusted


@pytest.mark.parametrize(
    ("size", "radius"), [((19, 13), 3), ((11, 20), 5), ((9, 9), 1), ((1, 30), 3), ((30, 2), 3), ((2, 270), 3)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_definition(size: tuple[int, int], radius: int, seed: int) -> None:
    xyz, normals, trusted = rough(size, seed)
    found = fpfh(xyz, normals, trusted, radius, step=2.5)
    expected = literal_fpfh(xyz, normals, trusted, radius, 2.5, 0.2)
    assert np.abs(found - expected).max() < 1e-4
    assert not found[~trusted].any()


def test_random_normals() -> None:
    """Every bin is met: pairs that point anywhere."""
    xyz, _, trusted = rough((16, 16), 0)
    normals = np.random.default_rng(5).normal(size=xyz.shape)
    normals = (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)
    found = fpfh(xyz, normals, trusted)
    assert np.abs(found - literal_fpfh(xyz, normals, trusted, 3, 3.0, 0.2)).max() < 1e-4
    assert (found.reshape(-1, 33).max(0) > 0).all()


def test_the_window() -> None:
    """36 neighbours for radius 3, 88 for radius 5, and the opposite of each."""
    assert [len(window(radius)) for radius in (1, 3, 5)] == [8, 36, 88]
    for radius in range(1, 9):
        steps = window(radius)
        assert (steps == -steps[::-1]).all()
        assert len(steps) < 256


def test_blocks_sum_to_200() -> None:
    """SPFH has 100 a block, and the neighbours' share 100."""
    xyz, normals, trusted = rough((40, 40), 0)
    sums = fpfh(xyz, normals, trusted).reshape(40, 40, 3, 11).sum(3)
    there = sums[..., 0] > 0
    assert there.sum() > 0.95 * trusted.sum()
    assert np.abs(sums[there] - 200).max() < 1e-3


def test_the_unit_does_not_matter() -> None:
    xyz, normals, trusted = rough((20, 20), 1)
    one = fpfh(xyz, normals, trusted)
    for scale in (1024.0, 2.0**-40):
        assert np.abs(one - fpfh(xyz * np.float32(scale), normals, trusted)).max() < 1e-3


def test_threads_do_not_matter() -> None:
    from patchbank._system.threads import RuntimeContext

    xyz, normals, trusted = rough((70, 30), 0)
    with RuntimeContext(1).active():
        one = fpfh(xyz, normals, trusted)
    with RuntimeContext(3).active():
        assert (fpfh(xyz, normals, trusted) == one).all()


def test_a_sphere_looks_the_same_everywhere() -> None:
    shape = scene(sphere(), "pinhole").shape
    xyz = shape.xyz()
    normals = box_normals(xyz, shape.valid, 3, pinhole=True)
    features = fpfh(xyz, normals, shape.valid)[60:100, 60:100].reshape(-1, 33)
    assert features.std(0).max() < 12


def test_options() -> None:
    xyz, normals, trusted = rough((5, 5), 0)
    with pytest.raises(OptionError, match="radius 9"):
        fpfh(xyz, normals, trusted, radius=9)
    with pytest.raises(OptionError, match="step 1"):
        fpfh(xyz, normals, trusted, step=1.0)
    assert not fpfh(xyz, normals, np.zeros_like(trusted)).any()
