"""What is particular to local scale; its equations are tested with those of the other methods that learn weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchbank.methods import LocalScale
from patchbank.methods.local_scale import LocalScaleTask
from patchbank.training.items import Patches
from patchbank.training.network import build
from patchbank.training.scale import ScaleNetwork
from tests.conftest import bad_image, good_image

SMALL: dict[str, Any] = {"image_size": 64, "epochs": 1, "batch": 64, "hidden": 8, "coreset": 0.3, "threads": 1}
DIMENSION, PARTS, PATCHES = 6, 4, 20


@pytest.fixture(scope="module")
def model() -> LocalScale:
    """Fitted to two images. Do not change it."""
    return LocalScale(**SMALL).fit([good_image(i) for i in range(2)])


@pytest.fixture
def task() -> LocalScaleTask:
    """A bank of every fifth patch of four images."""
    vectors = torch.randn(PARTS * PATCHES, DIMENSION, generator=torch.Generator().manual_seed(1))
    network = build(lambda: ScaleNetwork(DIMENSION, len(vectors) // 5, 8), 0)
    network.statistics.learn(vectors)
    network.bank.copy_(vectors[::5])
    owner = torch.arange(PARTS).repeat_interleave(PATCHES // 5)
    starts = [PATCHES * i for i in range(PARTS + 1)]
    return LocalScaleTask(network, Patches(vectors, starts), range(PARTS), owner, 1e-3, 1.0)


def test_twice_as_far_in_one_direction_scores_twice(task: LocalScaleTask) -> None:
    network, nearest = task.network, torch.tensor([3, 7])
    step = torch.tensor([[1.0, -2, 0.5, 0, 3, 1], [0.1, 0, 0, 0, 0, 0.2]])
    once, twice = (network.scores(network.bank[nearest] + factor * step, nearest) for factor in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


def test_how_far_is_far_hangs_on_place_and_direction(task: LocalScaleTask) -> None:
    network, nearest = task.network, torch.tensor([3, 7, 3])
    step = torch.eye(DIMENSION)[[0, 0, 1]]
    scores = network.scores(network.bank[nearest] + step, nearest)
    assert len({round(float(score), 5) for score in scores}) == 3


def test_the_bank_is_searched_without_the_own_part(task: LocalScaleTask) -> None:
    rows = torch.arange(PARTS * PATCHES)
    parts = task._parts(rows)
    assert parts.tolist() == [i for i in range(PARTS) for _ in range(PATCHES)]
    nearest = task.nearest(task.items.rows(rows), parts)
    assert not (task.owner[nearest] == parts).any()
    task.owner = torch.zeros_like(task.owner)  # one part alone: there is nothing else to compare with
    nearest = task.nearest(task.items.rows(rows[::5]), torch.zeros(len(rows[::5]), dtype=torch.int64))
    assert nearest.tolist() == list(range(len(task.owner)))


def test_pseudo_anomalies_are_as_far_as_the_bank_is_coarse(task: LocalScaleTask) -> None:
    good, distance = task.items.rows(torch.arange(80)), torch.linspace(0.1, 5, 80)
    off = task.pseudo_anomalies(good, distance, torch.Generator().manual_seed(0))
    far = (off - good).norm(dim=1) / distance.mean()
    towards = torch.cosine_similarity(off - good, good.roll(1, 0) - good, dim=1) > 0.9999
    assert 20 < int(towards.sum()) < 60
    assert far[towards].min() >= 0.999
    assert far[towards].max() <= 4.001
    assert 1.9 < float(far[~towards].mean()) < 3.1  # the length of noise varies


def test_it_names_the_patch_that_it_compared_with(model: LocalScale) -> None:
    prediction = model.predict(bad_image(0))
    peak = np.unravel_index(int(np.nanargmax(prediction.map)), prediction.map.shape)
    neighbour = prediction.nearest(int(peak[1]), int(peak[0]))
    assert neighbour.image in model.calibration_.images
    place = model.explain(bad_image(0)).places[0]
    assert place.neighbours[0].distance == pytest.approx(neighbour.distance, rel=1e-4)
    assert len({one.image for one in place.neighbours}) == 2


def test_the_file_holds_the_bank_once(model: LocalScale) -> None:
    tensors, _ = model.scorer.state()
    shape = tensors["bank.vectors"].shape
    assert [name for name, tensor in tensors.items() if tensor.shape == shape] == ["bank.vectors"]
    assert model.training_["memory_vectors"] == len(tensors["bank.vectors"])


def test_channels_have_banks_and_scales_of_their_own(solid: Path) -> None:
    pictures = sorted((solid / "train/good/rgb").glob("*.png"))[:2]
    model = LocalScale(**SMALL, channels=("rgb", "normals")).fit([str(path) for path in pictures])
    banks = [member.network.bank for member in model.scorer.members]
    assert len(banks) == 2
    assert not torch.equal(banks[0][:9], banks[1][:9])
    assert np.isfinite(model.predict(str(solid / "test/missing/rgb/000.png")).score)
