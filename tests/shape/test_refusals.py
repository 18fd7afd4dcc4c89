"""What holds no shape is refused in one sentence that names it, and costs little."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from patchbank.errors import ImageError
from patchbank.sample import Data
from patchbank.shape import (
    DepthFormat,
    Pitch,
    Shape,
    read_shape,
    shape_size,
)
from tests.shape.parts import (
    npy_bytes,
    npz_bytes,
    organised,
    part,
    pfm_bytes,
    png_bytes,
    stl_bytes,
    table_bytes,
    tiff_bytes,
)


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


@settings(deadline=None)
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


def lying_tiff(height: int, width: int) -> bytes:
    """Another size in the tags of a TIFF of 40×48."""
    entry = struct.Struct("<HHII")
    sizes = ((257, 40, height), (256, 48, width))
    data = WHOLE["tiff"]
    for tag, old, new in sizes:
        assert data.count(entry.pack(tag, 3, 1, old)) == 1
        data = data.replace(entry.pack(tag, 3, 1, old), entry.pack(tag, 4, 1, new))
    return data


def lying_npy(shape: tuple[int, ...]) -> bytes:
    data = npy_bytes(np.zeros((4, 4), np.float32))
    return data.replace(b"(4, 4), }" + b" " * 20, f"{shape}, }}".encode().ljust(29))


@pytest.mark.parametrize(
    "data",
    [
        lying_tiff(60_000, 48),
        lying_tiff(9_000, 9_000),
        lying_tiff(60_000, 60_000),
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
