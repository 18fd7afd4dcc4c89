"""Masks as they come: other sizes, modes and names, none at all, and files that are no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from patchbank.data.datasets import LabelledImage, open_dataset, read_mask
from patchbank.data.datasets.mask_files import open_mask
from patchbank.errors import DatasetError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"

LEVELS = np.array([[0, 1, 127], [128, 200, 255]], dtype=np.uint8)


def sample(path: Path | None, defect: str = "bent") -> LabelledImage:
    return LabelledImage(Path("image.png"), defect, path)


def test_good_is_empty_whatever_its_mask_file_says(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "m.png")
    mask = read_mask(sample(tmp_path / "m.png", "good"), 0, (2, 3))
    assert mask is not None
    assert mask.shape == (2, 3)
    assert mask.dtype == bool
    assert not mask.any()


def test_a_defect_without_a_file_has_no_mask() -> None:
    assert read_mask(sample(None), 0, (2, 3)) is None


@pytest.mark.parametrize(("above", "expected"), [(0, LEVELS > 0), (127, LEVELS > 127)])
def test_threshold(tmp_path: Path, above: int, expected: np.ndarray) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(sample(tmp_path / "m.png"), above, (2, 3)), expected)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA", "I;16", "I", "F"])
def test_modes(tmp_path: Path, mode: str) -> None:
    marked = LEVELS > 127
    if mode == "I;16":
        image = Image.fromarray(marked.astype(np.uint16) * 65535)
    else:
        image = Image.fromarray(marked.astype(np.uint8) * 255).convert(mode)
    assert image.mode == mode
    file = tmp_path / ("m.tiff" if mode in ("I", "F") else "m.png")
    image.save(file)
    np.testing.assert_array_equal(read_mask(sample(file), 127, (2, 3)), marked)


def test_no_defective_pixel_is_legal(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "m.png")
    mask = read_mask(sample(tmp_path / "m.png"), 0, (2, 3))
    assert mask is not None
    assert not mask.any()


def test_another_size_is_resized(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "m.png")
    expected = (LEVELS > 127).repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(read_mask(sample(tmp_path / "m.png"), 127, (8, 12)), expected)


def test_folder_of_masks_is_joined(tmp_path: Path) -> None:
    for name, column in (("000.png", 0), ("001.PNG", 2)):
        levels = np.zeros((2, 3), dtype=np.uint8)
        levels[:, column] = 3
        Image.fromarray(levels).save(tmp_path / name)
    mask = read_mask(sample(tmp_path), 0, (2, 3))
    np.testing.assert_array_equal(mask, [[True, False, True]] * 2)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_on_its_side_is_turned_as_its_image(tmp_path: Path, orientation: int, scale: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((8, 12), np.uint8)
    stored[:3, :2] = 255
    Image.fromarray(stored).save(tmp_path / "image.png", exif=exif)
    with Image.open(tmp_path / "image.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image)) > 0
    Image.fromarray(stored.repeat(scale, 0).repeat(scale, 1)).save(tmp_path / "m.png")
    turned = LabelledImage(tmp_path / "image.png", "bent", tmp_path / "m.png")
    mask = open_mask(turned, 0, (12, 8))
    assert mask is not None
    assert (mask.turned, mask.resized) == (True, scale > 1)
    np.testing.assert_array_equal(mask.pixels, upright)


@pytest.mark.parametrize("size", [(12, 8), (8, 8), (80, 20)])
def test_a_mask_of_another_shape_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", (12, 8), 255).save(tmp_path / "m.png")
    Image.new("L", (12, 8)).save(tmp_path / "image.png")
    with pytest.raises(DatasetError, match=rf"m\.png: the mask has 12×8 pixels and its image {size[1]}×{size[0]}"):
        read_mask(LabelledImage(tmp_path / "image.png", "bent", tmp_path / "m.png"), 0, size)


def test_a_mask_that_was_rounded_is_resized(tmp_path: Path) -> None:
    Image.new("L", (32, 23), 255).save(tmp_path / "m.png")
    mask = open_mask(sample(tmp_path / "m.png"), 0, (700, 1000))
    assert mask is not None
    assert mask.resized
    assert mask.pixels.shape == (700, 1000)


def test_a_mask_that_is_postscript_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n%%EndComments\nshowpage\n")
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        read_mask(sample(tmp_path / "m.png"), 0, (2, 3))


@pytest.mark.parametrize("content", [None, b"", b"not a png", b"\x89PNG\r\n\x1a\n"])
def test_unreadable(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"m\.png: the mask cannot be read"):
        read_mask(sample(tmp_path / "m.png"), 0, (2, 3))


def test_truncated(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes((tmp_path / "m.png").read_bytes()[:1000])
    with pytest.raises(DatasetError, match="the mask cannot be read"):
        read_mask(sample(tmp_path / "m.png"), 0, (64, 64))


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images at {DATA}")
def test_real_masks() -> None:
    empty = 0
    mtd = open_dataset(DATA / "mtd")
    for real in mtd.test:
        if real.defect != "good" and real.mask is not None:
            with Image.open(real.path) as image:
                size = image.height, image.width
            mask = read_mask(real, mtd.mask_above, size)
            assert mask is not None
            empty += not mask.any()
    assert empty == 4
    for real in open_dataset(DATA / "hazelnut_toy").test:
        mask = read_mask(real, 0, (512, 512))
        assert mask is not None
        assert mask.any() == (real.defect != "good")
