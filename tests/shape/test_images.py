"""Shape images are the same in any unit and turn with the part; features count only what was measured."""

from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from patchbank.errors import OptionError
from patchbank.shape import Pinhole, Pitch, Shape
from patchbank.shape.features import SHAPE_FEATURES, masked_cell_means
from patchbank.shape.images import SHAPE_IMAGES, curvature_image, height_image, relief
from patchbank.shape.surface import surface_of
from tests.shape.analytic import Array, cylinder, scene, sphere, torus, with_holes, with_noise


def off(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - two.astype(int))


@pytest.mark.parametrize("name", SHAPE_IMAGES)
def test_levels(name: str) -> None:
    """The top of a sphere, and the background."""
    made = scene(sphere(), "pitch")
    surface = surface_of(made.shape)
    image = SHAPE_IMAGES[name](surface, 20.0)
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8
    lit = round(255 * np.sqrt(0.5))
    bent = 127.5 + 400 * 2 / 60
    top, background = {
        "height": ([191.25] * 3, [0, 0, 0]),
        "normals": ([127.5, 127.5, 255], [128, 128, 255]),
        "curvature": ([bent, 255, 191.25], [128, 255, 0]),
        "shading": ([lit] * 3, [lit] * 3),
    }[name]
    assert np.abs(image[79:81, 79:81] - np.array(top)).max() < 3
    assert (image[~surface.filled_part] == background).all()


@pytest.mark.parametrize("name", SHAPE_IMAGES)
def test_the_unit_does_not_matter(name: str) -> None:
    for camera, scaled in (("pinhole", None), ("pitch", Pitch(250, 250))):
        shape = with_holes(with_noise(scene(torus(), camera).shape, 0.02), 0.15)
        large = Shape(shape.z * 1000, shape.valid, scaled or shape.camera)
        one, two = surface_of(shape), surface_of(large)
        assert relief(two) == pytest.approx(1000 * relief(one), rel=1e-4)
        assert off(SHAPE_IMAGES[name](one, 7.0), SHAPE_IMAGES[name](two, 7000.0)).max() <= 1


def quarter_turned(shape: Shape) -> Shape:
    return Shape(np.rot90(shape.z).copy(), np.rot90(shape.valid).copy(), shape.camera)


@pytest.mark.parametrize("camera", ["pinhole", "pitch"])
def test_a_quarter_turn_turns_the_image(camera: str) -> None:
    shape = with_noise(scene(cylinder(), camera).shape, 0.01)
    one, two = surface_of(shape), surface_of(quarter_turned(shape))
    inside = one.part & np.rot90(two.part, -1)
    assert inside.sum() > 0.99 * one.part.sum()
    turned = np.rot90(curvature_image(two, 15.0), -1)
    assert off(curvature_image(one, 15.0), turned)[inside].max() <= 1


def test_thirty_degrees_turn_the_image_nearly() -> None:
    """Within 2 grey levels on average, and within 8 for 99 % of the pixels, away from the edges."""

    def turned_by(angle: float) -> np.ndarray:
        def solid(x: Array, y: Array) -> tuple[Array, Array, Array]:
            c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            return cylinder(10)(c * x + s * y, c * y - s * x)

        return curvature_image(surface_of(scene(solid).shape), 15.0)

    straight, turned = turned_by(0), turned_by(30)
    matrix = cv2.getRotationMatrix2D((79.5, 79.5), 30, 1.0)
    back = cv2.warpAffine(straight, matrix, (160, 160))
    marked = (
        cv2.warpAffine(cv2.erode((straight[..., 2] > 0).astype(np.uint8), np.ones((27, 27))), matrix, (160, 160)) > 0
    )
    difference = off(back, turned)[marked]
    assert marked.sum() > 1500
    assert difference.mean() < 2
    assert np.quantile(difference, 0.99) < 8


