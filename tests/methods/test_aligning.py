"""Detectors that lay images over a reference: predictions in input pixels, whatever the pose."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from patchbank import Ensemble, PaDiM, PatchCore, load
from patchbank.audit import audit
from patchbank.data import RegionOfInterest
from patchbank.demo.synthetic import draw
from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.methods import METHODS
from tests.conftest import OF_PICTURES

GOOD = [draw("gear", None, np.random.default_rng(i))[0] for i in range(6)]
WEAVE = draw("weave", None, np.random.default_rng(0))[0]
POSE = cv2.getRotationMatrix2D((159.5, 127.5), 12, 1.0) + np.array([[0, 0, 14], [0, 0, -9]])
SPOT = (slice(110, 140), slice(60, 90))  # on the gear's face


def spotted(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[SPOT] = (250, 30, 200)
    return image


def posed(image: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, POSE, (320, 256), borderMode=cv2.BORDER_REPLICATE)


def model(method: str = "patchcore", **options: object) -> Detector:
    return METHODS[method](image_size=96, align=True, **options)


@pytest.mark.parametrize("method", [name for name, detector in OF_PICTURES.items() if detector.scorer_class.localizes])
def test_a_defect_is_found_where_it_is_in_the_input(method: str, tmp_path: Path) -> None:
    detector = model(method).fit(GOOD)
    image = posed(spotted(draw("gear", None, np.random.default_rng(50))[0]))
    x, y = POSE @ [75, 125, 1]  # the middle of the spot
    found = detector.predict(image)
    assert found.map.shape == (256, 320)
    peak_y, peak_x = np.unravel_index(np.nanargmax(found.map), found.map.shape)
    assert np.hypot(peak_x - x, peak_y - y) < 25
    assert 0.02 < np.isnan(found.map).mean() < 0.3  # what the reference does not show
    if found.is_anomalous:
        left, top, right, bottom = max(found.regions, key=lambda r: r.score).box
        assert left <= x <= right
        assert top <= y <= bottom
    detector.save(tmp_path / "m.patchbank")
    again = load(tmp_path / "m.patchbank")
    assert again.inputs_.reference is not None
    assert again.inputs_.reference.name == detector.inputs_.reference.name  # type: ignore[union-attr]
    assert again.predict(image).score == found.score
    assert np.array_equal(again.predict(image).map, found.map, equal_nan=True)


def test_neighbours_lie_in_the_training_images_own_pixels() -> None:
    """One image is learned in many poses: what it is compared with is the same place of the part."""
    shifts = (-24, -12, 0, 12, 24)
    moved = [np.roll(GOOD[0], shift, axis=1) for shift in shifts]
    detector = model(bank_size=200).fit(moved)
    assert detector.inputs_.reference.name == "image 2"  # type: ignore[union-attr]
    found = detector.predict(GOOD[0])
    for x, y in ((100, 100), (160, 60), (200, 150)):
        neighbour = found.nearest(x, y)
        left, top, right, bottom = neighbour.box
        shift = shifts[int(neighbour.image.split()[1])]
        assert abs((left + right) / 2 - x - shift) < 30
        assert abs((top + bottom) / 2 - y) < 30
    place = detector.explain(GOOD[0], at=(160, 60)).places[0]
    assert place.box[0] <= 160 < place.box[2]
    assert place.neighbours


def test_what_cannot_be_aligned_is_named_and_the_rest_goes_on() -> None:
    heard: list[str] = []
    detector = model(bank_size=100).fit([*GOOD, WEAVE], on_error=lambda name, error: heard.append(str(error)))
    assert len(heard) == 1
    assert heard[0].startswith("image 6: cannot be aligned with the reference image ")
    assert detector.training_["images"] == 6
    assert detector.training_["unreadable"] == 1
    with pytest.raises(ImageError, match="cannot be aligned"):
        detector.predict(WEAVE)
    heard.clear()
    found = list(detector.predict_many([WEAVE, GOOD[0]], on_error=lambda name, error: heard.append(name)))
    assert [p.path for p in found] == ["image 1"]
    assert heard == ["image 0"]
    with pytest.raises(DatasetError, match="none of the 3 images could be aligned with image"):
        model().fit([np.full((64, 64), grey, np.uint8) for grey in (0, 1, 2)], on_error=lambda name, error: None)


def test_images_of_other_sizes_come_to_one_grid() -> None:
    """padim compares position by position: aligned, it takes images of any shape."""
    other = cv2.resize(GOOD[1][8:248, 16:304], None, fx=1.3, fy=1.3)
    with pytest.raises(DatasetError, match="has a grid of"):
        PaDiM(image_size=96).fit([*GOOD, other[:, 40:]])
    detector = model("padim").fit([*GOOD, other])
    assert detector.training_["images"] == 7
    assert detector.predict(other).map.shape == other.shape[:2]


def test_a_region_of_interest_goes_with_the_part() -> None:
    """It is drawn in the reference: the spot lies outside it in any pose."""
    roi = RegionOfInterest(include=(((150, 0), (319, 0), (319, 255), (150, 255)),))
    detector = model(bank_size=200, roi=roi).fit(GOOD)
    image = draw("gear", None, np.random.default_rng(50))[0]
    found = detector.predict(posed(image))
    with_spot = detector.predict(posed(spotted(image)))
    x, y = POSE @ [75, 125, 1]
    assert np.isnan(with_spot.map[round(y), round(x)])
    assert with_spot.score == pytest.approx(found.score, rel=0.05)
    restricted = model(bank_size=200).fit(GOOD).restrict(roi).predict(posed(spotted(image)))
    assert np.isnan(restricted.map[round(y), round(x)])


def test_tiles_and_ensembles_are_aligned_too(tmp_path: Path) -> None:
    image = posed(spotted(GOOD[0]))
    x, y = POSE @ [75, 125, 1]
    tiled = PatchCore(tile=128, overlap=64, bank_size=200, align=True).fit(GOOD[:4])
    both = PatchCore(backbone=["efficientnet_lite0", "efficientnet_lite1"], image_size=96, bank_size=200, align=True)
    both = both.fit(GOOD)
    assert isinstance(both, Ensemble)
    both.save(tmp_path / "both.patchbank")
    for detector in (tiled, both, load(tmp_path / "both.patchbank")):
        found = detector.predict(image)
        peak_y, peak_x = np.unravel_index(np.nanargmax(found.map), found.map.shape)
        assert np.hypot(peak_x - x, peak_y - y) < 25
        assert np.isnan(found.map).any()


def test_living_banks_keep_their_reference() -> None:
    detector = model(bank_size=100).fit(GOOD)
    name = detector.inputs_.reference.name  # type: ignore[union-attr]
    detector.add([posed(draw("gear", None, np.random.default_rng(60))[0])])
    assert detector.inputs_.reference.name == name  # type: ignore[union-attr]
    assert len(detector.bank_.refs[-1].alignment) == 6  # type: ignore[attr-defined]
    detector.calibrate([draw("gear", None, np.random.default_rng(i))[0] for i in (70, 71)])
    assert len(detector.calibration_) == 2
    with pytest.raises(OptionError, match="aligned with different references"):
        detector.merge(model(bank_size=100).fit(GOOD[3:] + GOOD[:1] + [posed(GOOD[2])]))
    with pytest.raises(OptionError, match="align is True in one, False in the other"):
        detector.merge(PatchCore(image_size=96, bank_size=100).fit(GOOD))
    same = model(bank_size=100).fit(GOOD)
    with pytest.raises(OptionError, match="has learned from all images of the other"):
        detector.merge(same)
    assert same.inputs_.reference.same_as(detector.inputs_.reference)  # type: ignore[union-attr]


def test_an_audit_names_what_cannot_be_aligned(tmp_path: Path) -> None:
    for i, image in enumerate([*GOOD, WEAVE]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = audit(tmp_path, PatchCore(image_size=96, bank_size=100, align=True), on_error=lambda name, error: None)
    assert len(found.ranked) == 6
    assert [Path(name).name for name, _ in found.unreadable] == ["6.png"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("mahalanobis", {}, "wherever the part lies: leave out align"),
        ("patchcore", {"augment": "rotations"}, "leave out augment"),
        ("anomalydino", {"foreground": True}, "leave out foreground"),
        ("subspace", {"augment": "rotations"}, "leave out augment"),
    ],
)
def test_what_does_not_go_with_it(method: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        model(method, **options).fit(GOOD)
