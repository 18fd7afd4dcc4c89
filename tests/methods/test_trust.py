"""What the threshold promises holds for how people take pictures: copies, bursts, false alarms that were taught."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import PaDiM, PatchCore, load
from patchbank.calibration.calibration import CORRECTED
from patchbank.data import Sample, gather
from patchbank.detector import Detector
from patchbank.errors import OptionError, PatchbankWarning, warn
from patchbank.features.store import FeatureStore
from patchbank.methods import METHODS
from patchbank.methods.patchcore import PatchCoreScorer
from patchbank.pictures.explanation import finder_of
from tests.conftest import OF_PICTURES, bad_image, good_image, small_model

SIZE = (64, 64)
PARTS = [good_image(i, SIZE) for i in range(12)]


def shot(image: np.ndarray, number: int) -> np.ndarray:
    """Another picture of the same part: noise and a little more light."""
    rng = np.random.default_rng(number)
    return np.clip(image * (1 + 0.01 * number) + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


BURSTS = [shot(image, number) for image in PARTS for number in range(3)]
LABELS = [part for part in range(len(PARTS)) for _ in range(3)]


def detector(method: str, **options: Any) -> Detector:
    of_method: dict[str, Any] = {"spade": {"k": 3}, "lmf": {"normalise": False}}.get(method, {})
    made: Detector = METHODS[method](image_size=64, **of_method, **options)
    return made


# ---- taught false alarms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 20])
def test_taught_false_alarms_are_accepted_and_change_nothing_for_others(count: int) -> None:
    model = small_model(image_size=64, false_alarm_rate=0.1).fit([good_image(i, SIZE) for i in range(20)])
    defective = [bad_image(100 + i, (96, 128))[32:, 40:104] for i in range(6)]
    good = [good_image(200 + i, SIZE) for i in range(6)]
    alarms = []
    for i in range(count):
        alarm = good_image(300 + i, SIZE)
        alarm[5:15, 5 : 15 + i] = 255  # a reflection, elsewhere than the defects
        alarms.append(alarm)
    threshold, scores = model.calibration_.threshold, model.calibration_.scores.copy()
    rejected = [p.is_anomalous for p in model.predict_many(good)]
    assert all(p.is_anomalous for p in model.predict_many([*alarms, *defective]))
    model.add(alarms)
    assert model.calibration_.threshold == threshold
    assert np.array_equal(model.calibration_.scores, scores)
    assert not any(p.is_anomalous for p in model.predict_many(alarms))
    assert all(p.is_anomalous for p in model.predict_many(defective))
    assert sum(p.is_anomalous for p in model.predict_many(good)) <= sum(rejected)


def test_a_representative_sample_joins_the_calibration() -> None:
    model = small_model(image_size=64).fit(PARTS)
    model.add([good_image(50 + i, SIZE) for i in range(3)], representative=True)
    assert len(model.calibration_) == 15
    post = model.require_fitted().post
    item = next(model.extractor.stream(gather(good_image(50, SIZE)), warn))
    points = model.scorer.prepare(item.vectors)
    # its own do not count
    without = post.score(model.scorer, points, item.grid, item.view, None, exclude=len(PARTS)).score
    assert model.calibration_.scores[12] == pytest.approx(without)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_copies_do_no_harm(tmp_path: Path) -> None:
    for i, image in enumerate(PARTS):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    alone = small_model(image_size=64).fit(tmp_path)
    for i in range(6):
        shutil.copy(tmp_path / f"{i:02}.png", tmp_path / f"{i:02} (copy).png")
    with pytest.warns(PatchbankWarning, match="6 of 18 images are exact copies"):
        copied = small_model(image_size=64).fit(tmp_path)
    assert copied.calibration_.threshold == alone.calibration_.threshold
    assert torch.equal(copied.bank_.vectors, alone.bank_.vectors)
    assert copied.training_["images"] == 12
    assert copied.training_["unreadable"] == 0
    assert len(copied.training_["copies"]) == 6


# ---- several pictures of one part ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(OF_PICTURES))
def test_pictures_of_one_part_are_left_out_together(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of a picture is about what it gets from a memory that never saw its part, not its twins."""
    model = detector(method, false_alarm_rate=0.1).fit(BURSTS, groups=LABELS)
    calibration = model.calibration_
    assert sorted(calibration.groups) == sorted(map(str, LABELS))
    assert (len(calibration), calibration.parts) == (36, 12)
    assert calibration.how == ("leave-one-out" if model.scorer.leaves_parts_out else "k-fold")
    new = [model.predict(good_image(500 + i, SIZE)).score for i in range(10)]
    twins = detector(method, false_alarm_rate=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "find_near_copies", lambda self: None)
        twins.fit(BURSTS)
    low, high, seen = np.median(twins.calibration_.scores), np.median(calibration.scores), np.median(new)
    assert high > low
    assert abs(high - seen) < abs(low - seen)


