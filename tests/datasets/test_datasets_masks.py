"""Masks as they come: other sizes, modes and names, none at all, and files that are no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.datasets import Sample, open_dataset, read_mask
from patchbank.errors import DatasetError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

LEVELS = np.array([[0, 1, 127], [128, 200, 255]], dtype=np.uint8)


def sample(path: Path | None, defect: str = "bent") -> Sample:
    return Sample(Path("image.png"), defect, path)


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
