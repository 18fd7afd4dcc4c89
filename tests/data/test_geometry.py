"""Both geometries, and the way back to the pixels of the input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import patchbank
from patchbank import PatchCore
from patchbank.data import Geometry, zoom_for
from patchbank.errors import OptionError

SIDES = st.integers(1, 3000)


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES)
def test_whole_inspects_everything(height: int, width: int) -> None:
    view = Geometry("whole", 256).view(height, width)
    assert 128 <= min(view.inspected) <= 256
    assert abs(min(view.inspected) - np.clip(min(height, width), 128, 256)) <= 16
    assert all(side % 32 == 0 for side in view.inspected)
    assert max(view.inspected) <= 8 * 256
    assert view.inspected_box == (0, 0, width, height)
    if max(height, width) <= 8 * min(height, width):
        ratio = view.inspected[0] / view.inspected[1]
        assert ratio == pytest.approx(height / width, rel=0.29)  # half of 32 on 128 pixels, twice


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES)
def test_paper_inspects_the_centre_and_marks_the_rest(height: int, width: int) -> None:
    view = Geometry("paper", 224).view(height, width)
    assert view.inspected == (224, 224)
    assert min(view.resized) == 256
    if max(height, width) > 20 * min(height, width):
        return  # a strip: the map would be large for nothing
    back = view.to_input(np.ones((224, 224), np.float32))
    left, top, right, bottom = view.inspected_box
    assert back.shape == (height, width)
    assert np.isfinite(back[top:bottom, left:right]).all()
    assert np.isfinite(back).sum() == (bottom - top) * (right - left)


def test_paper_is_torchvisions_resize_and_crop() -> None:
    # Resize(256): the longer side is int(256 · long / short); CenterCrop(224): int(round((side − 224) / 2))
    view = Geometry("paper", 224).view(600, 801)
    assert view.resized == (256, 341)
    assert view.offset == (16, 58)
    rgb = np.random.default_rng(0).integers(0, 256, (600, 801, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(rgb).resize((341, 256), Image.Resampling.BILINEAR))[16:240, 58:282]
    assert np.array_equal(view.apply(rgb), expected.transpose(2, 0, 1))


def test_float_images_are_resized_like_bytes() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    view = Geometry("whole", 64).view(90, 120)
    assert np.abs(view.apply(rgb) - view.apply(rgb.astype(np.float32))).max() <= 1


def test_a_map_comes_back_where_it_was() -> None:
    view = Geometry("whole", 64).view(128, 128)
    values = np.zeros((64, 64), np.float32)
    values[10, 50] = 1
    y, x = np.unravel_index(view.to_input(values).argmax(), (128, 128))
    assert abs(y - 21) <= 1
    assert abs(x - 101) <= 1


def test_patches_and_pixels_agree() -> None:
    for kind in ("whole", "paper"):
        view = Geometry(kind, 224).view(300, 500)
        grid = (28, 28 * view.inspected[1] // 224)
        for row, column in ((0, 0), (13, 7), (27, grid[1] - 1)):
            left, top, right, bottom = view.patch_box(row, column, grid)
            assert view.patch_at((left + right) // 2, (top + bottom) // 2, grid) == (row, column)


@pytest.mark.parametrize(("kind", "size"), [("square", 256), ("whole", 250), ("whole", 0), ("paper", 10_000)])
def test_bad_options(kind: str, size: int) -> None:
    with pytest.raises(OptionError):
        Geometry(kind, size)


# ---- small pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "size", "zoom"),
    [
        ([300, 300], 512, 512 / 300),
        ([256], 512, 2.0),
        ([100, 120], 512, 3.0),  # never more than three times
        ([100, 388], 512, 512 / 388),  # the largest reaches the size, the others keep their scale to it
        ([100, 600], 512, 1.0),
        ([512], 512, 1.0),
        ([], 512, 1.0),
    ],
)
def test_the_zoom_of_a_set(sides: list[int], size: int, zoom: float) -> None:
    assert zoom_for(sides, size) == pytest.approx(zoom)


def test_no_more_headers_are_read_than_needed() -> None:
    def sides() -> Iterator[int]:
        yield 600
        raise AssertionError("read on")

    assert zoom_for(sides(), 512) == 1


def test_pictures_are_enlarged_by_one_factor() -> None:
    geometry = Geometry("whole", 512, zoom=512 / 388)
    assert geometry.view(388, 400).inspected == (512, 512)
    assert geometry.view(194, 200).inspected == (256, 256)
    assert geometry.view(1000, 1000).inspected == (512, 512)  # larger ones than in the training set


def test_a_detector_enlarges_what_it_learned_from(tmp_path: Path) -> None:
    images = [np.full((100, 150, 3), 90 + i, np.uint8) for i in range(3)]
    model = PatchCore(image_size=160, bank_size=50, threads=1, runtime="torch").fit(images)
    assert model.inputs_.zoom == pytest.approx(1.6)
    assert model.predict(images[0]).map.shape == (100, 150)
    model.save(tmp_path / "m.patchbank")
    again = patchbank.load(tmp_path / "m.patchbank", threads=1, runtime="torch")
    assert again.extractor.geometry == model.extractor.geometry
    assert PatchCore(image_size=160, enlarge=False, bank_size=50, threads=1).fit(images).inputs_.zoom == 1
    with pytest.raises(OptionError, match="enlarge is for whole images"):
        PatchCore(tile=256, enlarge=True).check()