def test_without_a_background_nothing_is_painted() -> None:
    z = 100 + np.random.default_rng(0).normal(0, 0.3, (60, 80))
    surface = surface_of(Shape(z.astype(np.float32), np.ones(z.shape, bool), Pitch(1, 1)))
    assert not surface.plane.is_background
    image = height_image(surface, 1.0)[..., 0]
    assert np.abs(image - np.clip(127.5 + 127.5 * surface.height, 0, 255)).max() <= 0.51


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan"), float("inf")])
def test_a_top_that_cannot_be(top: float) -> None:
    with pytest.raises(OptionError, match="top_mm"):
        height_image(surface_of(scene(sphere()).shape), top)


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (3, 3), (1, 1), (2, 5), (25, 25)])
@pytest.mark.parametrize("camera", [Pinhole(500, 500, 3, 3), Pitch(0.1, 0.1)], ids=["pinhole", "pitch"])
@pytest.mark.parametrize("holes", [False, True])
def test_small_and_constant_pictures(size: tuple[int, int], camera: Pinhole | Pitch, holes: bool) -> None:
    for depth in (5.0, 0.0):
        valid = np.ones(size, bool)
        if holes:
            valid[:] = False
            valid[-1, -1] = True
        shape = Shape(np.where(valid, np.float32(depth), np.float32(0)), valid, camera)
        surface = surface_of(shape)
        assert np.isfinite(surface.normals).all()
        assert np.isfinite(surface.curvature).all()
        assert np.isfinite(surface.height).all()
        top = relief(surface)
        assert top > 0
        for make in SHAPE_IMAGES.values():
            assert make(surface, top).shape == (*size, 3)
        for feature in SHAPE_FEATURES.values():
            features, mask = feature(surface, top)
            assert np.isfinite(features).all()
            assert mask.shape == size


@pytest.mark.parametrize("name", SHAPE_FEATURES)
def test_features(name: str) -> None:
    shape = with_holes(scene(sphere(), size=80).shape, 0.05)
    surface = surface_of(shape)
    features, mask = SHAPE_FEATURES[name](surface, 20.0)
    assert features.dtype == np.float32
    assert features.shape[:2] == mask.shape == shape.size
    if name == "valid":
        assert (features[..., 0] == shape.valid).all()
        assert (mask == surface.filled_part).all()
    elif name == "holes":
        assert mask.all()
        known, part = shape.valid & surface.filled_part, surface.filled_part
        for k, side in enumerate((1, 5, 11)):  # 80 pixels / 16 and / 7
            for row, column in ((0, 0), (40, 40), (20, 33), (79, 12)):
                near = tuple(slice(max(0, at - side // 2), at + side // 2 + 1) for at in (row, column))
                expected = known[near].sum() / part[near].sum() if part[near].any() else 1
                assert features[row, column, k] == pytest.approx(expected, abs=1e-6)
    elif name == "relief":
        part = surface.filled_part
        assert (features[..., 1] == 1).all()
        assert (features[part, 0] == surface.height[part] / 20).all()
        assert not features[~part, 0].any()
        assert (mask == (shape.valid | ~part)).all()
    else:
        assert (mask == (surface.trusted & surface.part)).all()
        assert not features[~mask].any()
        assert features.shape[2] == 33


def pixels_of(cell: int, cells: int, pixels: int) -> list[int]:
    """Of a cell along one side; in a finer grid the one that the middle of the cell lies in."""
    if cells >= pixels:
        return [math.floor((cell + 0.5) * pixels / cells)]
    return [pixel for pixel in range(pixels) if pixel * cells // pixels == cell]


@pytest.mark.parametrize("grid", [(4, 5), (3, 7), (23, 20), (30, 25), (50, 9), (1, 1)])
def test_masked_cell_means(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(23, 20, 4)).astype(np.float32)
    mask = rng.random((23, 20)) > 0.4
    mask[:8, :8] = False
    means, share = masked_cell_means(features, mask, *grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = np.ix_(pixels_of(row, grid[0], 23), pixels_of(column, grid[1], 20))
            counted = features[cell][mask[cell]]
            assert share[row, column] == pytest.approx(mask[cell].mean())
            expected = counted.mean(0) if len(counted) else np.zeros(4)
            assert means[row, column] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(OptionError, match="0×1"):
        masked_cell_means(features, mask, 0, 1)


def test_importing_is_cheap() -> None:
    """No compiler is loaded until something is computed."""
    command = "import sys, patchbank, patchbank.shape; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
