"""Every method that learns weights: its equations, one seed one model, and what is left of a training that ended early.

The equations of a method stand in tests/training/literal/NAME.py, with options for which these tests are quick.
"""

from __future__ import annotations

import copy
import errno
import importlib
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchbank
from patchbank.data import RegionOfInterest, Sample, gather
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import DatasetError, MemoryBudgetError, OptionError
from patchbank.export import FORMATS, export
from patchbank.features.planning import Plan
from patchbank.methods import METHODS
from patchbank.training import checkpoint, loop, scorer
from patchbank.training.loop import train
from patchbank.training.network import build
from patchbank.training.scorer import TrainedScorer
from patchbank.training.session import Session
from tests.conftest import bad_image, good_image

TRAINED = [name for name, method in METHODS.items() if issubclass(method.scorer_class, TrainedScorer)]
SEED = 5


@dataclass
class Case:
    """A method with its small options, and images that it takes."""

    method: str
    literal: Any
    good: list[Any]
    new_good: list[Any]
    bad: list[Any]

    def small(self, **options: Any) -> Detector:
        return METHODS[self.method](**{"threads": 1, **self.literal.OPTIONS, **options})  # type: ignore[arg-type]

    def several_steps(self) -> Detector:
        return self.small(epochs=4)

    @property
    def of_pictures(self) -> bool:
        return isinstance(self.good[0], np.ndarray)


@pytest.fixture(scope="module", params=TRAINED)
def case(request: pytest.FixtureRequest) -> Case:
    method = request.param
    literal = importlib.import_module(f"tests.training.literal.{method}")
    if "geometry" not in METHODS[method].needs:
        good = [good_image(i) for i in range(8)]
        return Case(
            method, literal, good, [good_image(50 + i) for i in range(2)], [bad_image(60 + i) for i in range(2)]
        )
    solid: Path = request.getfixturevalue("solid")
    good = [str(path) for path in sorted((solid / "train/good/rgb").glob("*.png"))]
    new_good = [str(path) for path in sorted((solid / "test/good/rgb").glob("*.png"))]
    bad = [str(solid / f"test/{defect}/rgb/000.png") for defect in ("missing", "stain")]
    return Case(method, literal, good[:8], new_good, bad)


@pytest.fixture(scope="module")
def model(case: Case) -> Detector:
    """Fitted once for a method, in one training. Do not change it."""
    return case.small(calibration="held-out").fit(case.good)


@pytest.fixture(scope="module")
def pair(case: Case) -> list[Any]:
    """Two images, of two shapes where the method takes pictures."""
    one, other = case.good[:2]
    return [one, np.hstack([one, other])] if case.of_pictures else [one, other]


@pytest.fixture(scope="module")
def of_pair(case: Case, pair: list[Any]) -> Detector:
    """Fitted to two images, in three trainings of four steps at least. Do not change it."""
    return case.several_steps().fit(pair)


def file_of(detector: Detector, path: Path) -> bytes:
    """The model file of a detector without the times that its fit took."""
    detector.training_ = {**detector.training_, "fit_seconds": {}, "history": []}
    detector.save(path)
    return path.read_bytes()


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned_from(case: Case, model: Detector) -> list[Sample]:
    """Good images without those that the calibration kept."""
    names = {name for name, _ in model.training_["learned_from"]}
    return [sample for sample in gather(case.good) if sample.name in names]


@pytest.fixture(scope="module")
def features(learned_from: list[Sample], model: Detector) -> Any:
    return model.extractor.collect(learned_from)


def random_task(model: Detector, features: Any) -> Any:
    """On a network whose weights are all random, also those that begin as 0 or 1, on the data of good images."""
    fitted: Any = model.scorer
    network, generator = build(fitted.make_network, SEED), torch.Generator().manual_seed(SEED)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            spread = float(parameter.detach().std()) if parameter.numel() > 1 else 0.0
            parameter.data += 0.3 * (spread or 0.3) * torch.randn(parameter.shape, generator=generator)
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for buffer in (module.running_mean, module.running_var):
                assert buffer is not None
                buffer += torch.rand(buffer.shape, generator=generator)
    return fitted.task(network, features)


def first_batch(task: Any, model: Detector) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    found: torch.Tensor = next(task.items.batches(model.batch, range(task.items.images), generator))  # type: ignore[attr-defined]
    return found


