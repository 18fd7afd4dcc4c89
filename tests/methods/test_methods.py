"""Every method keeps the contract of a detector."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchbank
from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, MemoryBudgetError, OptionError
from patchbank.methods import METHODS
from tests.conftest import OF_PICTURES, bad_image, good_image

NAMES = tuple(OF_PICTURES)
GOOD = [good_image(i) for i in range(6)]


def small(method: str, **options: object) -> Detector:
    return METHODS[method](**{"image_size": 96, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Detector:
    return small(request.param).fit(GOOD)


def test_good_and_bad_are_told_apart(model: Detector) -> None:
    good = [model.predict(good_image(50 + i)) for i in range(3)]
    bad = [model.predict(bad_image(60 + i)) for i in range(3)]
    assert max(p.score for p in good) < min(p.score for p in bad)
    for prediction in bad:
        assert prediction.is_anomalous
        assert prediction.map.shape == (96, 128)
        if not model.localizes:
            assert np.isnan(prediction.map).all()
            assert prediction.regions == ()
            continue
        y, x = np.unravel_index(np.nanargmax(prediction.map), prediction.map.shape)
        assert 36 <= y < 64
        assert 66 <= x < 94
        left, top, right, bottom = prediction.regions[0].box
        assert left < 80 < right
        assert top < 50 < bottom


def test_calibration_scores_look_like_those_of_new_good_images(model: Detector) -> None:
    new = [model.predict(good_image(70 + i)).score for i in range(6)]
    held_out = model.calibration_.scores
    assert np.isfinite(held_out).all()
    spread = max(float(np.ptp(new)), float(np.ptp(held_out)))
    bad = model.predict(bad_image(60)).score
    assert abs(np.median(new) - np.median(held_out)) < max(spread, 0.2 * (bad - np.median(new)))


def test_a_loaded_model_predicts_the_same(model: Detector, tmp_path: Path) -> None:
    model.save(tmp_path / "a.patchbank")
    loaded = patchbank.load(tmp_path / "a.patchbank")
    assert type(loaded) is type(model)
    for image in (bad_image(60), good_image(50)):
        one, other = model.predict(image), loaded.predict(image)
        assert one.score == other.score
        assert np.array_equal(one.map, other.map, equal_nan=True)
        assert one.p_value == other.p_value
    loaded.save(tmp_path / "b.patchbank")
    assert (tmp_path / "a.patchbank").read_bytes() == (tmp_path / "b.patchbank").read_bytes()


def test_a_refit_is_identical(model: Detector, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        again = small(model.method).fit(GOOD)
        again.training_ |= {"fit_seconds": {}, "history": []}
        again.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert np.array_equal(again.calibration_.scores, model.calibration_.scores)


def test_nearest_or_a_reason(model: Detector) -> None:
    prediction = model.predict(bad_image(60))
    if model.keeps_patches:
        neighbour = prediction.nearest(80, 50)
        assert neighbour.image.startswith("image ")
        left, top, right, bottom = neighbour.box
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 96
        assert neighbour.distance > 0
    else:
        with pytest.raises(ValueError, match="keeps no training patches"):
            prediction.nearest(80, 50)


def test_the_memory_has_a_size(model: Detector) -> None:
    assert model.memory_mb > 0
    assert model.training_["memory_mb"] == model.memory_mb
    assert model.memory_vectors is None or model.memory_vectors > 0


@pytest.mark.parametrize("method", NAMES)
def test_one_image_gives_no_threshold(method: str) -> None:
    model = small(method).fit(GOOD[:1])
    prediction = model.predict(bad_image(60))
    assert np.isfinite(prediction.score)
    assert model.calibration_.threshold == np.inf
    assert not prediction.is_anomalous


@pytest.mark.parametrize("method", NAMES)
def test_two_images_tell_good_from_bad(method: str) -> None:
    model = small(method).fit(GOOD[:2])
    assert np.isfinite(model.calibration_.scores).all()
    assert model.predict(good_image(50)).score < model.predict(bad_image(60)).score


@pytest.mark.parametrize("method", NAMES)
def test_images_of_another_shape(method: str) -> None:
    """Methods that compare positions say what to do; the others take them."""
    wide = np.hstack([GOOD[0], GOOD[1]])
    if method != "padim":
        model = small(method).fit([*GOOD[:3], wide])
        assert model.predict(wide).map.shape == (96, 256)
        return
    with pytest.raises(DatasetError, match="geometry=paper"):
        small(method).fit([*GOOD[:3], wide])
    model = small(method).fit(GOOD[:3])
    with pytest.raises(ImageError, match="geometry"):
        model.predict(wide)
    failed = []
    found = list(model.predict_many([GOOD[0], wide, GOOD[1]], on_error=lambda name, error: failed.append(name)))
    assert len(found) == 2
    assert len(failed) == 1
    assert np.isfinite(small(method, geometry="paper").fit([*GOOD[:3], wide]).predict(wide).score)


@pytest.mark.parametrize("method", NAMES)
def test_an_unreadable_image_does_not_end_a_fit(method: str, tmp_path: Path) -> None:
    for i, image in enumerate(GOOD[:4]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = small(method).fit(tmp_path)
    assert any("1.png" in str(w.message) for w in caught)
    assert len(model.calibration_.scores) == 3
    assert np.isfinite(model.calibration_.scores).all()


@pytest.mark.parametrize("method", NAMES)
def test_what_does_not_fit_into_memory_is_refused(method: str) -> None:
    with pytest.raises(MemoryBudgetError, match="image"):
        small(method, memory_budget=1000).fit(GOOD[:2])


@pytest.mark.parametrize("method", ["patchcore", "spade"])  # on one grid, and each level on its own
def test_two_levels_of_a_resnet(method: str) -> None:
    model = small(method, backbone="resnet18", weights="random", levels=(2, 3)).fit(GOOD[:3])
    assert model.predict(good_image(50)).score < model.predict(bad_image(60)).score


@pytest.mark.parametrize("method", NAMES)
def test_what_is_written_about_a_method(method: str) -> None:
    detector = METHODS[method]
    assert detector.summary
    assert detector.needs
    documented = "".join(inspect.getdoc(c) or "" for c in detector.__mro__ if issubclass(c, Detector) or c.__doc__)
    for name in detector.parameter_names():
        assert name in documented, f"{method}: the option {name} is not described"


def test_options_that_make_no_sense_are_refused() -> None:
    wrong = {
        "padim": [{"covariance": "round"}, {"n_features": 0}],
        "fapm": [{"coreset": 0.0}, {"adaptive_threshold": 2.0}, {"adaptive_threshold_unit": "mile"},
                 {"regions": 0}, {"search_radius": -1}, {"level_weights": (1.0,)},
                 {"stride": 2}, {"aggregation": "reference"}],
        "lmf": [{"channel_share": 0.0}, {"projection": -1}, {"level_fusion": "mean"}, {"sampler": "identity"},
                {"coreset": "stream"}, {"bank_size": 5, "coreset": 0.1}, {"aggregation": "reference"}],
        "spade": [{"k": 0}, {"bank_dtype": "int8"}, {"stride": 2}],
        "subspace": [{"variance": 1.0}],
    }  # fmt: skip
    for method, cases in wrong.items():
        for options in cases:
            with pytest.raises(OptionError):
                small(method, **options).fit(GOOD[:2])
