"""The state of a detector cannot tear, and a detector changes nothing but itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchbank import AnomalyDINO, Ensemble, PaDiM, PatchCore
from patchbank.audit import audit
from patchbank.calibration.calibration import Calibration, Row
from patchbank.detector import Detector
from patchbank.errors import OptionError, PatchbankError
from patchbank.methods import METHODS
from tests.conftest import OF_PICTURES, bad_image, good_image

SIZE = (64, 96)
GOOD = [good_image(i, SIZE) for i in range(6)]
OTHERS = [good_image(100 + i, SIZE) for i in range(6)]
SMALL: dict[str, Any] = {"image_size": 64, "threads": 1, "thumbnails_mb": 0.0}


class Stop(KeyboardInterrupt):
    pass


def stopping_at(stage: str) -> Callable[[str, int, int], None]:
    def progress(reached: str, done: int, total: int) -> None:
        if reached == stage:
            raise Stop

    return progress


# ---- a fit is all or nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(OF_PICTURES))
@pytest.mark.parametrize("stage", ["features", "calibration"])
def test_an_interrupted_second_fit_changes_nothing(method: str, stage: str) -> None:
    model = METHODS[method](**SMALL).fit(GOOD)
    before, fitted = model.predict(bad_image(0, SIZE)), model.fitted
    with pytest.raises(Stop):
        model.fit(OTHERS, progress=stopping_at(stage))
    assert model.fitted is fitted
    assert model.predict(bad_image(0, SIZE)) == before


def test_a_second_fit_that_fails_changes_nothing() -> None:
    model = PaDiM(**SMALL).fit(GOOD)
    before = model.predict(bad_image(0, SIZE))
    with pytest.raises(PatchbankError):
        model.fit([*OTHERS, good_image(0, (64, 160))])
    assert model.predict(bad_image(0, SIZE)) == before


def test_an_interrupted_fit_of_an_ensemble_changes_no_member() -> None:
    model = Ensemble(members=[PatchCore(**SMALL), PaDiM(**SMALL)]).fit(GOOD)
    before, seen = model.predict(bad_image(0, SIZE)), 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal seen
        seen += stage == "features" and done == total
        if seen > 1:  # the first member is fitted, and the second on its way
            raise Stop

    with pytest.raises(Stop):
        model.fit(OTHERS, progress=progress)
    assert model.predict(bad_image(0, SIZE)) == before


@pytest.mark.parametrize("change", ["add", "forget", "merge", "calibrate"])
def test_a_change_that_fails_changes_nothing(change: str) -> None:
    model = PatchCore(**SMALL).fit(GOOD)
    fitted = model.fitted
    attempts: dict[str, Callable[[], object]] = {
        "add": lambda: model.add(GOOD[0]),
        "forget": lambda: model.forget(["image 1", "no such image"]),
        "merge": lambda: model.merge(PatchCore(**SMALL).fit(OTHERS), PatchCore(**SMALL | {"sigma": 3.0}).fit(OTHERS)),
        "calibrate": lambda: model.calibrate(GOOD),
    }
    with pytest.raises(OptionError):
        attempts[change]()
    assert model.fitted is fitted


# ---- options are those that were given -------------------------------------------------------------------------------


def test_options_of_an_ensemble_go_to_its_members() -> None:
    members = [PatchCore(**SMALL), PaDiM(**SMALL)]
    model = Ensemble(members=members, false_alarm_rate=0.2, value_range=(0, 200))
    assert [m.false_alarm_rate for m in (model, *model.members)] == [0.2, 0.2, 0.2]
    assert [m.value_range for m in model.members] == [(0, 200), (0, 200)]
    assert [m.false_alarm_rate for m in members] == [0.01, 0.01]  # what was given stays as it is
    assert model.fit(GOOD).calibration_.false_alarm_rate == 0.2


def test_members_that_differ_are_no_ensemble() -> None:
    with pytest.raises(OptionError, match="differ in false_alarm_rate"):
        Ensemble(members=[PatchCore(false_alarm_rate=0.05), PaDiM()])
    with pytest.raises(OptionError, match="no option coreset"):
        Ensemble(members=[PatchCore(), PaDiM()], coreset=0.1)


@pytest.mark.parametrize("several", [False, True])
def test_explain_takes_one_image(several: bool) -> None:
    members: list[Detector] = [PatchCore(**SMALL), PaDiM(**SMALL)]
    model = (Ensemble(members=members) if several else members[0]).fit(GOOD)
    with pytest.raises(OptionError, match="explain takes one image, not 2"):
        model.explain([bad_image(0, SIZE), bad_image(1, SIZE)])


def test_an_audit_leaves_its_detector_alone() -> None:
    given = PatchCore(**SMALL, calibration="k-fold")
    found = audit(GOOD, given, duplicates=False)
    assert given.calibration == "k-fold"
    assert not given.is_fitted
    assert found.model.is_fitted


def test_explanations_and_maps_give_one_distance() -> None:
    model = AnomalyDINO(**SMALL).fit(GOOD)
    place = model.explain(bad_image(0, SIZE), count=1).places[0]
    prediction = model.predict(bad_image(0, SIZE))
    assert place.neighbours[0].distance == pytest.approx(prediction.nearest(place.x, place.y).distance, rel=1e-5)


@pytest.mark.parametrize("infinite", [0, 1, 5])
def test_infinite_scores_decide_nothing(infinite: int) -> None:
    """Threshold and p-value agree, as without them."""
    rng = np.random.default_rng(0)
    rows = [Row(str(i), score, score) for i, score in enumerate([*rng.normal(10, 1, 40), *[np.inf] * infinite])]
    calibration = Calibration.of_rows(rows, 0.1)
    assert calibration.threshold == Calibration.of_rows(rows[:40], 0.1).threshold
    for score in (*rng.normal(11, 1, 50), calibration.threshold, np.inf):
        assert (score > calibration.threshold) == (calibration.p_value(score) <= 0.1)


# ---- the host process ------------------------------------------------------------------------------------------------

_HOST = """
import json, logging, os, sys
import cv2, numpy as np, torch
torch.set_num_threads(2)
cv2.setNumThreads(2)
def state():
    loggers = {name: logging.getLogger(name).level for name in ("", "openvino", "torch", "onnx")}
    return {
        "environment": dict(os.environ), "torch": torch.get_num_threads(), "opencv": cv2.getNumThreads(),
        "levels": loggers, "random": torch.random.get_rng_state().sum().item(),
        "telemetry": sys.modules.get("openvino_telemetry", 0) is None,
    }
