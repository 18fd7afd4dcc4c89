"""The overlay: colours tied to the threshold, and every shape of image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.pictures.drawing import overlay, save_png
from patchbank.pictures.heat import heat, resample
from patchbank.prediction import Region

GREY = np.full((60, 80, 3), 128, np.uint8)


def warm(picture):
    """Where red clearly outweighs blue: nowhere on the calm side of the scale."""
    return picture[..., 0].astype(int) > picture[..., 2].astype(int) + 20


def panels(picture):
    """The picture without its header and its colour bar."""
    return picture[70:-55]


def test_nothing_is_warm_below_the_threshold(make_prediction):
    rng = np.random.default_rng(0)
    for top in (0.001, 5.0, 17.9, 18.0):
        anomaly_map = rng.random((60, 80))
        anomaly_map *= top / anomaly_map.max()
        assert not warm(panels(overlay(GREY, make_prediction(anomaly_map)))).any()


def test_everything_is_warm_above_the_threshold():
    values = np.linspace(18.001, 90, 60 * 80, dtype=np.float32).reshape(60, 80)
    assert warm(heat(GREY, values, 18.0)).all()


def test_a_value_has_one_colour_whatever_else_is_on_the_map():
    values = np.full((60, 80), 9.0, np.float32)
    values[:, 40:] = 21.0
    hotter = values.copy()
    hotter[:10] = 500.0
    np.testing.assert_array_equal(heat(GREY, values, 18.0)[10:], heat(GREY, hotter, 18.0)[10:])


def test_the_scale_follows_the_threshold_and_saturates_at_its_double():
    values = np.linspace(0, 60, 60 * 80, dtype=np.float32).reshape(60, 80)
    np.testing.assert_array_equal(heat(GREY, values, 18.0), heat(GREY, values * 4, 72.0))
    above = heat(GREY, values, 18.0)[values >= 36]
    assert (above == above[0]).all()


def test_the_warm_side_darkens_so_that_it_reads_without_colour():
    values = np.linspace(18.1, 36, 80, dtype=np.float32)[None].repeat(60, axis=0)
    lightness = heat(GREY, values, 18.0)[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) <= 1).all()
    assert lightness[0] - lightness[-1] > 80


def test_what_was_not_inspected_is_grey_and_hatched():
    values = np.full((60, 80), 30.0, np.float32)
    values[:, :40] = np.nan
    unseen = heat(GREY, values, 18.0)[:, :40]
    assert not warm(unseen).any()
    assert np.ptp(unseen, axis=-1).max() == 0
    assert len(np.unique(unseen)) == 2


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(math.inf, False), (math.nan, False), (0.0, True), (-1.0, True), (1e-60, True)],
)
def test_odd_thresholds(make_prediction, threshold, expected):
    values = np.full((60, 80), 3.0, np.float32)
    values[0, 0] = math.inf
    assert warm(heat(GREY, values, threshold)).all() == expected
    assert not warm(heat(GREY, np.full((60, 80), -2.0, np.float32), threshold)).any()
    values[0, 0] = 3.0
    overlay(GREY, make_prediction(values, threshold=threshold))


def test_a_speck_survives_the_shrinking_of_a_large_image(make_prediction, make_photo):
    anomaly_map = np.full((1500, 2000), 9.0)
    anomaly_map[700, 1100] = 40.0
    prediction = make_prediction(anomaly_map, regions=())
    small = overlay(np.full((1500, 2000, 3), 128, np.uint8), prediction)
    assert warm(panels(small)).sum() >= 1


@pytest.mark.parametrize("size", [(3, 5), (4, 3), (7, 4), (12, 12), (1, 30), (30, 1)])
def test_resample_takes_the_largest_of_each_block(size):
    plane = np.random.default_rng(1).random((7, 12)).astype(np.float32)
    plane[2, :4] = np.nan
    expected = np.full(size, np.nan, np.float32)
    for i, j in np.ndindex(size):
        top, left = i * 7 // size[0], j * 12 // size[1]
        bottom = max((i + 1) * 7 // size[0], top + 1)
        right = max((j + 1) * 12 // size[1], left + 1)
        block = plane[top:bottom, left:right]
        if not np.isnan(block).all():
            expected[i, j] = np.nanmax(block)
    np.testing.assert_array_equal(resample(plane, size), expected)


@pytest.mark.parametrize(
    "shape", [(24, 32), (1, 1), (1, 700), (700, 1), (480, 480), (3000, 400), (300, 4000), (1200, 1600)]
)
def test_every_shape_of_image_gives_a_picture_of_the_same_width(make_prediction, make_photo, shape):
    anomaly_map = np.full(shape, 9.0)
    anomaly_map[: shape[0] // 3 + 1, : shape[1] // 4 + 1] = 25.0
    image = make_photo(*shape)
    before = image.copy()
    picture = overlay(image, make_prediction(anomaly_map), np.ones(shape, bool))
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (984, 3)
    assert picture.shape[0] < 2000
    np.testing.assert_array_equal(image, before)


def test_the_aspect_ratio_is_kept(make_prediction):
    picture = overlay(np.zeros((300, 400, 3), np.uint8), make_prediction(np.full((300, 400), 9.0)))
    black = (picture == 0).all(axis=2)
    assert black.sum(axis=1).max() == pytest.approx(480, abs=12)
    assert black.sum(axis=0).max() == pytest.approx(360, abs=20)


def test_the_verdict_and_the_region_are_drawn(make_prediction):
    calm, hot = np.full((60, 80), 9.0), np.full((60, 80), 9.0)
    hot[20:40, 30:50] = 30.0
    accepted, rejected = overlay(GREY, make_prediction(calm)), overlay(GREY, make_prediction(hot))
    assert not warm(accepted[:60]).any()
    assert warm(rejected[:60]).any()
    assert (panels(rejected)[:, :480] != panels(accepted)[:, :480]).any()
    without = overlay(GREY, make_prediction(hot, regions=()))
    assert (without != rejected).any()


def test_the_marked_defect_is_outlined_in_both_panels(make_prediction):
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 255
    prediction = make_prediction(np.full((60, 80), 9.0))
    plain, marked = overlay(GREY, prediction), overlay(GREY, prediction, mask)
    changed = (plain != marked).any(axis=2)[:-55]
    assert changed[:, :480].any()
    assert changed[:, 500:].any()
    np.testing.assert_array_equal(overlay(GREY, prediction, np.zeros_like(mask)), plain)


@pytest.mark.parametrize(
    "path",
    ["good/" + "a very long name " * 30 + ".png", "line\nbreak\t.png", "bad\udce9.png", "", "检查/零件.png"],
)
def test_any_file_name_can_be_written(make_prediction, path):
    picture = overlay(GREY, make_prediction(np.full((60, 80), 9.0), path=path))
    assert picture.shape[1] == 984


@pytest.mark.parametrize(
    "changes", [{"p_value": math.nan}, {"score": math.inf}, {"score": math.nan}, {"threshold": math.inf}]
)
def test_numbers_that_are_not_finite_can_be_written(make_prediction, changes):
    anomaly_map = np.full((60, 80), np.nan)
    overlay(GREY, make_prediction(anomaly_map, **changes))


def test_a_region_at_the_edge_stays_inside(make_prediction):
    region = Region((0, 0, 80, 60), 4800, 30.0)
    overlay(GREY, make_prediction(np.full((60, 80), 30.0), regions=(region,)))


def test_wrong_input_is_refused_by_name(make_prediction):
    prediction = make_prediction(np.full((60, 80), 9.0))
    with pytest.raises(ValueError, match="overlay takes RGB"):
        overlay(GREY.astype(np.float32), prediction)
    with pytest.raises(ValueError, match="the map is"):
        overlay(GREY[:50], prediction)
    with pytest.raises(ValueError, match="the mask is"):
        overlay(GREY, prediction, np.ones((50, 80), bool))
    with pytest.raises(ValueError, match="panel_width"):
        overlay(GREY, prediction, panel_width=10)


def test_the_smallest_panel_works(make_prediction):
    assert overlay(GREY, make_prediction(np.full((60, 80), 30.0)), panel_width=64).shape[1] < 160


def test_saved_pictures_come_back(make_prediction, tmp_path: Path):
    picture = overlay(GREY, make_prediction(np.full((60, 80), 30.0)))
    save_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
