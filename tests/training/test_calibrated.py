"""Where the thresholds of methods come from that learn weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import Ensemble
from patchbank.calibration.schemes import Calibrator
from patchbank.errors import PatchbankWarning
from patchbank.features.extractor import Extractor
from patchbank.fitting import Learner
from patchbank.methods import METHODS
from patchbank.training.scorer import TrainedScorer
from tests.conftest import good_image


def simplenet(**options: Any) -> Any:
    return METHODS["simplenet"](**{"image_size": 64, "epochs": 1, "hidden": 8, "threads": 1, **options})


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("auto", ["leave-one-out", "k-fold", "k-fold", "k-fold", "held-out"]),
        ("leave-one-out", ["leave-one-out", "k-fold", "k-fold", "k-fold", "held-out"]),
        ("held-out", ["leave-one-out", "k-fold", "held-out", "held-out", "held-out"]),
        ("k-fold", ["leave-one-out", "k-fold", "k-fold", "k-fold", "k-fold"]),
    ],
)
def test_scores_come_from_parts_that_were_not_learned_from(scheme: str, expected: list[str]) -> None:
    calibrator = Calibrator(scheme, 0.01, 0, None)  # type: ignore[arg-type]
    assert [calibrator.scheme_for(TrainedScorer, parts) for parts in (1, 4, 5, 49, 50)] == expected


@pytest.mark.parametrize(("scheme", "trainings", "scores"), [("held-out", 1, 2), ("auto", 6, 6)])
def test_how_often_weights_are_learned(scheme: str, trainings: int, scores: int) -> None:
    told = set[str]()
    model = simplenet(calibration=scheme)
    model.fit([good_image(i) for i in range(6)], progress=lambda stage, *_: told.add(stage.partition(":")[0]))
    assert len([stage for stage in told if stage.startswith("training")]) == trainings
    assert len(model.calibration_.scores) == scores


def test_near_copies_are_found_before_weights_are_learned() -> None:
    """Otherwise all folds would be trained again when they are."""
    pictures = [good_image(10 * (i // 2)) for i in range(24)]
    rng = np.random.default_rng(0)
    images = [np.clip(p + rng.normal(0, 2, p.shape), 0, 255).astype(np.uint8) for p in pictures]
    told = set[str]()
    with pytest.warns(PatchbankWarning, match="show"):
        model = simplenet().fit(images, progress=lambda stage, *_: told.add(stage.partition(":")[0]))
    assert {stage for stage in told if stage.startswith("training")} == {f"training {i} of 6" for i in range(1, 7)}
    assert model.calibration_.parts == 12


@pytest.mark.parametrize(("method", "scheme"), [("simplenet", "held-out"), ("cfm", "auto")])
def test_features_are_computed_once(method: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the near-copies, all folds, the fit and its calibration; and the fit learns what it learns otherwise."""
    images: list[Any] = [good_image(i) for i in range(6)]
    options: dict[str, Any] = {"calibration": scheme}
    if method == "cfm":
        images = [{"rgb": image, "xyz": 50 + image[..., 0] / np.float32(50)} for image in images]
        options |= {"channels": ("rgb", "shading"), "hidden": (8,), "batch": 64}
    computed: list[int] = []
    compute = Extractor._computed
    monkeypatch.setattr(Extractor, "_computed", lambda self, batch: computed.append(len(batch)) or compute(self, batch))
    make = lambda: METHODS[method](image_size=64, epochs=2, threads=1, **options)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once = make().fit(images)
        assert sum(computed) == 6
        monkeypatch.setattr(Learner, "_has_room", lambda self, images, patches: False)
        again = make().fit(images)
    assert sum(computed) >= 3 * 6
    assert np.array_equal(once.calibration_.scores, again.calibration_.scores)
    one, other = once.fitted.scorer.state()[0], again.fitted.scorer.state()[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert once.fitted.training["learned_from"] == again.fitted.training["learned_from"]


def test_what_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(good_image(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:3000])
    told: list[str] = []
    simplenet().fit(tmp_path, on_error=lambda name, error: told.append(name))
    assert told == [str(tmp_path / "3.png")]


@pytest.mark.parametrize(("images", "schemes"), [(8, ["leave-one-out", "k-fold"]), (50, ["held-out"] * 2)])
@pytest.mark.parametrize("first", ["patchcore", "simplenet"])
def test_a_bank_and_a_network_are_calibrated_on_the_same_images(images: int, schemes: list[str], first: str) -> None:
    """Pictures of one part, which only the fit finds, stay together in both."""
    pictures = [good_image(10 * (i // 2), (64, 64)) for i in range(images)]
    rng = np.random.default_rng(0)
    noisy = [np.clip(p + rng.normal(0, 2, p.shape), 0, 255).astype(np.uint8) for p in pictures]
    members = [METHODS["patchcore"](image_size=64, threads=1, bank_size=50), simplenet()]  # type: ignore[call-arg]
    if first == "simplenet":
        members, schemes = members[::-1], schemes[::-1]
    with pytest.warns(PatchbankWarning, match="several pictures of one part"):
        model = Ensemble(members=members).fit(noisy)
    assert [member.calibration_.how for member in model.members] == schemes
    assert np.isfinite(model.calibration_.scores).all()
    assert len(model.calibration_.scores) == (images if "k-fold" in schemes else images // 5)
    assert model.by_mean_map
    one, other = (dict(zip(m.calibration_.images, m.calibration_.peaks, strict=True)) for m in model.members)
    for name, score in zip(model.calibration_.images, model.calibration_.scores, strict=True):
        # the peak of a mean is no higher than the mean of the peaks
        assert score <= np.mean([_standard(peaks, name) for peaks in (one, other)]) + 1e-6


def _standard(peaks: dict[str, float], name: str) -> float:
    found = np.array(list(peaks.values()))
    return float((peaks[name] - found.mean()) / found.std(ddof=1))