def test_the_scores_are_those_of_a_bank_without_the_part() -> None:
    alone = {"image_size": 64, "sampler": "identity", "balance_levels": False, "neighbours": 0, "position_scale": False}
    model = PatchCore(**alone).fit(BURSTS, groups=LABELS)
    for number in (0, 17):
        others = [image for image, label in zip(BURSTS, LABELS, strict=True) if label != LABELS[number]]
        apart = PatchCore(**alone).fit(others)
        assert model.calibration_.scores[number] == pytest.approx(apart.predict(BURSTS[number]).score, rel=1e-5)


def test_the_correction_holds_out_whole_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [good_image(i, SIZE) for i in range(24)]
    images = [shot(image, number) for image in parts for number in range(2)]
    labels = [part for part in range(24) for _ in range(2)]
    assert small_model(image_size=64).fit(images, groups=labels).calibration_.how == "leave-one-out"
    model = small_model(image_size=64, balance_levels=False, calibration=CORRECTED).fit(images, groups=labels)
    assert model.calibration_.how == CORRECTED
    again = small_model(image_size=64, balance_levels=False, calibration=CORRECTED)
    monkeypatch.setattr(PatchCoreScorer, "can_reselect", False)
    again.fit(images, groups=labels)  # a fit to the other parts, literally
    assert np.allclose(model.calibration_.scores, again.calibration_.scores, rtol=1e-5)


@pytest.mark.parametrize("method", ["patchcore", "padim", "spade", "fapm"])
def test_bursts_are_found_and_said(method: str) -> None:
    with pytest.warns(
        PatchbankWarning, match="36 of 36 images look like several pictures of one part, such as image 0"
    ):
        model = detector(method, false_alarm_rate=0.1).fit(BURSTS)
    assert model.calibration_.parts == 12
    assert not model.calibration_.is_guaranteed  # there are 12 parts, but they were only found
    named = detector(method, false_alarm_rate=0.1).fit(BURSTS, groups=LABELS)
    assert named.calibration_.is_guaranteed
    assert np.allclose(named.calibration_.scores, model.calibration_.scores, rtol=1e-5)


