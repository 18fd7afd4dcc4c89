"""Every kind of file, array and image gives the points or depths that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import ImageError
from patchbank.shape import (
    DepthFormat,
    Pinhole,
    Pitch,
    Shape,
    decide_unit,
    is_geometry,
    read_shape,
    shape_size,
)
from tests.shape.parts import (
    BINARIES,
    PINHOLE,
    SIZE,
    heights,
    npy_bytes,
    npz_bytes,
    organised,
    part,
    pfm_bytes,
    png_bytes,
    same,
    table_bytes,
    tiff_bytes,
)

POINTS = {
    "tiff": lambda s: tiff_bytes(s.xyz()),
    "tiff float64": lambda s: tiff_bytes(s.xyz().astype(np.float64)),
    "npy": lambda s: npy_bytes(s.xyz()),
    "npy columns first": lambda s: npy_bytes(np.asfortranarray(s.xyz())),
    "npy big endian": lambda s: npy_bytes(s.xyz().astype(">f8")),
    "npz": lambda s: npz_bytes(xyz=s.xyz()),
    "pfm": lambda s: pfm_bytes(s.xyz(), "<"),
    "pcd ascii": lambda s: organised(s, "pcd ascii"),
    "pcd binary": lambda s: organised(s, "pcd binary"),
    "ply ascii": lambda s: organised(s, "ply ascii"),
    **{f"ply {binary}": lambda s, c=binary: organised(s, f"ply {c}") for binary in BINARIES},
    "array": lambda s: s.xyz(),
    "array with a fourth channel": lambda s: np.dstack([s.xyz(), np.ones(s.size, np.float32)]),
}


@pytest.mark.parametrize("kind", POINTS)
def test_points(kind: str) -> None:
    expected = part()
    data = POINTS[kind](expected)
    found = read_shape(data, DepthFormat(unit="mm"), "a")
    same(found, expected, 2e-3)
    assert isinstance(found.camera, Pinhole)
    assert found.camera.fx == pytest.approx(PINHOLE.fx, rel=1e-5)
    assert shape_size(data) == SIZE


@pytest.mark.parametrize("kind", POINTS)
def test_points_with_the_camera_given(kind: str) -> None:
    """z and the intrinsics give the points back as exactly as float32 has them."""
    expected = part()
    found = read_shape(POINTS[kind](expected), DepthFormat(unit="mm", camera=PINHOLE), "a")
    same(found, expected, 1e-4)


def test_points_in_metres_are_known_as_such() -> None:
    expected = part()
    metres = expected.xyz() / 1000
    same(read_shape(tiff_bytes(metres)), expected, 2e-3)
    assert decide_unit(tiff_bytes(metres)).unit == "m"
    assert decide_unit(tiff_bytes(expected.xyz())).unit == "mm"
    assert decide_unit(tiff_bytes(expected.xyz()), DepthFormat(unit="in")).unit == "in"


DEPTHS = {
    "tiff": tiff_bytes,
    "tiff float64": lambda z: tiff_bytes(z.astype(np.float64)),
    "npy": npy_bytes,
    "npy float64": lambda z: npy_bytes(z.astype(np.float64)),
    "npy with a channel": lambda z: npy_bytes(z[..., None]),
    "npz": lambda z: npz_bytes(depth=z),
    "pfm little endian": lambda z: pfm_bytes(z, "<"),
    "pfm big endian": lambda z: pfm_bytes(z, ">"),
    "csv": lambda z: table_bytes(z, ","),
    "csv with ends": lambda z: table_bytes(z, ",", after=",", end="\r\n"),
    "csv semicolons": lambda z: b"\xef\xbb\xbf" + table_bytes(z, ";"),
    "csv decimal commas": lambda z: table_bytes(z, ";", comma=True),
    "csv tabs": lambda z: table_bytes(z, "\t"),
    "pil": lambda z: Image.fromarray(z),
    "array": lambda z: z,
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_depths(kind: str) -> None:
    expected = part()
    z = np.where(expected.valid, expected.z, np.nan).astype(np.float32)
    data = DEPTHS[kind](z)
    same(read_shape(data, DepthFormat(unit="mm", camera=PINHOLE), "a"), expected, 1e-4)
    assert shape_size(data) == SIZE


def test_a_table_of_blanks() -> None:
    z = part(missing=0.0).z
    data = "\n".join("  ".join(f"{v:.9g}" for v in row) for row in z.tolist()).encode()
    same(read_shape(data, DepthFormat(unit="mm", camera=PINHOLE), "a"), part(missing=0.0))
    assert shape_size(data) == SIZE


@pytest.mark.parametrize("kind", ["png", "tiff", "npy", "pil"])
def test_sixteen_bits_are_millimetres(kind: str) -> None:
    z = np.rint(part().z).astype(np.uint16)
    data = {"png": png_bytes, "tiff": tiff_bytes, "npy": npy_bytes, "pil": Image.fromarray}[kind](z)
    found = read_shape(data, DepthFormat(camera=PINHOLE), "a")
    same(found, Shape(z.astype(np.float32), z > 0, PINHOLE))
    assert decide_unit(data).unit == "mm"
    assert shape_size(data) == SIZE


@pytest.mark.parametrize("encode", [tiff_bytes, npy_bytes])
def test_signed_heights_with_scale_and_offset(encode: Any) -> None:
    """As range sensors store them: −32768 where there is none, a scale in micrometres."""
    expected = heights()
    stored = np.where(expected.valid, np.rint(-expected.z * 1000 / 2.5), -32768).astype(np.int16)
    format = DepthFormat(unit="um", scale=2.5, offset=100, axis="height", camera=Pitch(0.1, 0.1), invalid=(-32768,))
    found = read_shape(encode(stored), format, "a")
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.z[found.valid], expected.z[expected.valid] - 0.1, atol=0.002)


@pytest.mark.parametrize("missing", [0.0, -32768.0, np.nan, np.inf, -np.inf, -3.4e38, 65535.0])
def test_numbers_that_mean_no_point(missing: float) -> None:
    expected = part()
    z = np.where(expected.valid, expected.z, np.float32(missing))
    same(read_shape(z, DepthFormat(unit="mm", camera=PINHOLE, invalid=(0, -32768, -3.4e38, 65535))), expected)
    points = expected.xyz()
    points[~expected.valid] = missing
    same(read_shape(points, DepthFormat(unit="mm", camera=PINHOLE, invalid=(0, -32768, -3.4e38, 65535))), expected)


def test_a_height_of_zero_is_a_point_where_x_and_y_are_known() -> None:
    points = part(Pitch(0.1, 0.1), missing=0.0).xyz()
    points[..., 2] = np.where(points[..., 0] > 2, 0, points[..., 2] - 650)
    assert read_shape(points, DepthFormat(unit="mm")).valid.sum() >= points[..., 0].size - 1


@pytest.mark.parametrize(
    ("values", "format", "unit"),
    [
        (part().z / 1000, DepthFormat(), "m"),
        (part().z, DepthFormat(), "mm"),
        (part().z / 1000, DepthFormat(axis="height"), "mm"),
        (part().z.astype(np.int32), DepthFormat(), "mm"),
        (part().xyz() / 1000, DepthFormat(), "m"),
        (part().xyz(), DepthFormat(), "mm"),
        (part().xyz(), DepthFormat(scale=0.001), "m"),
    ],
)
def test_the_unit_that_auto_means(values: NDArray[Any], format: DepthFormat, unit: str) -> None:
    assert decide_unit(values, format).unit == unit


def test_a_depth_without_a_camera_has_a_pitch_of_one_millimetre() -> None:
    assert read_shape(part().z, DepthFormat(unit="mm")).camera == Pitch(1, 1)


def test_heights_seen_by_a_pinhole_are_behind_it() -> None:
    with pytest.raises(ImageError, match=r"a\.tiff: has points behind the camera in 79 %.*set axis to height"):
        read_shape(-part().z, DepthFormat(unit="mm", camera=PINHOLE), "a.tiff")
    same(read_shape(-part().z, DepthFormat(unit="mm", camera=PINHOLE, axis="height")), part())


def test_orientation_of_a_picture_is_honoured(tmp_path: Path) -> None:
    z = np.rint(part().z).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(z).save(tmp_path / "a.png", exif=exif)
    found = read_shape(tmp_path / "a.png", DepthFormat(camera=Pitch(1, 1)), "a.png")
    np.testing.assert_array_equal(found.z, np.rot90(z, -1))
    assert shape_size(tmp_path / "a.png") == (SIZE[1], SIZE[0])


@pytest.mark.data
def test_real_heights(real_data: Path) -> None:
    """16-bit heights of a road, without a metric scale."""
    paths = sorted((real_data / "road").glob("**/z/*.png"))
    if not paths:
        pytest.skip("the tiles of the road are not on this machine")
    format = decide_unit(paths[0], DepthFormat(axis="height"), paths[0].name)
    assert format.unit == "mm"
    for path in paths[::10]:
        assert is_geometry(path)
        found = read_shape(path, format, path.name)
        with Image.open(path) as image:
            stored = np.asarray(image).astype(np.float32)
        assert found.size == shape_size(path) == stored.shape
        np.testing.assert_array_equal(found.z, -stored)
        np.testing.assert_array_equal(found.valid, stored > 0)
