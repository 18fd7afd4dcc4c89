"""Views against a literal renderer, their visibility and shading against geometry, and gathering against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from patchbank.errors import ImageError, OptionError
from patchbank.shape.shape import Camera, Pinhole, Pitch, Shape
from patchbank.shape.views import View2D, camera_normals, gather, rotations, views

PINHOLE, PITCH = Pinhole(300, 310, 19.5, 24), Pitch(0.5, 0.4)


def part(camera: Camera, seed: int = 0, size: tuple[int, int] = (40, 52), missing: float = 0.1) -> Shape:
    """A bumpy plate with a step, noise and missing points."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[: size[0], : size[1]]
    z = 150 + np.sin(row / 4) + 0.7 * np.cos(column / 5) + rng.normal(0, 0.02, size)
    z[:, size[1] // 2 :] -= 8
    valid = rng.random(size) >= missing
    return Shape(np.where(valid, z, 0).astype(np.float32), valid, camera)


def literal_normals(shape: Shape) -> np.ndarray:
    """Smoothed depth by the definition, then differences of neighbours."""
    height, width = shape.size
    reach = np.arange(-6, 7)  # OpenCV cuts a Gaussian for float images off at 4σ
    kernel = np.exp(-(reach**2) / 2 / 1.5**2)
    kernel /= kernel.sum()

    def mirrored(i: int, n: int) -> int:
        while not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i

    smooth, known = np.zeros(shape.size), np.zeros(shape.size, bool)
    for r in range(height):
        for c in range(width):
            total = weight = 0.0
            for (a, i), (b, j) in itertools.product(zip(kernel, reach, strict=True), repeat=2):
                at = mirrored(r + i, height), mirrored(c + j, width)
                if shape.valid[at]:
                    total, weight = total + a * b * shape.z[at], weight + a * b
            if weight > 0.01:
                smooth[r, c], known[r, c] = total / weight, True
    points = Shape(smooth.astype(np.float32), known, shape.camera).xyz().astype(np.float64)
    normals = np.zeros((height, width, 3))
    for r in range(height):
        for c in range(width):
            if shape.valid[r, c]:
                ends = []
                for dr, dc in ((1, 0), (0, 1)):
                    pair = []
                    for sign in (1, -1):
                        i, j = r + sign * dr, c + sign * dc
                        inside = 0 <= i < height and 0 <= j < width and known[i, j]
                        pair.append(points[i, j] if inside else points[r, c])
                    ends.append(pair[0] - pair[1])
                normal = np.cross(ends[0], ends[1])
                length = np.linalg.norm(normal)
                normals[r, c] = normal / length if length else (0, 0, -1)
    return normals


def literal_view(
    shape: Shape, normals: np.ndarray, turn: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, positions and visibility, one point and one pixel at a time."""
    points = shape.xyz().astype(np.float64)
    centre = points[shape.valid].mean(0)
    scale = size[0] / shape.size[0], size[1] / shape.size[1]
    radius = [0.75 * max(each, 1) for each in scale]
    tolerance = 3 * shape.pitch()
    depth, grey = np.full(size, np.inf), np.zeros(size)
    positions, depths = np.full((*shape.size, 2), np.nan), np.full(shape.size, np.nan)
    for r, c in zip(*np.nonzero(shape.valid), strict=True):
        x, y, z = turn @ (points[r, c] - centre) + centre
        camera = shape.camera
        if isinstance(camera, Pinhole):
            row, column = y / z * camera.fy + camera.cy, x / z * camera.fx + camera.cx
        else:
            row, column = y / camera.y, x / camera.x
        row, column = (row + 0.5) * scale[0] - 0.5, (column + 0.5) * scale[1] - 0.5
        positions[r, c], depths[r, c] = (row, column), z
        row, column = float(np.float32(row)), float(np.float32(column))
        light = max(0.0, -float(turn[2] @ normals[r, c]))
        for i in range(size[0]):
            for j in range(size[1]):
                inside = -radius[0] <= i - row < radius[0] and -radius[1] <= j - column < radius[1]
                if inside and z < depth[i, j]:
                    depth[i, j], grey[i, j] = z, light
    closed, light_of = depth.copy(), grey.copy()
    for i in range(1, size[0] - 1):
        for j in range(1, size[1] - 1):
            found = []
            for di, dj in ((0, 1), (1, 0), (1, 1), (1, -1)):
                one, two = (i + di, j + dj), (i - di, j - dj)
                nearer = max(depth[one], depth[two]) + tolerance < depth[i, j]
                if nearer and abs(depth[one] - depth[two]) <= 2 * tolerance:
                    found += [one, two]
            if len(found) >= 4:
                closed[i, j] = np.mean([depth[at] for at in found])
                light_of[i, j] = np.mean([grey[at] for at in found])
    image = np.where(np.isfinite(closed), np.floor(255 * np.minimum(light_of, 1) + 0.5), 0)
    visible = np.zeros(shape.size, bool)
    for r, c in zip(*np.nonzero(shape.valid), strict=True):
        i, j = math.ceil(np.float32(positions[r, c, 0]) - 0.5), math.ceil(np.float32(positions[r, c, 1]) - 0.5)
        if 0 <= i < size[0] and 0 <= j < size[1]:
            visible[r, c] = depths[r, c] <= closed[i, j] + tolerance
    return image, positions, visible


@pytest.mark.parametrize("camera", [PINHOLE, PITCH])
@pytest.mark.parametrize("size", [None, (30, 70)])
def test_views_are_those_of_a_literal_renderer(camera: Camera, size: tuple[int, int] | None) -> None:
    shape = part(camera, size=(24, 30))
    drawn = views(shape, 9, size)
    for number in (0, 4, 8):
        turn = rotations(9)[number]
        image, positions, visible = literal_view(shape, camera_normals(shape), turn, size or shape.size)
        view = drawn[number]
        assert view.image.dtype == np.uint8
        assert view.image.shape == (*(size or shape.size), 3)
        assert np.allclose(view.positions, positions, atol=1e-3, equal_nan=True)
        # a position or a depth may round to the other side of a limit
        assert (np.abs(view.image - image[..., None]) <= 1).mean() > 0.995
        assert (view.visible == visible).mean() > 0.995


def test_normals() -> None:
    shape = part(PINHOLE, size=(15, 18), missing=0.3)
    found = camera_normals(shape)
    assert np.allclose(found, literal_normals(shape), atol=2e-3)
    assert not found[~shape.valid].any()
    assert (found[shape.valid][:, 2] < 0).all()


def test_rotations() -> None:
    angles = itertools.product((0, -15, 15), repeat=3)
    expected = [Rotation.from_euler("xyz", (x, y, z), degrees=True).as_matrix() for z, y, x in angles]
    assert np.allclose(rotations(27), expected)
    assert np.allclose(rotations(9), expected[:9])
    assert np.allclose(rotations(1), [np.eye(3)])
    assert len(views(part(PITCH), 27)) == 27


@pytest.mark.parametrize("camera", [PINHOLE, PITCH])
def test_the_first_view_is_the_picture(camera: Camera) -> None:
    shape = part(camera)
    (view,) = views(shape, 1)
    row, column = np.mgrid[: shape.size[0], : shape.size[1]]
    assert np.array_equal(view.visible, shape.valid)
    assert np.allclose(view.positions[shape.valid], np.stack([row, column], 2)[shape.valid], atol=1e-3)
    expected = np.floor(255 * np.clip(-camera_normals(shape)[..., 2], 0, 1) + 0.5)
    assert np.array_equal(view.image[..., 0][shape.valid], expected[shape.valid])


def test_a_tilted_plane_is_shaded_by_its_angle() -> None:
    """A plane that faces the camera, turned by 15 degrees about x and y."""
    plane = Shape(np.full((60, 60), 100, np.float32), np.ones((60, 60), bool), Pitch(1, 1))
    for view, turn in zip(views(plane, 27), rotations(27), strict=True):
        assert abs(int(view.image[30, 30, 0]) - 255 * turn[2, 2]) <= 1
        assert (view.image[20:40, 20:40] == view.image[30, 30]).all()  # no holes


def test_what_is_behind_is_not_visible() -> None:
    """A bar far above a floor: in tilted views it hides that part of the floor which it is drawn over."""
    z = np.full((60, 60), 100, np.float32)
    z[:, 26:34] = 60
    bar = np.zeros((60, 60), bool)
    bar[:, 26:34] = True
    shape = Shape(z, np.ones((60, 60), bool), Pitch(1, 1))
    for view in views(shape, 9)[3::3]:  # turned about y alone
        column = view.positions[..., 1]
        left, right = column[bar].min(), column[bar].max()
        behind = ~bar & (column > left) & (column < right)
        beside = ~bar & ((column < left - 1.5) | (column > right + 1.5)) & (column > 0) & (column < 59)
        assert behind.sum() > 300
        assert view.visible[bar].all()
        assert not view.visible[behind].any()
        assert view.visible[beside].all()


def test_holes_of_single_points_are_closed() -> None:
    shape = part(PITCH, missing=0.0)
    valid = shape.valid.copy()
    valid[5:-5:6, 5:-5:6] = False
    holed = Shape(np.where(valid, shape.z, 0), valid, shape.camera)
    for whole, view in zip(views(shape, 9), views(holed, 9), strict=True):
        inside = np.s_[8:-8, 8:-8]
        assert (view.image[inside] > 0).mean() >= (whole.image[inside] > 0).mean() - 0.01
        assert not view.visible[~valid].any()


def test_a_unit_changes_nothing() -> None:
    """Metres that are said to be millimetres, and a camera that knows no better."""
    shape = part(PITCH)
    small = Shape(shape.z / 1000, shape.valid, Pitch(PITCH.x / 1000, PITCH.y / 1000))
    for one, two in zip(views(shape, 9), views(small, 9), strict=True):
        assert (np.abs(one.image.astype(int) - two.image) <= 1).mean() > 0.995
        assert (one.visible == two.visible).mean() > 0.995


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(OptionError, match="views must be one of 1, 9, 27, not 5"):
        views(part(PITCH), 5)
    with pytest.raises(ImageError, match="no valid point"):
        views(part(PITCH, missing=1.0), 1)


@pytest.mark.parametrize("size", [(1, 1000), (3, 3), (1, 1)])
def test_strange_sizes(size: tuple[int, int]) -> None:
    for view in views(part(PITCH, size=size, missing=0.0), 9):
        assert view.image.shape == (*size, 3)


def literal_gather(
    features: list[np.ndarray], seen: list[View2D], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    height, width = seen[0].visible.shape
    cells: dict[tuple[int, int], list[np.ndarray]] = {}
    for r in range(height):
        for c in range(width):
            found = []
            for each, view in zip(features, seen, strict=True):
                if view.visible[r, c]:
                    h, w = each.shape[:2]
                    v = min(max((view.positions[r, c, 0] + 0.5) * h / view.image.shape[0] - 0.5, 0), h - 1)
                    u = min(max((view.positions[r, c, 1] + 0.5) * w / view.image.shape[1] - 0.5, 0), w - 1)
                    i, j = int(v), int(u)
                    k, m = min(i + 1, h - 1), min(j + 1, w - 1)
                    upper = each[i, j] * (1 - u + j) + each[i, m] * (u - j)
                    lower = each[k, j] * (1 - u + j) + each[k, m] * (u - j)
                    found.append(upper * (1 - v + i) + lower * (v - i))
            if found:
                cells.setdefault((r * rows // height, c * columns // width), []).append(np.mean(found, 0))
    out, mask = np.zeros((rows, columns, features[0].shape[2])), np.zeros((rows, columns), bool)
    for cell, members in cells.items():
        out[cell], mask[cell] = np.mean(members, 0), True
    return out, mask


@pytest.mark.parametrize(("rows", "columns"), [(7, 9), (1, 1), (40, 52), (50, 60)])
@pytest.mark.parametrize(("h", "w"), [(10, 13), (1, 1), (1, 6)])
def test_gather(rows: int, columns: int, h: int, w: int) -> None:
    shape = part(PINHOLE, missing=0.4)
    valid = shape.valid.copy()
    valid[:12, :12] = False
    seen = views(Shape(np.where(valid, shape.z, 0), valid, shape.camera), 9, (60, 50))
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((h, w, 5)).astype(np.float32) for _ in seen]
    found, mask = gather(features, seen, rows, columns)
    expected, expected_mask = literal_gather(features, seen, rows, columns)
    assert np.array_equal(mask, expected_mask)
    assert mask.all() == (rows == 1)
    assert np.allclose(found, expected, atol=1e-5)


def test_gather_of_positions_is_where_points_are() -> None:
    """Features that say where they are, in the first view, come back to their own place."""
    shape = part(PITCH, missing=0.0)
    row, column = np.mgrid[:40, :52].astype(np.float32)
    found, mask = gather([np.stack([row, column], 2)], views(shape, 1), 40, 52)
    assert mask.all()
    assert np.allclose(found, np.stack([row, column], 2), atol=1e-3)


def test_gather_takes_one_feature_map_a_view() -> None:
    with pytest.raises(OptionError, match="features of 1 views and 9 views"):
        gather([np.zeros((2, 2, 1), np.float32)], views(part(PITCH), 9), 2, 2)
