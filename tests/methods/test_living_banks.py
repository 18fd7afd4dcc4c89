"""Banks that grow, shrink and join; models whose threshold is set anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import LMFCore, PaDiM, PatchCore, load
from patchbank.calibration.calibration import folds_of
from patchbank.calibration.schemes import Calibrator
from patchbank.data import RegionOfInterest
from patchbank.detector import Detector
from patchbank.errors import MemoryBudgetError, OptionError
from patchbank.fitting import fresh_scorer
from patchbank.memory.bank import Bank
from patchbank.memory.bank_scorer import BankScorer
from patchbank.methods import METHODS
from patchbank.methods.patchcore import PatchCoreScorer
from patchbank.sample import SampleRef
from tests.conftest import OF_PICTURES, bad_image, good_image, small_model

GOOD = [good_image(i) for i in range(8)]


@pytest.fixture
def model() -> PatchCore:
    return small_model().fit(GOOD)


def write(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def covering(bank: Bank, patches: torch.Tensor) -> float:
    return float(torch.cdist(patches, bank.vectors, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max())


def patches_of(model: PatchCore, images: list[np.ndarray]) -> torch.Tensor:
    return torch.cat([item.vectors * model.scorer.balance for item in model.extractor.stream(_sources(images))])


def _sources(images: list[np.ndarray]) -> list[object]:
    from patchbank.data import gather

    return gather(images)  # type: ignore[return-value]


def test_added_images_are_within_the_covering_radius(model: PatchCore) -> None:
    new = [good_image(40 + i) for i in range(3)]
    radius, before = model.bank_.covering_radius, len(model.bank_)
    old = patches_of(model, GOOD)
    model.add(new)
    assert before <= len(model.bank_) <= before + 3 * model.training_["patches"]
    assert covering(model.bank_, patches_of(model, new)) <= radius * (1 + 1e-5)
    assert covering(model.bank_, old) <= radius * (1 + 1e-5)
    assert len(model.calibration_) == 8  # added images may have been picked for their scores
    assert model.training_["images"] == 11
    assert model.history[-1]["what"] == "added"
    assert [entry["what"] for entry in model.history] == ["fitted", "added"]


def test_names_mean_the_folder_of_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day, first in (("day1", 0), ("day2", 50)):
        (tmp_path / day).mkdir()
        write(tmp_path / day / "good", [good_image(first + i) for i in range(4)])
    monkeypatch.chdir(tmp_path / "day1")
    model = small_model().fit("good")
    monkeypatch.chdir(tmp_path / "day2")
    model.add("good")  # other images under the same relative names
    assert model.training_["images"] == 8
    assert len({image.name for image in model.bank_.refs}) == 8
    with pytest.raises(OptionError, match="already"):
        model.add(tmp_path / "day1" / "good")


def test_an_addition_that_does_not_fit_is_refused(model: PatchCore) -> None:
    model.memory_budget = 1
    with pytest.raises(MemoryBudgetError):
        model.add([good_image(50)])


def test_turned_images_can_be_added() -> None:
    roi = RegionOfInterest(include=(((10, 10), (100, 10), (100, 80), (10, 80)),))
    model = small_model(augment="rotations", roi=roi, bank_size=200).fit(GOOD[:2])
    model.add([bad_image(4)])
    assert not model.predict(bad_image(4)).is_anomalous
    assert len(model.calibration_) == 2
    kept = model.thumbnails_[model.bank_.refs[-1].name].pixels().astype(float)
    assert np.abs(kept - bad_image(4)).mean() < 8  # upright


def test_only_patches_that_are_far_enter() -> None:
    images = (SampleRef("a", (4, 4), (1, 2)),)
    bank = Bank(torch.tensor([[0.0, 0], [10, 0]]), np.zeros((2, 3), np.int32), images, 2.0)
    new = torch.tensor([[1.0, 0], [5, 0], [5, 1], [20, 0], [12, 0]])
    assert bank.far_from(new, 2.0).indices.tolist() == [3, 2]  # farthest first; [5, 0] is then within 2 of [5, 1]
    assert bank.far_from(new, 100.0).indices.tolist() == []
    limited = bank.far_from(new, 2.0, 1)
    assert limited.indices.tolist() == [3]
    assert limited.radius == pytest.approx(26**0.5)  # [5, 1] to [0, 0]
    assert bank.far_from(new, 2.0, 0).radius == pytest.approx(10.0)


def test_an_accepted_false_alarm_is_not_raised_again(model: PatchCore) -> None:
    alarm = bad_image(5)
    assert model.predict(alarm).is_anomalous
    threshold = model.calibration_.threshold
    model.add(alarm)
    assert model.predict(alarm).score <= threshold
    assert not model.predict(alarm).is_anomalous
    assert np.isfinite(model.predict(alarm).nearest(80, 50).distance)


def test_images_that_are_in_the_bank_are_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "good", GOOD)
    model = small_model().fit(folder)
    with pytest.raises(OptionError, match="already"):
        model.add(folder)
    Image.fromarray(good_image(99)).save(folder / "new.png")
    model.add(folder)
    assert model.training_["images"] == 9


def test_forgetting_takes_an_image_out(model: PatchCore, tmp_path: Path) -> None:
    folder = write(tmp_path / "good", GOOD)
    model = small_model().fit(folder)
    old, radius, before = patches_of(model, GOOD), model.bank_.covering_radius, len(model.bank_)
    model.forget("3.png")
    assert len(model.bank_) < before
    assert all("3.png" not in image.name for image in model.bank_.refs)
    assert len(model.calibration_) == 7
    # what is said of the radius is true, and more than the old one
    assert covering(model.bank_, old) <= model.bank_.covering_radius * (1 + 1e-5)
    assert model.bank_.covering_radius >= radius
    names = [model.bank_.refs[i].name for i in model.bank_.provenance[:, 0]]
    assert str(folder / "4.png") in names
    with pytest.raises(OptionError, match="not among"):
        model.forget("3.png")
    one, both = small_model().fit(folder).forget("0.png").forget("1.png"), small_model().fit(folder)
    both.forget(["0.png", "1.png"])
    assert torch.equal(one.bank_.vectors, both.bank_.vectors)
    assert both.bank_.covering_radius <= one.bank_.covering_radius  # one way, not two
    model.forget([f"good/{i}.png" for i in (0, 1, 2, 4, 5, 6)])
    with pytest.raises(OptionError, match="all that the bank has"):
        model.forget("7.png")


def test_forgetting_what_was_added_restores_the_bank(model: PatchCore, tmp_path: Path) -> None:
    vectors, scores = model.bank_.vectors.clone(), model.calibration_.scores.copy()
    path = tmp_path / "new.png"
    Image.fromarray(good_image(77)).save(path)
    model.add(path).forget("new.png")
    assert torch.equal(model.bank_.vectors, vectors)
    assert np.array_equal(model.calibration_.scores, scores)


def test_two_banks_are_merged_in_the_scale_of_the_first(model: PatchCore) -> None:
    others = [good_image(60 + i) for i in range(4)]
    other = small_model().fit(others)
    assert not torch.equal(model.scorer.balance, other.scorer.balance)
    radius, factor = other.bank_.covering_radius, float((model.scorer.balance / other.scorer.balance).max())
    before = len(model.bank_)
    model.merge(other)
    assert len(model.bank_) == before + len(other.bank_)
    assert covering(model.bank_, patches_of(model, others)) <= radius * factor * (1 + 1e-4)
    assert len(model.calibration_) == 12
    neighbour = model.predict(others[0]).nearest(64, 48)
    assert neighbour.image in {image.name for image in model.bank_.refs}
    # both learned from "image 0" to "image 3": other images under one name
    assert len({image.name for image in model.bank_.refs}) == 12
    assert "image 0 (2)" in model.thumbnails_
    model.forget("image 0 (2)")
    assert model.training_["images"] == 11
    assert "image 0" in {image.name for image in model.bank_.refs}


def test_a_merged_bank_can_be_thinned(model: PatchCore) -> None:
    everything = patches_of(model, GOOD)
    model.merge(small_model().fit([good_image(60)]), bank_size=20)
    assert len(model.bank_) == 20
    assert covering(model.bank_, everything) <= model.bank_.covering_radius * (1 + 1e-5)


def test_what_cannot_be_merged(model: PatchCore) -> None:
    with pytest.raises(OptionError, match="image_size is 96 in one, 128 in the other"):
        model.merge(small_model(image_size=128).fit(GOOD))
    with pytest.raises(OptionError, match="tile is None in one, 128 in the other"):
        model.merge(small_model(image_size=96, tile=128, overlap=64).fit(GOOD))
    with pytest.raises(OptionError, match="regions of interest"):
        model.merge(small_model(roi=RegionOfInterest(include=(((0, 0), (60, 0), (60, 90)),))).fit(GOOD))
    with pytest.raises(OptionError, match="padim"):
        model.merge(PaDiM(image_size=96).fit(GOOD))


@pytest.mark.parametrize("model", [LMFCore(image_size=96), PatchCore(image_size=96, sampler="identity")])
def test_other_samplers_grow_in_their_own_way(model: LMFCore | PatchCore) -> None:
    """A random share of the patches, or all."""
    model.fit(GOOD)
    share = len(model.bank_) / model.training_["patches"]
    before = len(model.bank_)
    model.add([good_image(50)])
    assert len(model.bank_) - before == pytest.approx(share * model.training_["patches"] / 9, abs=1)


def test_a_changed_model_keeps_its_changes_in_the_file(model: PatchCore, tmp_path: Path) -> None:
    model.add([good_image(70)])
    model.save(tmp_path / "m.patchbank")
    again = load(tmp_path / "m.patchbank")
    assert again.history == model.history
    assert again.calibration_.images == model.calibration_.images
    image = good_image(80)
    assert again.predict(image).score == model.predict(image).score
    again.forget(again.calibration_.images[0])


@pytest.mark.parametrize("method", [m for m in OF_PICTURES if m not in ("patchcore", "lmf", "anomalydino")])
def test_methods_without_a_bank_say_so(method: str) -> None:
    model = METHODS[method](image_size=64).fit(GOOD[:3])
    for change in (lambda: model.add(GOOD), lambda: model.forget("a")):
        with pytest.raises(OptionError, match="has no bank"):
            change()


# ---- calibration of fitted models ------------------------------------------------------------------------------------


def test_calibrating_anew_changes_the_threshold_alone(model: PatchCore) -> None:
    image = bad_image(3)
    before = model.predict(image)
    model.calibrate([good_image(90 + i) for i in range(5)])
    after = model.predict(image)
    assert after.score == before.score
    assert np.array_equal(after.map, before.map)
    assert len(model.calibration_) == 5
    assert model.calibration_.how == "held-out"
    model.calibrate([good_image(90 + i) for i in range(5)], [bad_image(i) for i in range(3)])
    assert "highest F1 (1.000)" in model.calibration_.chosen_by
    assert model.predict(image).is_anomalous


def test_images_of_the_fit_do_not_calibrate(tmp_path: Path) -> None:
    folder = write(tmp_path / "good", GOOD)
    model = small_model().fit(folder)
    with pytest.raises(OptionError, match="has learned from 8 of these 8"):
        model.calibrate(folder)


MANY = [good_image(i, (64, 64)) for i in range(24)]


@pytest.mark.parametrize(  # the ways in turn: all of both take long, and say little more
    ("method", "way"), [(name, ("held-out", "k-fold")[i % 2]) for i, name in enumerate(OF_PICTURES)]
)
def test_each_method_can_be_calibrated_each_way(method: str, way: str) -> None:
    options = {"k": 5} if method == "spade" else {}
    model: Detector = METHODS[method](image_size=64, calibration=way, false_alarm_rate=0.2, **options).fit(MANY)
    assert model.calibration_.how == way
    assert len(model.calibration_) == (5 if way == "held-out" else 24)
    assert sorted(set(model.calibration_.images)) == sorted(model.calibration_.images)
    new = [model.predict(good_image(200 + i, (64, 64))).score for i in range(6)]
    assert 0.5 < np.median(new) / np.median(model.calibration_.scores) < 2 or method == "lmf"
    again = METHODS[method](image_size=64, calibration=way, false_alarm_rate=0.2, **options).fit(MANY)
    assert np.array_equal(again.calibration_.scores, model.calibration_.scores)


def test_held_images_stay_out_of_a_bank_that_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[set[int]] = []
    make = BankScorer.make_bank

    def spied(self: BankScorer, vectors: Any, features: Any, rows: Any, radius: float) -> Any:
        taken.append(set(features.provenance(rows)[:, 0].tolist()))
        return make(self, vectors, features, rows, radius)

    monkeypatch.setattr(BankScorer, "make_bank", spied)
    model = small_model(image_size=64, bank_size=10**5).fit(MANY)
    held = set(folds_of([False] * 24, model.seed)[0])
    assert model.calibration_.how == "corrected leave-one-out"
    assert taken == [set(range(24)), set(range(24)) - held]


def scheme_for(model: PatchCore, parts: int) -> str:
    scorer = fresh_scorer(model, model.extractor)
    return Calibrator(model.calibration, model.false_alarm_rate, 0, None).scheme_for(scorer, parts)  # type: ignore[arg-type]


def test_what_auto_means() -> None:
    few = small_model().fit(GOOD)
    assert few.calibration_.how == "leave-one-out"  # a fifth of 8 images says nothing
    some = small_model(image_size=64).fit(MANY)
    assert some.calibration_.how == "corrected leave-one-out"
    plain = small_model(image_size=64, calibration="leave-one-out").fit(MANY)
    ratio = some.calibration_.scores / plain.calibration_.scores
    assert (np.diff(ratio[plain.calibration_.scores.argsort()]) < 1e-9).all()  # the highest come down furthest
    assert torch.equal(some.bank_.vectors, plain.bank_.vectors)
    assert [scheme_for(small_model(), n) for n in (1, 19, 20, 2499, 2500)] == [
        "leave-one-out", "leave-one-out", "corrected leave-one-out", "corrected leave-one-out", "held-out",
    ]  # fmt: skip
    many = small_model(image_size=64, false_alarm_rate=0.2, calibration="held-out").fit(MANY)
    assert many.calibration_.how == "held-out"
    assert many.calibration_.is_guaranteed
    assert many.training_["images"] == 24  # what was held out is taken in afterwards
    assert len(many.bank_.refs) == 24
    assert 80 <= len(many.bank_) <= 100  # no more than was asked for
    everything = patches_of(many, MANY)
    assert covering(many.bank_, everything) <= many.bank_.covering_radius * (1 + 1e-5)
    assert small_model(image_size=64, calibration="leave-one-out").fit(MANY).training_["memory_vectors"] == 100
    assert scheme_for(small_model(geometry="paper"), 2500) == "corrected leave-one-out"  # the bank of the papers
    assert PaDiM(image_size=64).fit(MANY).calibration_.how == "leave-one-out"  # exact, without a correction
    with pytest.raises(OptionError, match="calibration must be one of"):
        small_model(calibration="guess").fit(GOOD)


def test_a_memory_of_the_others_is_that_of_a_fit_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "image_size": 64,
        "balance_levels": False,
    }  # learned from all images by one, from the others by the other
    model = small_model(**options).fit(MANY)
    monkeypatch.setattr(PatchCoreScorer, "can_reselect", False)
    refitted = small_model(**options).fit(MANY)
    assert np.allclose(model.calibration_.scores, refitted.calibration_.scores, rtol=1e-5)
    assert np.allclose(model.calibration_.peaks, refitted.calibration_.peaks, rtol=1e-5)
    assert torch.equal(model.bank_.vectors, refitted.bank_.vectors)


def test_no_score_grows_when_held_out_images_are_taken_in() -> None:
    """So the threshold, which was set before, keeps its promise."""
    taken = small_model(image_size=64, false_alarm_rate=0.2, neighbours=0, calibration="held-out").fit(MANY)
    held = set(taken.calibration_.images)
    left = [image for i, image in enumerate(MANY) if f"image {i}" not in held]
    apart = small_model(image_size=64, neighbours=0, calibration="leave-one-out", bank_size=80).fit(left)
    for i in range(5):
        image = good_image(300 + i, (64, 64))
        assert taken.predict(image).score <= apart.predict(image).score + 1e-5
