"""A fit that several workers share leaves the model of one machine, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank.data import RegionOfInterest
from patchbank.detector import Detector
from patchbank.distributed.crew import ClusterError
from patchbank.errors import OptionError
from patchbank.methods import METHODS
from tests.conftest import good_image
from tests.distributed.crews import here

CASES: dict[str, dict[str, Any]] = {
    "patchcore": {"bank_size": 100},
    "patchcore approximate": {"bank_size": 60, "sampler": "approximate"},
    "patchcore random": {"bank_size": 60, "sampler": "random"},
    "patchcore projected": {"levels": (4,), "bank_size": 8},
    "patchcore paper": {"geometry": "paper", "aggregation": "mean", "levels": (2,), "bank_size": 80},
    "patchcore roi": {"bank_size": 60, "roi": RegionOfInterest((((5, 5), (60, 8), (70, 50), (10, 60)),))},
    "patchcore corrected": {"bank_size": 100, "calibration": "corrected leave-one-out"},
    "patchcore held-out": {"bank_size": 100, "calibration": "held-out"},
    "subspace augmented": {"augment": "rotations"},
    "lmf": {},
    "lmf greedy": {"sampler": "greedy", "projection": 16},
    "padim": {"n_features": 20},
    "mahalanobis": {},
    "subspace": {},
    "fapm": {"regions": 2},
}


def make(case: str) -> Detector:
    method, options = case.split()[0], CASES[case]
    return METHODS[method](**{"image_size": 64, "threads": 1, **options})


def images(count: int = 11) -> list[np.ndarray]:
    """Of two shapes, for methods that take them."""
    return [good_image(i, (64, 96) if i % 3 else (64, 128)) for i in range(count)]


def images_for(case: str) -> list[np.ndarray]:
    count = 30 if "corrected" in case else 5  # so many that four fifths make a position scale
    return [good_image(i, (64, 96)) for i in range(count)] if case.startswith("padim") else images(count)


@cache
def alone(case: str) -> Detector:
    """The model of one machine."""
    return make(case).fit(images_for(case))


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
    same(alone(case), make(case).fit(images_for(case), cluster=here(3)))


def test_workers_that_are_lost_change_nothing() -> None:
    case, methods = "patchcore projected", list[str]()

    def loses(worker: int, method: str, number: int) -> bool:
        methods.append(method)
        return worker != 1 and number == 1 and method != "open"

    cluster = here(3, loses)
    with pytest.warns(match="was lost"):
        same(alone(case), make(case).fit(images_for(case), cluster=cluster))
    asked = {"collect", "place", "map_blocks", "map_rows", "scale", "traverse", "candidates", "radius", "take", "visit"}
    assert asked <= set(methods)
    assert cluster.crew.losses >= len(asked)


def test_a_worker_that_is_lost_each_time_is_said() -> None:
    cluster = here(2, lambda worker, method, number: method == "collect" and worker == 1)
    words = "worker 2 of 2 was lost 4 times in collect"
    with pytest.warns(match="was lost"), pytest.raises(ClusterError, match=words):
        make("patchcore").fit(images(4), cluster=cluster)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(good_image(i)).save(tmp_path / f"{i}.png")
    broken = tmp_path / "3.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    models, failed = [], list[list[str]]()
    for cluster in (None, here(2)):
        failed.append([])
        heard = failed[-1].append
        models.append(
            make("patchcore").fit(tmp_path, cluster=cluster, on_error=lambda name, _, heard=heard: heard(name))
        )
    same(*models)
    assert failed[0] == failed[1] == [str(broken)]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("spade", {}, "spade cannot be fitted on a cluster"),
        ("patchcore", {"backbone": ["efficientnet_lite0"] * 2}, "an ensemble cannot be fitted"),
        ("patchcore", {"sampler": "proxies"}, "sampler=proxies"),
    ],
)
def test_what_cannot_be_shared_is_refused(method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        METHODS[method](image_size=64, **options).fit(images(3), cluster=here(2))


def test_a_coreset_of_coresets() -> None:
    given = images_for("patchcore")
    model = METHODS["patchcore"](image_size=64, threads=1, bank_size=60, coreset="stream")
    with pytest.warns(match="covering radius .* as measured; at most .* by its bound") as said:
        model.fit(given, cluster=here(3))
    assert len(model.bank_) == 60
    bound = next(
        float(str(one.message).split("at most ")[1].split()[0]) for one in said if "at most" in str(one.message)
    )
    assert 0 < model.bank_.covering_radius <= bound
