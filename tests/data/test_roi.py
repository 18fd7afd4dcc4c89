"""Regions of interest, from the file to the score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import AnomalyDINO, Ensemble, PatchCore, load
from patchbank.data import RegionOfInterest, gather, read_roi
from patchbank.detector import Detector
from patchbank.errors import ImageError, OptionError
from patchbank.methods import METHODS
from patchbank.scoring.maps import anomaly_map
from tests.conftest import OF_PICTURES, bad_image, good_image, small_model

GOOD = [good_image(i) for i in range(6)]
LEFT = RegionOfInterest(include=(((0, 0), (55, 0), (55, 95), (0, 95)),))  # the spot of bad_image is at columns 70 to 90


def test_polygons_and_masks(tmp_path: Path) -> None:
    path = tmp_path / "roi.json"
    path.write_text(
        json.dumps({"include": [[[0, 0], [9, 0], [9, 9], [0, 9]]], "ignore": [[[2, 2], [4, 2], [4, 4], [2, 4]]]})
    )
    pixels = read_roi(path).pixels(20, 30)
    assert pixels.sum() == 100 - 9
    assert not pixels[3, 3]
    assert pixels[0, 0]
    mask = np.zeros((20, 30), np.uint8)
    mask[5:, 5:] = 7
    Image.fromarray(mask).save(tmp_path / "mask.png")
    roi = read_roi(tmp_path / "mask.png")
    assert np.array_equal(roi.pixels(20, 30), mask > 0)
    with pytest.raises(ImageError, match="30×21 pixels, the region of interest is for 30×20"):
        roi.pixels(21, 30)
    both = roi & read_roi(path)
    assert np.array_equal(both.pixels(20, 30), pixels & (mask > 0))
    assert RegionOfInterest.of(json.loads(json.dumps(both.state()))) == both
    assert roi & roi == roi
    with pytest.raises(ImageError, match="wholly outside"):
        LEFT.__class__(include=(((50, 50), (60, 50), (60, 60)),)).pixels(20, 30)
    other = RegionOfInterest(include=LEFT.include[:1])
    sized = RegionOfInterest(include=(((20, 0), (90, 0), (90, 95), (20, 95)),), size=(96, 128))
    assert (sized & other).pixels(96, 128).sum() == 36 * 96
    with pytest.raises(OptionError, match="go together"):
        RegionOfInterest(include=sized.include) & other


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "a region of interest in JSON is"),
        ("a.json", '{"polygons": []}', "does not know polygons"),
        ("a.json", '{"include": [[[1, 2], [3, 4]]]}', "at least three corners"),
        ("a.json", "{}", "names no polygon"),
        ("a.json", "[1]", "a region of interest in JSON is"),
        ("a.png", "no image", "cannot be read as a mask image"),
    ],
)
def test_files_that_are_no_region(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OptionError, match=words):
        read_roi(tmp_path / name)
    with pytest.raises(OptionError, match="no such region"):
        read_roi(tmp_path / "nothing.png")
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    with pytest.raises(OptionError, match="black everywhere"):
        read_roi(tmp_path / "black.png")


@pytest.mark.parametrize("method", list(OF_PICTURES))
def test_what_lies_outside_does_not_count(method: str, tmp_path: Path) -> None:
    """Neither for the score, nor the map, the regions or the threshold, whatever the method."""
    model: Detector = METHODS[method](image_size=96, roi=LEFT).fit(GOOD)
    good, bad = model.predict(good_image(40)), model.predict(np.where(_right(), bad_image(40), good_image(40)))
    if model.localizes:
        assert np.isnan(good.map[:, 56:]).all()
        assert np.isfinite(good.map[:, :56]).all()
    spot = good_image(40)
    spot[40:60, 20:40] = (250, 40, 40)
    inside = model.predict(spot)
    assert inside.is_anomalous
    assert bad.score == good.score  # exactly
    assert np.array_equal(bad.map, good.map, equal_nan=True)
    for region in inside.regions:
        assert region.box[2] <= 56
    model.save(tmp_path / "m.patchbank")
    again = load(tmp_path / "m.patchbank")
    assert again.inputs_.roi == LEFT
    assert again.predict(spot).score == inside.score


def _right() -> np.ndarray:
    return np.broadcast_to((np.arange(128) >= 56)[None, :, None], (96, 128, 3))


def test_a_bank_learns_inside_only() -> None:
    model = small_model(roi=LEFT).fit(GOOD)
    assert (model.bank_.provenance[:, 2] <= 55 * 16 // 128).all()
    whole = small_model().fit(GOOD)
    assert model.training_["patches"] == whole.training_["patches"] * 7 // 16
    # provenance points at the patches that the vectors are
    item = next(model.extractor.stream(gather(GOOD[2])))
    of_image = model.bank_.provenance[:, 0] == 2
    places = model.bank_.provenance[of_image, 1:]
    cell = np.cumsum(item.inspected.ravel()) - 1  # type: ignore[union-attr]
    vectors = (item.vectors * model.scorer.balance)[[cell[row * item.grid[1] + column] for row, column in places]]
    assert torch.allclose(vectors, model.bank_.vectors[torch.from_numpy(of_image)], atol=1e-5)


def test_the_whole_image_as_region_changes_nothing() -> None:
    everything = RegionOfInterest(include=(((0, 0), (127, 0), (127, 95), (0, 95)),))
    image = bad_image(3)
    for method in OF_PICTURES:
        a = METHODS[method](image_size=96, roi=everything).fit(GOOD).predict(image)
        b = METHODS[method](image_size=96).fit(GOOD).predict(image)
        assert a.score == pytest.approx(b.score, rel=1e-4), method
        assert np.allclose(a.map, b.map, rtol=1e-4, atol=1e-4, equal_nan=True), method


def test_a_region_given_later_restricts(tmp_path: Path) -> None:
    model = small_model().fit(GOOD)
    image, threshold = bad_image(3), model.calibration_.threshold
    assert model.predict(image).is_anomalous
    whole = model.predict(image)
    restricted = model.restrict(LEFT).predict(image)
    assert restricted.score < whole.score
    assert all(region.box[2] <= 56 for region in restricted.regions)
    assert restricted.threshold == threshold
    with pytest.raises(ValueError, match="outside the inspected part"):
        restricted.nearest(100, 10)
    assert restricted.nearest(10, 10).distance >= 0
    assert model.explain(image).places[0].x < 56
    with pytest.raises(OptionError, match="whole images only"):
        METHODS["mahalanobis"](image_size=96).fit(GOOD).restrict(LEFT)
    with pytest.raises(OptionError, match="100,10 is not inspected"):
        model.explain(image, at=(100, 10))


def test_the_gaussian_is_normalised_at_the_border() -> None:
    distances = torch.full((8, 8), 3.0)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:, :4] = True
    smoothed = anomaly_map(distances, (64, 64), 6.0, inside)
    assert np.allclose(smoothed[:, :32], 3.0, atol=1e-4)  # and not 1.5 at the border
    distances[:, 4:] = 100.0
    assert np.allclose(anomaly_map(distances, (64, 64), 6.0, inside), smoothed)


def test_images_that_do_not_fit_the_region_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.full((96, 128), 255, np.uint8)).save(tmp_path / "mask.png")
    heard: list[str] = []
    model = small_model(roi=str(tmp_path / "mask.png"))
    model.fit([*GOOD, good_image(9, (64, 64))], on_error=lambda name, error: heard.append(str(error)))
    assert heard == ["image 6: has 64×64 pixels, the region of interest is for 128×96"]
    assert model.training_["unreadable"] == 1
    with pytest.raises(ImageError, match="is for 128×96"):
        model.predict(good_image(9, (64, 64)))


def test_turned_images_and_ensembles_have_it_too() -> None:
    turned = small_model(augment="rotations", roi=LEFT, bank_size=200).fit(GOOD[:2])
    assert turned.predict(bad_image(3)).score < turned.calibration_.threshold * 1.2
    both = PatchCore(backbone=["efficientnet_lite0", "efficientnet_lite1"], image_size=96, roi=LEFT).fit(GOOD)
    assert isinstance(both, Ensemble)
    assert np.isnan(both.predict(bad_image(3)).map[:, 56:]).all()
    with pytest.raises(OptionError, match="foreground does not go with a region"):
        AnomalyDINO(image_size=96, roi=LEFT, foreground=True).fit(GOOD)


def test_a_living_bank_keeps_its_region() -> None:
    model = small_model(roi=LEFT).fit(GOOD)
    model.add([good_image(50)])
    assert (model.bank_.provenance[:, 2] <= 7).all()
    assert model.bank_.refs[-1].name == "image 0 (2)"  # another image than the first
