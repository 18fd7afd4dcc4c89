"""Colours are directions, and pictures that are no normal maps are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchbank.errors import ImageError
from patchbank.shape import (
    read_normals,
)
from tests.shape.parts import (
    npy_bytes,
    png_bytes,
    tiff_bytes,
)


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
