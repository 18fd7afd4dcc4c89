"""Every ordinary kind of image becomes the same RGB array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.data import Sample, gather, image_size, read_image
from patchbank.errors import DatasetError, ImageError, OptionError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def read(path: Path) -> np.ndarray:
    return read_image(Sample.of(str(path), path))


def test_rgb_png_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(RGB).convert(mode)
    image.save(path)
    array = read(path)
    assert array.shape == (20, 30, 3)
    assert array.dtype == np.uint8
    assert np.abs(array.astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() <= 1


def test_sixteen_bits_lose_nothing(tmp_path: Path) -> None:
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30)  # all but 2 of these would be equal in 8 bits
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        array = read(tmp_path / name)
        assert array.dtype == np.float32
        assert np.allclose(array[:, :, 1], deep * (255 / 65535))
        assert len(np.unique(array)) == 600


def test_float_tiff_in_0_to_1(tmp_path: Path) -> None:
    values = (GREY / 255).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.allclose(read(tmp_path / "a.tif")[:, :, 0], GREY, atol=1e-3)
    Image.fromarray(values * 1000).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif: its floating-point values 0\.\.1000 must lie in 0\.\.1"):
        read(tmp_path / "b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, exif=exif)
    turned = {  # what each orientation says was done to the upright image
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1), 7: RGB.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    assert np.array_equal(read(path), turned)
    assert image_size(Sample.of("a", path)) == turned.shape[:2]


@pytest.mark.parametrize(
    "array",
    [GREY, GREY[:, :, None], RGB, np.dstack([RGB, GREY]), GREY.astype(np.uint16) * 257, GREY / 255.0],
)
def test_arrays(array: np.ndarray) -> None:
    rgb = read_image(Sample.of("array", array))
    expected = RGB if array.ndim == 3 and array.shape[2] > 1 else np.repeat(GREY[:, :, None], 3, axis=2)
    assert np.allclose(rgb, expected, atol=1e-3)
    assert image_size(Sample.of("array", array)) == (20, 30)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 5, 2), np.uint8), "H×W×C"),
        (np.zeros((5, 0, 3), np.uint8), "H×W×C"),
        (np.zeros(5, np.uint8), "H×W×C"),
        (np.full((5, 5), np.nan), "25 of its 25 values are NaN"),
        (np.zeros((5, 5), np.complex64), "complex64"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(Sample.of("array", array))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.png", "empty.png"):
        with pytest.raises(ImageError, match=name):
            read(tmp_path / name)


def test_gather(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("z.PNG", "b/a.jpg", "notes.txt", ".hidden/x.png", ".dot.png"):
        (tmp_path / name).touch()
    found = [Path(s.name).relative_to(tmp_path).as_posix() for s in gather(tmp_path)]
    assert found == ["b/a.jpg", "z.PNG"]
    assert len(gather([tmp_path, str(tmp_path / "z.PNG"), RGB, Image.fromarray(RGB)])) == 5
    with pytest.raises(DatasetError, match="no such file"):
        gather(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no images"):
        gather([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images in this folder"):
        gather(tmp_path / "empty")
    with pytest.raises(OptionError, match="not int"):
        gather([3])  # type: ignore[list-item]