def test_the_loss_of_a_batch(case: Case, model: Detector, features: Any) -> None:
    task = random_task(model, features)
    numbers = first_batch(task, model)
    expected = case.literal.loss(task, numbers, SEED)
    task.network.train()
    found = float(task.loss(numbers, torch.Generator().manual_seed(SEED)).detach())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_loss_of_features_on_disk(model: Detector, features: Any, learned_from: list[Sample]) -> None:
    on_disk = model.extractor.collect(learned_from, on_disk=True)
    losses = []
    for each in (features, on_disk):
        task = random_task(model, each)
        task.network.train()
        loss = task.loss(first_batch(task, model), torch.Generator().manual_seed(SEED))
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]


def test_the_scores_of_an_image(case: Case, model: Detector, features: Any) -> None:
    network = random_task(model, features).network.eval()
    item = next(model.extractor.stream(gather(case.bad[:1])))
    expected = case.literal.forward(network, item.vectors.numpy(), item.grid)
    with torch.no_grad():
        found = network(item.vectors[None], item.grid)[0].double().numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_loss_of_a_batch_moves_all_weights(model: Detector, features: Any) -> None:
    task = random_task(model, features)
    task.network.train()
    task.loss(first_batch(task, model), torch.Generator().manual_seed(SEED)).backward()
    moved = [p for optimiser in task.optimisers() for group in optimiser.param_groups for p in group["params"]]
    named = {id(parameter): name for name, parameter in task.network.named_parameters()}
    still = [named[id(parameter)] for parameter in moved if parameter.grad is None or not parameter.grad.any()]
    assert not still


def test_the_loss_falls_by_half_on_one_image(case: Case, model: Detector) -> None:
    fitted: Any = model.scorer
    task = fitted.task(build(fitted.make_network, SEED), model.extractor.collect(gather(case.good[:1])))
    if hasattr(task, "noise"):
        task.noise = 0.0  # no density of noisy features can be that high
    numbers, losses = first_batch(task, model), list[float]()
    moved = [p for optimiser in task.optimisers() for group in optimiser.param_groups for p in group["params"]]
    optimiser = torch.optim.Adam(moved, lr=0.003)  # one rate for all methods, larger than most of theirs
    task.network.train()
    for step in range(100):
        loss = task.loss(numbers, torch.Generator().manual_seed(step))
        losses.append(float(loss.detach()))
        if np.mean(losses[-3:]) < losses[0] / 2:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"the loss fell from {losses[0]:.3g} to {losses[-1]:.3g}")


# ---- one seed, one model ---------------------------------------------------------------------------------------------