def test_bursts_that_were_torn_apart_by_the_folds_are_found() -> None:
    """What was held out is searched too, and the fit is done again with whole parts."""
    with pytest.warns(PatchbankWarning, match="look like several pictures"):
        model = small_model(image_size=64, calibration="held-out", false_alarm_rate=0.3).fit(BURSTS)
    calibrated = {int(name.split()[1]) // 3 for name in model.calibration_.images}
    assert len(model.calibration_) == 3 * len(calibrated)
    assert model.training_["images"] == 36


def test_independent_images_keep_their_guarantee(recwarn: pytest.WarningsRecorder) -> None:
    model = small_model(image_size=64, false_alarm_rate=0.1).fit(PARTS)
    assert model.calibration_.groups == ()
    assert model.calibration_.is_guaranteed
    assert not [w for w in recwarn if issubclass(w.category, PatchbankWarning)]


def test_the_rule_of_the_option_and_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for image, label, number in zip(BURSTS, LABELS, range(36), strict=True):
        Image.fromarray(image).save(folder / f"part{label:02}_{number:02}.png")
    model = small_model(image_size=64, group_by=r"part(\d+)_").fit(folder)
    assert model.calibration_.parts == 12
    model.save(tmp_path / "m.patchbank")
    again = load(tmp_path / "m.patchbank")
    assert again.calibration_.groups == model.calibration_.groups
    assert again.calibration_.threshold == model.calibration_.threshold
    assert again.bank_.refs == model.bank_.refs  # type: ignore[attr-defined]
    new = [shot(good_image(400 + i // 2, SIZE), i % 2) for i in range(8)]
    again.calibrate(new, groups=[i // 2 for i in range(8)])
    assert again.calibration_.parts == 4
    with pytest.raises(OptionError, match="groups has 3 labels for 8 images"):
        again.calibrate([shot(image, 9) for image in new], groups=[1, 2, 3])


def test_bursts_among_the_images_of_calibrate_are_found() -> None:
    model = small_model(image_size=64).fit([good_image(600 + i, SIZE) for i in range(8)])
    with pytest.warns(PatchbankWarning, match="36 of 36 images look like several pictures"):
        model.calibrate(BURSTS)
    assert model.calibration_.parts == 12


def test_members_of_an_ensemble_count_the_same_parts() -> None:
    model = PatchCore(backbone=["efficientnet_lite0", "efficientnet_lite1"], image_size=64, bank_size=60)
    model.fit(BURSTS, groups=LABELS)
    assert model.calibration_.parts == 12
    assert [member.calibration_.parts for member in model.members] == [12, 12]  # type: ignore[attr-defined]


# ---- images are known by what they show ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(OF_PICTURES))
def test_training_images_do_not_calibrate_under_any_name(method: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for i, image in enumerate(PARTS):
        Image.fromarray(image).save(tmp_path / "good" / f"{i}.png")
    model = detector(method).fit(tmp_path / "good")
    model.calibrate([good_image(50 + i, SIZE) for i in range(6)])  # it must not forget what it has learned from
    model.save(tmp_path / "m.patchbank")
    (tmp_path / "good").rename(tmp_path / "moved")
    for known in (tmp_path / "moved", PARTS, Image.open(tmp_path / "moved" / "3.png")):
        with pytest.raises(OptionError, match="the model has learned from"):
            load(tmp_path / "m.patchbank").calibrate(known)


def test_other_images_under_a_known_name_are_new(tmp_path: Path) -> None:
    """A camera's counter starts again."""
    path = tmp_path / "img_0001.png"
    Image.fromarray(PARTS[0]).save(path)
    model = small_model(image_size=64).fit([path, *PARTS[1:]])
    Image.fromarray(good_image(70, SIZE)).save(path)
    model.add(path)
    assert model.training_["images"] == 13
    assert f"{path} (2)" in {image.name for image in model.bank_.refs}
    with pytest.raises(OptionError, match="already"):
        model.add(path)
    Image.fromarray(good_image(71, SIZE)).save(path)
    model.calibrate(path).forget(str(path))
    assert len(model.calibration_) == 1  # the score of the other image stays
    assert model.training_["images"] == 12


def test_images_that_both_models_know_are_merged_once() -> None:
    one, other = small_model(image_size=64).fit(PARTS[:8]), small_model(image_size=64).fit(PARTS[6:])
    one.merge(other)
    assert one.training_["images"] == 12
    assert len(one.calibration_) == 12
    assert len({digest for _, digest in one.training_["learned_from"]}) == 12
    with pytest.raises(OptionError, match="has learned from all images of the other"):
        one.merge(small_model(image_size=64).fit(PARTS[:3]))


@pytest.mark.parametrize("method", [name for name, kind in OF_PICTURES.items() if kind.scorer_class.keeps_patches])
def test_a_prediction_keeps_what_it_was_compared_with(method: str) -> None:
    model = detector(method).fit(PARTS)
    p = model.predict(good_image(80, SIZE))
    places = [(x, y) for x in range(4, 64, 12) for y in range(4, 64, 12)]
    before = [p.nearest(*place) for place in places]
    again = pickle.loads(pickle.dumps(p))
    model.fit([good_image(90 + i, SIZE) for i in range(4)])
    assert [p.nearest(*place) for place in places] == before
    assert [again.nearest(*place) for place in places] == before
    assert len({n.image for n in before}) > 1
    assert len(pickle.dumps(p)) < 100_000  # no patch features


def test_predictions_compare_and_hash() -> None:
    model = small_model(image_size=64).fit(PARTS)
    p, q, other = model.predict(PARTS[0]), model.predict(PARTS[0]), model.predict(PARTS[1])
    assert p == q == copy.deepcopy(p)
    assert hash(p) == hash(q)
    assert p != other
    assert p != p.at_threshold(0.0)
    assert p != "a prediction"
    without_map = detector("mahalanobis").fit(PARTS).predict(PARTS[0])
    assert without_map == copy.deepcopy(without_map)


def test_a_file_of_format_2_is_still_known_by_its_paths() -> None:
    """Written before digests and groups were kept."""
    model = load(Path(__file__).parents[1] / "model_files" / "format2.patchbank", threads=1)
    assert [model.predict(good_image(90 + i, SIZE)).score for i in range(2)] == pytest.approx(
        [16.9169, 16.5762], rel=3e-3
    )
    assert model.calibration_.threshold == pytest.approx(19.43161354771246)
    assert model.calibration_.groups == ()
    model.add([good_image(60, SIZE)])
    assert model.training_["images"] == 8
    assert len(model.digests) == 1


def test_descriptors_leave_out_what_is_not_inspected() -> None:
    """A region of interest: only its patches are there, and tiles without any are zero."""
    model = small_model(image_size=64, bank_size=10).fit(PARTS)
    item = next(model.extractor.stream([Sample.of("a", PARTS[0])], warn))
    features = FeatureStore()
    features.add(item)
    assert features.descriptors[0].shape == (16 * 51,)
    mean = item.vectors[:, ::3].reshape(4, 2, 4, 2, -1).mean((1, 3)).flatten().numpy()
    assert np.allclose(features.descriptors[0], mean, rtol=2e-3, atol=1e-3)


def test_gaussians_of_parts_are_refitted_only_where_parts_have_several_pictures() -> None:
    assert PaDiM(image_size=64).fit(PARTS).calibration_.how == "leave-one-out"
    assert PaDiM(image_size=64).fit(BURSTS, groups=LABELS).calibration_.how == "k-fold"
    assert PaDiM(image_size=64).fit(PARTS, groups=range(12)).calibration_.how == "leave-one-out"


def test_twins_of_training_images_do_not_calibrate_in_silence() -> None:
    """Other pictures of the parts that the model has learned from: no copies, but no fair sample either."""
    parts = [good_image(i, SIZE) for i in range(24)]
    model = small_model(image_size=64, false_alarm_rate=0.1, bank_size=10**5).fit(parts)
    noise = np.random.default_rng(0).integers(-1, 2, (12, *parts[0].shape))
    twins = list(np.clip(parts[:12] + noise, 0, 255).astype(np.uint8))
    with pytest.warns(PatchbankWarning, match="score far below the training images"):
        model.calibrate(twins)
    assert not model.calibration_.is_guaranteed
    assert "other pictures of the same parts" in model.calibration_.no_guarantee
    model.calibrate([good_image(700 + i, SIZE) for i in range(12)])
    assert model.calibration_.is_guaranteed


def test_a_training_image_is_not_shown_as_what_its_file_has_become(tmp_path: Path) -> None:
    for i, image in enumerate(PARTS):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    model = small_model(image_size=64).fit(tmp_path)
    name = str(tmp_path / "3.png")
    find = finder_of(model)
    assert np.array_equal((find(name) or pytest.fail("no picture"))[0], PARTS[3])
    Image.fromarray(good_image(99, SIZE)).save(tmp_path / "3.png")  # the folder was filled anew
    picture = (find(name) or pytest.fail("no picture"))[0].astype(float)
    assert np.abs(picture - PARTS[3]).mean() < 12  # the thumbnail
    assert np.abs(picture - good_image(99, SIZE)).mean() > 20
