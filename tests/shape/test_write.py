"""What is written is read back, and is what other programs expect."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchbank.errors import OptionError
from patchbank.shape import DepthFormat, Pitch, read_shape, write_depth_png, write_pcd, write_ply, write_xyz
from tests.shape.parts import PINHOLE, SIZE, heights, part, same


def test_an_xyz_tiff_is_in_metres_and_comes_back(tmp_path: Path) -> None:
    shape = part()
    write_xyz(tmp_path / "a.tiff", shape)
    stored = cv2.imread(str(tmp_path / "a.tiff"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored[..., ::-1] * 1000, shape.xyz(), rtol=1e-6)
    assert (stored[~shape.valid] == 0).all()
    same(read_shape(tmp_path / "a.tiff"), shape, 2e-3)
    same(read_shape(tmp_path / "a.tiff", DepthFormat(camera=PINHOLE)), shape, 2e-4)


@pytest.mark.parametrize("unit", [0.02, 1.0])
def test_a_depth_png_comes_back_to_half_a_unit(unit: float, tmp_path: Path) -> None:
    shape = part()
    write_depth_png(tmp_path / "a.png", shape, unit)
    same(read_shape(tmp_path / "a.png", DepthFormat(unit=unit, camera=PINHOLE)), shape, unit * 0.51)


def test_depths_that_a_png_cannot_have(tmp_path: Path) -> None:
    for shape, unit in ((heights(), 0.01), (part(), 0.001), (part(), 2000.0)):
        with pytest.raises(OptionError, match="not within 1 and 65535 units"):
            write_depth_png(tmp_path / "a.png", shape, unit)
    with pytest.raises(OptionError, match="unit_mm must be"):
        write_depth_png(tmp_path / "a.png", part(), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_ply_has_the_valid_points_with_colours_and_scores(tmp_path: Path) -> None:
    shape = part()
    rng = np.random.default_rng(0)
    rgb, score = rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.random(SIZE).astype(np.float32)
    write_ply(tmp_path / "a.ply", shape, rgb, {"anomaly": score})
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "comment millimetres",
        f"element vertex {shape.valid.sum()}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        "property float anomaly",
    ]
    vertices = list(struct.iter_unpack("<fffBBBf", body))
    assert len(vertices) == shape.valid.sum()
    for vertex, (row, column) in zip(vertices, np.argwhere(shape.valid), strict=True):
        assert vertex == (*shape.xyz()[row, column], *rgb[row, column], score[row, column])


def test_a_ply_comes_back_through_a_projection(tmp_path: Path) -> None:
    shape = part(Pitch(0.1, 0.1))
    shape.valid[[0, -1], :] = shape.valid[:, [0, -1]] = True  # its border fills the grid
    shape.z[~shape.valid] = 0
    write_ply(tmp_path / "a.ply", shape)
    found = read_shape(tmp_path / "a.ply", DepthFormat(unit="mm", projection=SIZE))
    np.testing.assert_array_equal(found.valid, shape.valid)
    np.testing.assert_allclose(found.z, shape.z, atol=1e-4)


def test_an_organised_pcd_comes_back(tmp_path: Path) -> None:
    shape = part()
    write_pcd(tmp_path / "a.pcd", shape)
    same(read_shape(tmp_path / "a.pcd"), shape, 2e-3)
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    write_pcd(tmp_path / "b.pcd", shape, rgb)
    same(read_shape(tmp_path / "b.pcd"), shape, 2e-3)
    header, body = (tmp_path / "b.pcd").read_bytes().split(b"DATA binary\n", 1)
    assert b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 48\nHEIGHT 40\n" in header
    colours = np.frombuffer(body, "<u4").reshape(*SIZE, 4)[..., 3]
    red, green, blue = rgb.astype(int)[3, 5]
    assert colours[3, 5] == red * 65536 + green * 256 + blue
    assert np.isnan(np.frombuffer(body, "<f4").reshape(*SIZE, 4)[~shape.valid][:, :3]).all()


def test_what_does_not_belong_to_the_shape_is_refused(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.ply", part()
    for rgb in (np.zeros((4, 4, 3), np.uint8), np.zeros((*SIZE, 3), np.float32)):
        with pytest.raises(OptionError, match="rgb must be 40×48×3 of uint8"):
            write_ply(path, shape, rgb)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="rgb must be 40×48×3 of uint8"):
            write_pcd(path, shape, rgb)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="anomaly must be 40×48"):
        write_ply(path, shape, scalars={"anomaly": np.zeros((4, 4), np.float32)})
    for name in ("two words", "x", "", "a\nb", "ä"):
        with pytest.raises(OptionError, match="names of one word"):
            write_ply(path, shape, scalars={name: np.zeros(SIZE, np.float32)})
    assert not path.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for write in (write_xyz, write_ply, write_pcd):
        with pytest.raises(OSError, match="No space left"):
            write(path, part())
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    write_ply(tmp_path / "new" / "a.ply", part())
    assert (tmp_path / "new" / "a.ply").exists()
