"""A fit that several workers share leaves the model of one machine, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from patchbank.detector import Detector
from patchbank.methods import METHODS
from tests.conftest import good_image
from tests.distributed.crews import here

CASES: dict[str, dict[str, Any]] = {
    "patchcore": {"bank_size": 100},
    "patchcore approximate": {"bank_size": 60, "sampler": "approximate"},
    "patchcore random": {"bank_size": 60, "sampler": "random"},
    "patchcore identity": {"sampler": "identity"},
    "patchcore radius": {"coreset": 0.5, "coreset_radius": 3.0},
    "patchcore paper": {"geometry": "paper", "bank_size": 80},
    "patchcore projected": {"levels": (3, 4), "bank_size": 50},
    "patchcore corrected": {"bank_size": 100, "calibration": "corrected leave-one-out", "image_size": 64},
    "patchcore held-out": {"bank_size": 100, "calibration": "held-out"},
    "patchcore k-fold": {"bank_size": 50, "calibration": "k-fold"},
    "patchcore augmented": {"bank_size": 50, "augment": "rotations", "image_size": 64},
    "lmf": {},
    "lmf greedy": {"sampler": "greedy", "projection": 16},
    "padim": {"n_features": 20},
    "mahalanobis": {},
    "subspace": {},
    "fapm": {},
}


def make(case: str) -> Detector:
    method, options = case.split()[0], CASES[case]
    return METHODS[method](**{"image_size": 96, "threads": 1, **options})


def images(count: int = 11) -> list[np.ndarray]:
    """Of two shapes, for methods that take them."""
    return [good_image(i, (96, 128) if i % 3 else (96, 160)) for i in range(count)]


def same(one: Detector, other: Detector) -> None:
    (tensors, values), (others, other_values) = one.memory_state(), other.memory_state()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert repr(values) == repr(other_values)
    for name in ("scores", "peaks"):
        np.testing.assert_array_equal(getattr(one.calibration_, name), getattr(other.calibration_, name))
    assert one.calibration_.how == other.calibration_.how
    assert one.calibration_.images == other.calibration_.images
    assert one.training_["learned_from"] == other.training_["learned_from"]


@pytest.mark.parametrize("case", CASES)
def test_the_model_of_one_machine(case: str) -> None:
    count = 22 if "corrected" in case else 11
    given = [good_image(i) for i in range(count)] if case.startswith("padim") else images(count)
    alone = make(case).fit(given)
    for workers in (1, 3):
        same(alone, make(case).fit(given, cluster=here(workers)))


@pytest.mark.parametrize("method", ["collect", "map_blocks", "map_rows", "candidates", "visit", "take", "place"])
def test_a_worker_that_is_lost_changes_nothing(method: str) -> None:
    given, case = images(), "patchcore projected" if method == "map_rows" else "patchcore"
    alone = make(case).fit(given)
    cluster = here(3, lambda worker, called, number: called == method and worker != 1 and number == 1)
    with pytest.warns(match="was lost"):
        same(alone, make(case).fit(given, cluster=cluster))
    assert cluster.crew.losses >= 1
