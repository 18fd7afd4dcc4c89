"""Every kind of file gives the shape that it holds, and every file that holds none is refused in one sentence."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import ImageError
from patchbank.sample import Data
from patchbank.shape import (
    DepthFormat,
    Pinhole,
    Pitch,
    Shape,
    decide_unit,
    describe,
    is_geometry,
    read_normals,
    read_shape,
    shape_size,
)
from tests.shape.parts import (
    PINHOLE,
    SIZE,
    heights,
    part,
    pcd_bytes,
    ply_bytes,
    png_bytes,
    same,
    stl_bytes,
    tiff_bytes,
)

BINARIES = ("binary_little_endian", "binary_big_endian")


def npy_bytes(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def npz_bytes(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def pfm_bytes(values: NDArray[Any], order: str) -> bytes:
    kind = b"PF" if values.ndim == 3 else b"Pf"
    scale = b"-1.0" if order == "<" else b"1.0"
    size = f"{values.shape[1]} {values.shape[0]}".encode()
    return kind + b"\n" + size + b"\n" + scale + b"\n" + values[::-1].astype(f"{order}f4").tobytes()


def organised(shape: Shape, coding: str) -> bytes:
    """A PLY or PCD with a point for each pixel, NaN where there is none."""
    points = shape.xyz().astype(np.float64).reshape(-1, 3)
    points[~shape.valid.ravel()] = np.nan
    if coding.startswith("pcd "):
        return pcd_bytes(points, coding.removeprefix("pcd "), shape.size[1], shape.size[0])
    return ply_bytes(points, coding.removeprefix("ply "), shape.size)


# ---- points ----------------------------------------------------------------------------------------------------------

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


# ---- depths and heights ----------------------------------------------------------------------------------------------


def table_bytes(values: NDArray[Any], divider: str, comma: bool = False, end: str = "\n", after: str = "") -> bytes:
    rows = (divider.join("" if np.isnan(v) else repr(float(v)) for v in row) + after for row in values)
    text = end.join(rows) + end
    return (text.replace(".", ",") if comma else text).encode()


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


# ---- clouds and meshes -----------------------------------------------------------------------------------------------


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


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(data: Data, words: str, format: DepthFormat | None = None) -> None:
    """Assert that a source is refused in one sentence that names it."""
    with pytest.raises(ImageError, match=words) as caught:
        read_shape(data, format or DepthFormat(unit="mm"), "part.x")
    said = str(caught.value)
    assert said.startswith("part.x: ")
    assert "\n" not in said


@pytest.mark.parametrize("values", [np.zeros((40, 48), np.float32), np.full((40, 48, 3), np.nan, np.float32)])
def test_no_points(values: NDArray[Any]) -> None:
    refused(values, "has a point in 0 % of its pixels: check which values mean no point")


def test_hardly_any_points() -> None:
    refused(part(missing=0.97).z, r"has a point in [23]\.?\d* % of its pixels")


@pytest.mark.parametrize("size", [(1, 1000), (1000, 3)])
def test_strips(size: tuple[int, int]) -> None:
    refused(np.ones(size, np.float32), "is a strip of")


def test_extents_that_no_part_has() -> None:
    refused(part().xyz(), r"span 3\.41e\+06 mm, more than any part: check its unit", DepthFormat(unit=1e5))
    refused(part().xyz(), "less than any part", DepthFormat(unit=1e-5))
    refused(part().z, "more than any part", DepthFormat(camera=Pitch(1e5, 1e5)))


@pytest.mark.parametrize("values", [np.ones((40, 48, 3), np.uint8), np.ones((40, 48), np.uint8)])
def test_pictures(values: NDArray[Any]) -> None:
    for data in (values, png_bytes(values), tiff_bytes(values), npy_bytes(values), Image.fromarray(values)):
        refused(data, "of uint8, as a picture or a normal map has")


def test_pictures_of_sixteen_bits() -> None:
    values = np.ones((40, 48, 3), np.uint16)
    for data in (values, png_bytes(values), tiff_bytes(values)):
        refused(data, "three channels of uint16")


@pytest.mark.parametrize(
    "values", [np.ones((40, 48, 2)), np.ones((3, 40, 48)), np.ones(40), np.ones((40, 48), complex), np.ones((0, 48))]
)
def test_arrays_that_are_no_grid(values: NDArray[Any]) -> None:
    refused(values, "must be an array H×W|has values of the type|is empty")
    refused(npy_bytes(values), "must be an array H×W|has values of the type|is empty")


def test_arrays_of_objects_are_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[print, print]], object), allow_pickle=True)
    refused(file.getvalue(), "has values of the type object")
    file = io.BytesIO()
    np.savez(file, a=np.array([[print]], object))
    refused(file.getvalue(), "has values of the type object")


def test_archives_of_several_arrays() -> None:
    refused(npz_bytes(a=part().z, b=part().z), r"with one array, and has 2 members \(a\.npy, b\.npy\)")


WHOLE = {
    "tiff": tiff_bytes(part().xyz()),
    "png": png_bytes(np.rint(part().z).astype(np.uint16)),
    "npy": npy_bytes(part().z),
    "npz": npz_bytes(a=part().z),
    "pfm": pfm_bytes(part().z, "<"),
    "csv": table_bytes(part(missing=0.0).z, ","),
    "pcd ascii": organised(part(), "pcd ascii"),
    "pcd binary": organised(part(), "pcd binary"),
    "ply ascii": organised(part(), "ply ascii"),
    "ply binary": organised(part(), "ply binary_big_endian"),
    "stl ascii": stl_bytes(np.random.default_rng(0).random((9, 3, 3)), True),
    "stl binary": stl_bytes(np.random.default_rng(0).random((9, 3, 3)), False),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0.0, 0.003, 0.02, 0.3, 0.9])
def test_files_that_are_cut_off(kind: str, share: float) -> None:
    whole = WHOLE[kind]
    refused(whole[: int(len(whole) * share)], "part.x: .", DepthFormat(unit="mm", projection=(20, 20)))


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_files_end_in_a_shape_or_a_sentence(kind: str) -> None:
    """Flipped bytes, mostly in the header; nothing but `ImageError` comes out."""
    rng = np.random.default_rng(0)
    for trial in range(60):
        data = bytearray(WHOLE[kind])
        reach = len(data) if trial % 3 == 0 else min(len(data), 400)
        for place in rng.integers(0, reach, 1 + trial % 5):
            data[place] = rng.integers(256)
        survives(bytes(data))


STARTS = (b"", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"Pf\n", b"ply\n", b"# .PCD", b"solid", b"II*\0", b"1,2", b"\x89PNG")


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_any_bytes_end_in_a_shape_or_a_sentence(start: bytes, rest: bytes) -> None:
    survives(start + rest)


def survives(data: bytes) -> None:
    """Assert that bytes give a shape, or a sentence that names them, and nothing else."""
    for ask in (read_shape, shape_size):
        said, found = "", None
        try:
            found = ask(data, DepthFormat(unit="mm", projection=(20, 20)), "part.x")
        except ImageError as error:
            said = str(error)
        assert found is not None or said.startswith("part.x: ")
        assert "\n" not in said
        assert not isinstance(found, Shape) or np.isfinite(found.z).all()


def lying_npy(shape: tuple[int, ...]) -> bytes:
    data = npy_bytes(np.zeros((4, 4), np.float32))
    return data.replace(b"(4, 4), }" + b" " * 20, f"{shape}, }}".encode().ljust(29))


@pytest.mark.parametrize(
    "data",
    [
        lying_npy((10_000, 10_000)),
        lying_npy((10**9, 10**9)),
        lying_npy((-4, -4)),
        b"Pf\n11000 11000\n-1\n" + b"\0" * 100,
        b"Pf\n999999999 999999999\n-1\n",
        WHOLE["pcd binary"].replace(b"HEIGHT 40", b"HEIGHT 40000").replace(b"POINTS 1920", b"POINTS 1920000"),
        WHOLE["pcd ascii"].replace(b"HEIGHT 40", b"HEIGHT 40000").replace(b"POINTS 1920", b"POINTS 1920000"),
        WHOLE["pcd binary"].replace(b"COUNT 1 1 1 1", b"COUNT 1 1 65536 1"),
        WHOLE["ply binary"].replace(b"vertex 1920", b"vertex 99999999").replace(b"obj_info width", b"obj_info w"),
        WHOLE["ply ascii"].replace(b"vertex 1920", b"vertex 99999999").replace(b"obj_info width", b"obj_info w"),
        WHOLE["ply binary"].replace(b"camera 1", b"camera 9999999999999"),
        WHOLE["ply ascii"].replace(b"camera 1", b"camera 9999999999999"),
        WHOLE["png"][:16] + (60_000).to_bytes(4, "big") * 2 + WHOLE["png"][24:],
        b"1,\n" + b"1," * 200_000,
        (b"1," * 100_000 + b"\n") + b"2\n" * 100_000,
        b"1," * 10_000 + b"1" * 200_000,
    ],
)
def test_headers_that_lie_cost_little_memory(data: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        refused(data, "part.x: .", DepthFormat(unit="mm", projection=(20, 20)))
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()


def test_a_compressed_cloud_is_refused() -> None:
    refused(WHOLE["pcd binary"].replace(b"DATA binary", b"DATA binary_compressed"), "save it as ascii or binary")


def test_points_without_z() -> None:
    refused(WHOLE["pcd binary"].replace(b"FIELDS x y intensity z", b"FIELDS x y intensity w"), "must have x, y and z")
    refused(WHOLE["ply binary"].replace(b"float x", b"float u"), "must have x, y and z")


def test_a_grid_with_another_number_of_points() -> None:
    refused(WHOLE["ply binary"].replace(b"width 48", b"width 47"), "grid of 47×40 and has 1920 points")


def test_tables_with_words_or_unequal_rows() -> None:
    refused(b"1,2,3,4\n1,2,x,4\n1,2,3,4\n1,2,3,4\n", "'x' in row 2, cell 3, where a number is expected")
    refused(b"1,2,3,4\n1,2,3\n1,2,3,4\n1,2,3,4\n", "3 cells in row 2 and 4 in the first")
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer")
    refused(b"no numbers\n", "is a text file, not an image file")


def test_sources_that_are_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "gone.npy", "cannot be read")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe.npy")
    refused(tmp_path / "pipe.npy", "is a named pipe")
    refused(Path("/dev/zero"), "is a device")
    (tmp_path / "empty.npy").touch()
    refused(tmp_path / "empty.npy", "is empty")


def test_a_closed_pil_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(WHOLE["png"])
    with Image.open(path) as image:
        pass
    refused(image, "was closed")


def test_triangles_that_would_take_for_ever() -> None:
    corners = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 1.0]])
    data = stl_bytes(np.repeat(corners[None], 2000, axis=0), False)
    refused(data, "take a smaller projection", DepthFormat(unit="mm", projection=(1000, 1000)))


# ---- for people, and for listings ------------------------------------------------------------------------------------


def test_descriptions() -> None:
    shape = part(Pinhole(2700.4, 2700, 23.5, 19.25), missing=0.0)
    assert describe(shape).endswith(" mm, 100 % valid, pinhole fx 2700")
    assert describe(shape).startswith("extent 11.4 × 9.4")
    assert describe(heights()).endswith("79 % valid, pitch 0.1 mm")
    assert describe(part(Pitch(0.1, 30), missing=0.0)).startswith("extent 4.7 × 1170 × ")
    assert describe(part(Pitch(0.1, 0.25), missing=0.0)).endswith("100 % valid, pitch 0.1 × 0.25 mm")


@pytest.mark.parametrize("camera", [PINHOLE, Pitch(0.1, 0.2)])
def test_the_extent_of_a_large_shape_is_that_of_its_points(camera: Any) -> None:
    shape = part(camera, missing=0.5, size=(1500, 1000))  # of several blocks
    points = shape.xyz()[shape.valid]
    spans = [f"{span:.3g}" if span < 1000 else f"{span:.0f}" for span in np.ptp(points, axis=0)]
    assert describe(shape).startswith(f"extent {' × '.join(spans)} mm")


def test_which_files_hold_geometry(tmp_path: Path) -> None:
    files = {
        "a.tiff": (WHOLE["tiff"], True),
        "b.png": (WHOLE["png"], True),
        "c.PLY": (b"", True),
        "d.npy": (b"", True),
        "e.csv": (b"", True),
        "f.png": (png_bytes(np.ones((8, 8), np.uint8)), False),
        "g.png": (png_bytes(np.ones((8, 8, 3), np.uint16)), False),
        "h.tif": (tiff_bytes(np.ones((8, 8, 3), np.uint8)), False),
        "i.tif": (tiff_bytes(np.ones((8, 8), np.int16)), True),
        "j.tif": (b"II*\0", False),
        "k.png": (b"", False),
        "l.txt": (b"1 2 3", False),
        "m.jpg": (WHOLE["png"], False),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        assert is_geometry(tmp_path / name) is expected, name
    os.mkfifo(tmp_path / "n.png")
    assert not is_geometry(tmp_path / "n.png")
    assert not is_geometry(tmp_path / "gone.png")


# ---- normal maps -----------------------------------------------------------------------------------------------------


def unit_vectors() -> NDArray[np.float32]:
    normals = np.random.default_rng(0).standard_normal((40, 48, 3))
    normals[..., 2] = np.abs(normals[..., 2]) + 0.5
    return (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("encode", [png_bytes, tiff_bytes, npy_bytes, lambda values: values])
def test_normals_of_whole_numbers(bits: int, encode: Any) -> None:
    top = 2**bits - 1
    stored = np.rint((unit_vectors() + 1) / 2 * top).astype(f"u{bits // 8}")
    stored[0, 0] = 0
    normals = read_normals(encode(stored), "n.png")
    assert normals.dtype == np.float32
    assert (normals[0, 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2)[0, 1:], 1, atol=1e-6)
    np.testing.assert_allclose(normals[1:], unit_vectors()[1:], atol=2 / top)


@pytest.mark.parametrize("encode", [tiff_bytes, npy_bytes])
def test_normals_of_floating_point(encode: Any) -> None:
    stored = unit_vectors()
    stored[0, 0] = np.nan
    normals = read_normals(encode(stored), "n.tiff")
    assert (normals[0, 0] == 0).all()
    np.testing.assert_allclose(normals[1:], stored[1:], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((40, 48, 3), np.uint8), "most of its vectors are not 1 long"),
        (np.full((40, 48, 3), 120, np.uint8), "most of its vectors are not 1 long"),
        (np.full((40, 48, 3), 3e38, np.float32), "most of its vectors are not 1 long"),
        (np.ones((40, 48), np.uint8), "must have three channels"),
        (np.ones((40, 48, 3), np.int32), "has normals as int32"),
    ],
)
def test_pictures_that_are_no_normals(values: NDArray[Any], words: str) -> None:
    with pytest.raises(ImageError, match=rf"n\.png: .*{words}"):
        read_normals(values, "n.png")


# ---- real files ------------------------------------------------------------------------------------------------------


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
