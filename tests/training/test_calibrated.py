"""Where the thresholds of methods come from that learn weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchbank.calibration.schemes import Calibrator
from patchbank.errors import PatchbankWarning
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