before = state()
import patchbank
from patchbank.export import export
images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8) for i in range(4)]
model = patchbank.PatchCore(image_size=64, threads=1).fit(images)
model.save(sys.argv[1] + "/m.patchbank")
loaded = patchbank.load(sys.argv[1] + "/m.patchbank", threads=1)
loaded.predict(images[0])
frames = loaded.predict_many(iter(images))
next(frames)
between = state()
list(frames)
export(model, sys.argv[1] + "/out", to="openvino", images=images)
print(json.dumps([before, between, state()]))
"""


def test_the_host_process_stays_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _HOST, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, between, after = json.loads(done.stdout.splitlines()[-1])
    assert between == before
    assert after == before


# ---- several models --------------------------------------------------------------------------------------------------

MERGEABLE = [name for name, kind in OF_PICTURES.items() if hasattr(kind.scorer_class, "merge") and name != "lmf"]


@pytest.mark.parametrize("method", MERGEABLE)
def test_merged_models_know_the_images_of_all(method: str) -> None:
    """About as a fit to all images; the defect is found."""
    options = {"n_features": 20} if method == "padim" else {}
    three = [METHODS[method](**SMALL, **options) for _ in range(3)]
    sets = [GOOD[:4], [*GOOD[4:], *OTHERS[:2]], OTHERS[2:]]
    one, two, other = (model.fit(images) for model, images in zip(three, sets, strict=True))
    merged = one.merge(two, other)
    assert merged is one
    assert merged.training_["images"] == 12
    assert len(merged.calibration_) == 12
    whole = METHODS[method](**SMALL, **options).fit([image for images in sets for image in images])
    good, bad = good_image(300, SIZE), bad_image(300, SIZE)
    assert merged.predict(bad).score == pytest.approx(whole.predict(bad).score, rel=0.25)
    assert merged.predict(bad).score > merged.predict(good).score
    assert merged.history[-1]["what"] == "merged"


@pytest.mark.parametrize(
    ("method", "options"),
    [*(("padim", {"covariance": kind}) for kind in ("full", "diagonal", "tied")), ("subspace", {})],
)
def test_merged_statistics_are_those_of_all_images(method: str, options: dict[str, Any]) -> None:
    more = {"n_features": 12} if method == "padim" else {}
    one, two, whole = (
        METHODS[method](**SMALL, **options, **more).fit(images) for images in (GOOD, OTHERS, [*GOOD, *OTHERS])
    )
    one.merge(two)
    for image in (good_image(300, SIZE), bad_image(300, SIZE)):
        assert one.predict(image).score == pytest.approx(whole.predict(image).score, rel=1e-2)


def test_a_merged_model_can_be_saved_and_merged_again(tmp_path: Path) -> None:
    import patchbank

    one, two, three = (PaDiM(**SMALL, n_features=12).fit(images) for images in (GOOD[:3], GOOD[3:], OTHERS))
    one.merge(two).save(tmp_path / "m.patchbank")
    again = patchbank.load(tmp_path / "m.patchbank", threads=1)
    again.merge(three)
    assert again.training_["images"] == 12
    assert again.predict(bad_image(1, SIZE)).score > again.predict(good_image(301, SIZE)).score


def test_methods_that_cannot_be_merged_say_so() -> None:
    model = METHODS["mahalanobis"](**SMALL).fit(GOOD)
    with pytest.raises(OptionError, match="cannot be merged: fit a new model"):
        model.merge(model)
    with pytest.raises(OptionError, match="at least one other"):
        PatchCore(**SMALL).fit(GOOD).merge()
