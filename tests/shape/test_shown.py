"""What people see of a sample: its picture, its geometry as a surface, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchbank.data import Sample, ValueRange, gather
from patchbank.demo.solid import draw_solid
from patchbank.errors import ImageError
from patchbank.io.thumbnails import make_thumbnails, restore, state
from patchbank.shape import DepthFormat, Shape, write_depth_png, write_xyz
from patchbank.shape.decide import Depths
from patchbank.shape.shape import Pitch
from patchbank.shape.shown import NO_POINT, shaded_view, shown

VALUES = ValueRange(depths=Depths(DepthFormat(), 15.0))


def block(height: float = 5.0) -> Shape:
    """A block on a background, 60 by 60 pixels in a picture of 100 by 100, with a hole of 12 by 12 missing points."""
    z = np.full((100, 100), 200.0, np.float32) + np.random.default_rng(0).normal(0, 0.01, (100, 100)).astype(np.float32)
    z[20:80, 20:80] -= height
    valid = np.ones((100, 100), bool)
    valid[30:42, 30:42] = False
    valid[60, 60] = False
    return Shape(np.where(valid, z, 0).astype(np.float32), valid, Pitch(0.5, 0.5))


def test_missing_points_are_dark_and_single_ones_filled() -> None:
    view = shaded_view(block(), 5.0)
    dark = np.all(view == NO_POINT, axis=2)
    assert dark[30:42, 30:42].all()
    assert dark.sum() == 144


def test_low_is_bluish_and_high_is_sandy_and_light_comes_from_the_upper_left() -> None:
    view = shaded_view(block(), 5.0).astype(int)
    assert view[5, 5, 2] > view[5, 5, 0]
    assert view[70, 50, 0] > view[70, 50, 2]
    left, right = view[50, 18:22].mean(), view[50, 78:82].mean()
    assert left > right + 20


def test_a_large_shape_is_shown_at_its_own_size() -> None:
    shape = Shape(np.full((900, 800), 300.0, np.float32), np.ones((900, 800), bool), Pitch(0.1, 0.1))
    assert shaded_view(shape, 1.0).shape == (900, 800, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shown")
    part = draw_solid("plate", None, np.random.default_rng(1), 96)
    for name in ("rgb", "xyz"):
        (root / name).mkdir()
    cv2.imwrite(str(root / "rgb/000.png"), part.rgb[..., ::-1])
    write_xyz(root / "xyz/000.tiff", part.shape)
    write_depth_png(root / "depth.png", part.shape, 0.1)
    np.save(root / "depth.npy", np.where(part.shape.valid, part.shape.z, np.nan))
    return root


def one(path: Path, channel: str) -> Sample:
    return gather(path)[0].seen_in(channel)


def test_a_picture_with_geometry(folder: Path) -> None:
    seen = shown(one(folder / "rgb/000.png", "rgb"), VALUES)
    assert not seen.is_relief
    assert seen.relief is not None
    assert seen.relief.shape == seen.picture.shape == (96, 96, 3)
    assert np.array_equal(seen.picture, shown(one(folder / "rgb/000.png", "rgb")).picture)


def test_a_model_of_pictures_shows_no_geometry(folder: Path) -> None:
    assert shown(one(folder / "rgb/000.png", "rgb"), ValueRange()).relief is None


@pytest.mark.parametrize("name", ["xyz/000.tiff", "depth.png", "depth.npy"])
def test_geometry_alone_is_shaded(folder: Path, name: str) -> None:
    seen = shown(one(folder / name, "curvature"), VALUES)
    assert seen.is_relief
    assert seen.relief is None
    assert seen.picture.std() > 10


def test_no_valid_point_is_named(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.full((40, 40), np.nan, np.float32))
    with pytest.raises(ImageError, match=r"none\.npy: .*valid"):
        shown(one(tmp_path / "none.npy", "normals"), VALUES)


def test_thumbnails_carry_the_surface(folder: Path) -> None:
    samples = [replace(one(folder / "rgb/000.png", "rgb"), name=f"{i}") for i in range(4)]
    made = make_thumbnails(samples, 0.02, VALUES)
    assert 0 < sum(t.length for t in made.values()) <= 20_000
    assert all(t.relief_pixels() is not None for t in made.values())
    tensors, listed = state(made)
    assert restore(tensors, listed) == made
    plain = make_thumbnails(samples, 0.02)
    assert all(len(entry) == 4 for entry in state(plain)[1])  # as files of pictures alone had them
    assert restore(*state(plain)) == plain