def test_a_refit_is_identical_and_touches_no_global_state(case: Case, model: Detector, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    again = case.small(calibration="held-out").fit(case.good)
    assert file_of(copy.copy(model), tmp_path / "a") == file_of(again, tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())


class Power(Exception):
    """It failed."""


def test_a_training_that_broke_off_ends_with_the_same_weights(
    case: Case, pair: list[Any], of_pair: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of its second training, when all steps before were kept."""
    kept = tmp_path / "training"

    def fail(stage: str, done: int, total: int) -> None:
        if stage.startswith("training 2 of ") and done == total // 2:
            raise Power

    monkeypatch.setattr(loop, "_EVERY", -1.0)
    with pytest.raises(Power):
        case.several_steps().fit(pair, checkpoints=kept, progress=fail)
    assert len(list(kept.iterdir())) == 2
    told: list[str] = []
    monkeypatch.setattr(loop, "_EVERY", 1e9)
    again = case.several_steps()
    again.fit(pair, checkpoints=kept, resume=True, progress=lambda stage, *_: told.append(stage))
    assert not any(stage.startswith("training 1") for stage in told)
    assert file_of(again, tmp_path / "b") == file_of(copy.copy(of_pair), tmp_path / "a")
    assert not kept.exists()


# ---- what every model does -------------------------------------------------------------------------------------------


def test_good_and_bad_are_told_apart(case: Case, model: Detector) -> None:
    good, bad = (model.predict_many(images) for images in (case.new_good, case.bad))
    assert max(p.score for p in good) < min(p.score for p in bad)
    assert np.isfinite(model.calibration_.scores).all()
    assert model.calibration_.how == "held-out"


def test_a_model_that_went_elsewhere_predicts_the_same(case: Case, model: Detector, tmp_path: Path) -> None:
    model.save(tmp_path / "a.patchbank")
    loaded = patchbank.load(tmp_path / "a.patchbank", threads=1)
    expected = model.predict(case.bad[0])
    for other in (loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.predict(case.bad[0]) == expected
    loaded.save(tmp_path / "b.patchbank")
    assert (tmp_path / "a.patchbank").read_bytes() == (tmp_path / "b.patchbank").read_bytes()


def test_it_says_what_it_learned(case: Case, model: Detector) -> None:
    assert np.isfinite(model.training_["loss"])
    assert model.training_["epochs"] == model.epochs  # type: ignore[attr-defined]
    assert model.memory_mb > 0
    if not model.keeps_patches:
        assert all(not place.neighbours for place in model.explain(case.bad[0]).places)


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_computes_what_the_model_does(case: Case, model: Detector, to: str, tmp_path: Path) -> None:
    images = [case.new_good[0], case.bad[0]]
    if refusal := getattr(case.literal, "NOT_EXPORTED", ""):
        with pytest.raises(OptionError, match=refusal):
            export(model, tmp_path / "out", to=to, images=images)
        return
    document = export(model, tmp_path / "out", to=to, images=images)
    assert document["parity"]["score"]["relative"] < 1e-3
    assert document["parity"]["map"]["relative"] < 1e-3
    one, other = model.predict(case.bad[0]), runtime.load(tmp_path / "out", threads=1).predict(case.bad[0])
    assert other.score == pytest.approx(one.score, rel=1e-3)
    assert other.is_anomalous == one.is_anomalous


# ---- few images, other images, parts of images -----------------------------------------------------------------------


def test_one_image_gives_no_threshold(case: Case) -> None:
    model = case.small().fit(case.good[:1])
    assert np.isfinite(model.predict(case.bad[0]).score)
    assert model.calibration_.threshold == np.inf


def test_two_images_of_two_shapes(case: Case, pair: list[Any], of_pair: Detector) -> None:
    assert of_pair.calibration_.how == "k-fold"
    assert np.isfinite(of_pair.calibration_.scores).all()
    assert np.isfinite(of_pair.predict(case.bad[0]).score)
    if case.of_pictures:
        assert of_pair.predict(pair[1]).map.shape == (96, 256)


def test_a_region_of_interest(case: Case) -> None:
    """What lies outside neither counts nor is shown."""
    roi = RegionOfInterest(include=(((10.0, 5.0), (60.0, 5.0), (60.0, 90.0), (10.0, 90.0)),))
    model = case.small(roi=roi).fit(case.good[:1])
    one, other = model.predict(case.good[0]), model.predict(case.bad[0])
    assert np.isnan(other.map[:, 64:]).all()
    assert np.isfinite(other.map[20:80, 20:50]).all()
    if case.of_pictures:
        left = case.good[0].copy()
        left[:, 100:] = 255  # far outside
        assert np.isfinite(one.score)
        assert model.predict(left).score == pytest.approx(one.score, rel=1e-3)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_into_memory_is_refused(case: Case) -> None:
    with pytest.raises(MemoryBudgetError, match="image"):
        case.small(memory_budget=1000).fit(case.good[:2])


def test_a_loss_that_is_no_number_is_one_sentence(case: Case, model: Detector, features: Any) -> None:
    fitted: Any = model.scorer
    task = random_task(model, features)
    for parameter in task.network.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(DatasetError, match="the loss is nan after 0 steps: use a smaller learning rate"):
        train(task, fitted.training_options, Session())


def test_a_full_disk_does_not_end_a_training(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(loop, "_EVERY", -1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = case.small().fit(case.good[:1], checkpoints=tmp_path / "training")
    said = [str(w.message) for w in caught if "cannot be written" in str(w.message)]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "training goes on" in said[0]
    assert model.is_fitted


def test_features_that_do_not_fit_are_streamed_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    literal = importlib.import_module("tests.training.literal.simplenet")
    case = Case("simplenet", literal, [good_image(i) for i in range(2)], [], [])
    expected = file_of(case.small().fit(case.good), tmp_path / "a")
    monkeypatch.setattr(scorer, "plan_fit", lambda *_, **__: Plan("disk", 0, "on disk"))
    plans: list[str] = []
    model = case.small().fit(case.good, on_plan=lambda plan: plans.append(plan.where))
    assert set(plans) == {model.training_.pop("plan")} == {"disk"}
    model.training_ |= {"plan": "memory"}
    assert file_of(model, tmp_path / "b") == expected
