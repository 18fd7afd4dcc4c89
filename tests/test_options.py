"""An option without effect on a method is refused there, and has none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchbank
from patchbank.cli.detectors import make_detector, maker_for
from patchbank.detector import Detector
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.methods import METHODS, Ensemble
from tests.conftest import OF_PICTURES, bad_image, good_image

SMALL: dict[str, Any] = {"image_size": 64, "threads": 1, "thumbnails_mb": 0.0}
GOOD = [good_image(i) for i in range(5)]
SEEN = [bad_image(60), good_image(50)]
OTHER: dict[str, Any] = {
    "aggregation": "reference", "patch_size": 5, "stride": 2, "overlap": 64, "image_score": "top", "sigma": 2.5,
    "position_scale": True,
}  # fmt: skip
DECLARED = [(method, name) for method, detector in OF_PICTURES.items() for name in sorted(detector.without_effect)]


def small(method: str, **options: Any) -> Detector:
    return METHODS[method](**SMALL | options)


@pytest.mark.parametrize(("method", "name"), DECLARED)
def test_an_option_without_effect_is_refused(method: str, name: str) -> None:
    assert name in METHODS[method].parameter_names()
    with pytest.raises(OptionError, match=f"^{name} has no effect on {method}: leave it out$"):
        small(method, **{name: OTHER[name]}).fit(GOOD)
    usual = small(method).parameters()  # which has what is in effect anyway
    small(method, **{name: usual[name]}).check()


@pytest.mark.parametrize("method", sorted({method for method, _ in DECLARED}))
def test_what_is_refused_has_no_effect(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declared, path = METHODS[method].without_effect, tmp_path / "m.patchbank"
    if "image_score" in declared:  # with another one there is no position scale to give
        declared -= {"position_scale"}
    plain = small(method).fit(GOOD)
    expected = [plain.predict(image) for image in SEEN]
    with monkeypatch.context() as patched:
        patched.setattr(METHODS[method], "without_effect", frozenset())
        other = small(method, **{name: OTHER[name] for name in declared}).fit(GOOD)
        found = [other.predict(image) for image in SEEN]
        other.save(path)
    loaded = patchbank.load(path, threads=1)  # files of versions that took these options
    for prediction in (found, [loaded.predict(image) for image in SEEN]):
        assert [p.score for p in prediction] == [p.score for p in expected]
        assert all(np.array_equal(p.map, e.map, equal_nan=True) for p, e in zip(prediction, expected, strict=True))
    assert np.array_equal(other.calibration_.scores, plain.calibration_.scores)
    assert not {name for name in declared if loaded.parameters()[name] == OTHER[name]}


def test_a_file_of_an_ensemble_whose_member_has_such_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.patchbank"
    with monkeypatch.context() as patched:
        patched.setattr(METHODS["spade"], "without_effect", frozenset())
        model = Ensemble(members=[small("spade", image_score="max"), small("patchcore", image_score="max")]).fit(GOOD)
        model.save(path)
    loaded = patchbank.load(path, threads=1)
    assert [part.image_score for part in loaded.parts()] == [None, "max"]
    assert loaded.predict(SEEN[0]).score == model.predict(SEEN[0]).score


def test_several_methods_take_what_they_have() -> None:
    given = {"coreset": 0.2, "image_size": 64, "bank_mb": None}
    with pytest.warns(PatchbankWarning) as heard:
        make = maker_for(["patchcore", "mahalanobis", "spade"], given, ["sigma=2", "x=v", "image_score=max"])
    assert sorted(str(w.message) for w in heard) == [
        "--coreset-ratio: left out for mahalanobis, spade, where it has no effect",
        "--set image_score: left out for mahalanobis, spade, where it has no effect",
        "--set sigma: left out for mahalanobis, where it has no effect",
    ]
    with pytest.raises(OptionError, match="--set x: patchcore has no such option"):  # no method has it
        make("patchcore", given)
    with pytest.warns(PatchbankWarning):
        make = maker_for(["patchcore", "mahalanobis", "spade"], given, ["sigma=2"])
    made = [make(method, given) for method in ("patchcore", "mahalanobis", "spade")]
    assert [(getattr(m, "coreset", None), m.sigma, m.image_size) for m in made] == [
        (0.2, 2.0, 64), (None, None, 64), (None, 2.0, 64),
    ]  # fmt: skip
    for model in made:
        model.check()


def test_one_method_must_take_all_that_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make = maker_for(["mahalanobis"], {"coreset": 0.2}, ["sigma=2"])
    with pytest.raises(OptionError, match="--coreset-ratio: mahalanobis has no such option"):
        make("mahalanobis", {"coreset": 0.2})
    with pytest.raises(OptionError, match=r"^sigma has no effect on mahalanobis: leave it out$"):
        make("mahalanobis", {}).check()


def test_what_was_meant_by_a_misspelt_name() -> None:
    with pytest.raises(OptionError, match=r"^--methods must be one of .*, not 'padlm'; did you mean padim\?$"):
        maker_for(["padlm"], {}, None)
    with pytest.raises(OptionError, match=r"^--method must be one of .*, not 'patchcor'; did you mean patchcore\?$"):
        make_detector("patchcor", None)
    with pytest.raises(OptionError, match=r"^method must be one of .*, not 'patchcor'; did you mean patchcore\?$"):
        patchbank.create("patchcor")
    with pytest.raises(
        OptionError, match=r"^--set neighbors: patchcore has no such option; did you mean neighbours\?$"
    ):
        make_detector("patchcore", ["neighbors=3"])
    with pytest.raises(OptionError, match=r"not 'magic'$"):
        patchbank.create("magic")
