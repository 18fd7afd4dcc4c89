"""Unfinished trainings on disk, and who may go on with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import patchbank
from patchbank import PatchCore
from patchbank.data import RegionOfInterest
from patchbank.errors import OptionError, PatchbankWarning
from patchbank.methods import METHODS
from patchbank.training.checkpoint import Checkpoints, State
from patchbank.training.options import check_training
from tests.conftest import good_image

GOOD = [good_image(i) for i in range(3)]
QUICK: dict[str, Any] = {"image_size": 64, "epochs": 2, "hidden": 8, "threads": 1}


def simplenet(**options: Any) -> Any:
    return METHODS["simplenet"](**QUICK | options)


class Stop(Exception):
    """Somebody pulled the plug."""


def broken_off(model: Any, folder: Path, training: str = "training 2") -> None:
    """The model's fit ends in one of its trainings; those before it are kept."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage.startswith(training):
            raise Stop

    with pytest.raises(Stop):
        model.fit(GOOD, checkpoints=folder, progress=progress)
    assert list(folder.glob("*.safetensors"))


def trainings(model: Any, folder: Path, images: Any = GOOD) -> set[str]:
    """Go on. Returns which trainings took steps."""
    told = set()
    progress = lambda stage, done, total: told.add(stage.partition(":")[0])  # noqa: E731
    model.fit(images, checkpoints=folder, resume=True, progress=progress)
    return {stage for stage in told if stage.startswith("training")}


# ---- the file --------------------------------------------------------------------------------------------------------


def state(seed: int) -> State:
    """Of two networks in one, with two kinds of optimiser."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    optimisers = [
        torch.optim.AdamW(network[0].parameters(), lr=0.1),
        torch.optim.SGD(network[2].parameters(), lr=0.1, momentum=0.9),
    ]
    for _ in range(seed):
        network(torch.randn(5, 3)).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
    torch.set_rng_state(torch_state)
    return State(network, optimisers, torch.Generator().manual_seed(seed), {"epoch": seed, "loss": float("nan")})


def test_all_of_a_training_comes_back(tmp_path: Path) -> None:
    kept, one, other = Checkpoints(tmp_path, resume=True), state(3), state(1)
    kept.save("images", one)
    assert kept.load("images", other)
    assert other.values["epoch"] == 3
    assert np.isnan(other.values["loss"])
    expected, found = one.tensors(), other.tensors()
    assert expected.keys() == found.keys()
    assert len(expected) > 10
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(torch.rand(3, generator=one.generator), torch.rand(3, generator=other.generator))


def test_nothing_is_read_that_was_not_asked_for(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save("images", state(3))
    assert not Checkpoints(tmp_path).load("images", state(1))
    assert not Checkpoints(tmp_path, resume=True).load("other images", state(1))
    assert not Checkpoints(tmp_path, resume=True, identity="other options").load("images", state(1))


def test_files_of_others_stay(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.is_empty
    (tmp_path / "weights.safetensors").write_bytes(b"mine")
    assert kept.is_empty
    kept.save("images", state(1))
    assert not kept.is_empty
    half = tmp_path / f".{kept.path('images').name}.x1y2.tmp"  # what a killed process leaves
    half.write_bytes(b"half")
    kept.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    (tmp_path / "weights.safetensors").unlink()
    kept.finish()
    assert not tmp_path.exists()


# ---- fits ------------------------------------------------------------------------------------------------------------


def test_a_fit_goes_on_with_the_trainings_that_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    broken_off(simplenet(), folder, "training 3")
    assert trainings(simplenet(), folder) == {"training 3 of 4", "training 4 of 4"}
    assert not folder.exists()


@pytest.mark.parametrize("machine", [{"memory_budget": 8_000_000_000}, {"max_minutes": 60.0}, {"thumbnails_mb": 0.0}])
def test_options_that_leave_the_weights_alone(machine: dict[str, Any], tmp_path: Path) -> None:
    broken_off(simplenet(), tmp_path)
    assert trainings(simplenet(**machine), tmp_path) == {"training 2 of 4", "training 3 of 4", "training 4 of 4"}


ROI = RegionOfInterest(include=(((10.0, 5.0), (100.0, 5.0), (100.0, 90.0)),))


@pytest.mark.parametrize(
    ("other", "images"),
    [
        ({"seed": 1}, GOOD),
        ({"hidden": 9}, GOOD),
        ({"epochs": 3}, GOOD),
        ({"roi": ROI}, GOOD),
        ({"levels": (1, 2)}, GOOD),
        ({}, [good_image(10 + i) for i in range(3)]),
    ],
)
def test_what_is_kept_of_another_training_is_not_used_and_that_is_said(
    other: dict[str, Any], images: Any, tmp_path: Path
) -> None:
    broken_off(simplenet(), tmp_path)
    with pytest.warns(PatchbankWarning, match="what is kept there is another training"):
        found = trainings(simplenet(**other), tmp_path, images)
    assert len(found) == 4


def test_nothing_to_go_on_with_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="resume needs the folder where the training is kept: give checkpoints"):
        simplenet().fit(GOOD, resume=True)
    with pytest.raises(OptionError, match="patchcore learns no weights, so it has nothing to resume: leave out"):
        PatchCore().fit(GOOD, checkpoints=tmp_path, resume=True)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(OptionError, match="keeps no unfinished training: leave out --resume"):
            simplenet().fit(GOOD, checkpoints=folder, resume=True)
    model = METHODS["subspace"](image_size=64).fit(GOOD, checkpoints=tmp_path / "unused")  # type: ignore[call-arg]
    assert model.is_fitted
    assert not (tmp_path / "unused").exists()


def test_an_ensemble_goes_on_with_the_member_that_was_interrupted(tmp_path: Path) -> None:
    """Its members' trainings are told apart, also where they differ in one option alone."""

    def ensemble() -> Any:
        return patchbank.Ensemble(members=[simplenet(), simplenet(noise=0.2)])

    expected = ensemble().fit(GOOD)
    told: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        told.append(stage.partition(":")[0])
        if told[-1] == "training 2 of 4" and "training 4 of 4" in told:
            raise Stop

    with pytest.raises(Stop):
        ensemble().fit(GOOD, checkpoints=tmp_path / "t", progress=progress)
    again = ensemble().fit(GOOD, checkpoints=tmp_path / "t", resume=True)
    assert again.predict(GOOD[0]) == expected.predict(GOOD[0])
    one, two = (member.scorer.network.adaptor.weight for member in again.members)
    assert not torch.equal(one, two)
    assert not (tmp_path / "t").exists()


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"max_minutes": 0.0}, "max_minutes must be more than 0, not 0.0"),
        ({"patience": -1}, "patience must be at least 0 epochs, not -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        simplenet(**options).fit(GOOD)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.1])
def test_learning_rates_that_make_no_sense(rate: float) -> None:
    options = METHODS["cfm"](learning_rate=rate)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"learning_rate must lie in \(0, 1\]"):
        check_training(options)
