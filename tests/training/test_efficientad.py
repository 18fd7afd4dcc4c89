"""What is particular to EfficientAD: its teachers, its penalty, and the scale of its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchbank.data import gather
from patchbank.errors import OptionError, WeightsError
from patchbank.methods.efficientad import EfficientAD, EfficientADNetwork, changed_colours
from patchbank.training.anomalies import PictureTextures
from patchbank.training.loop import Training, train
from patchbank.training.network import build
from patchbank.training.pdn import (
    Distillation,
    learn_statistics,
    patch_description_network,
    read_teacher,
)
from patchbank.training.pictures import GoodPictures
from tests.conftest import good_image
from tests.training.literal import efficientad as literal

TINY: dict[str, Any] = {"image_size": 64, "width": 0.03, "epochs": 1, "threads": 1}
GOOD = [good_image(i) for i in range(3)]


@pytest.fixture(scope="module")
def model() -> EfficientAD:
    return EfficientAD(**TINY, calibration="held-out").fit(GOOD)


def test_a_place_of_the_teachers_map_sees_33_pixels() -> None:
    teacher = build(lambda: patch_description_network(0.1, 4), 0).requires_grad_(False)
    pictures = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = teacher(pictures)
    assert maps.shape == (1, 4, 32, 24)
    maps[0, :, 16, 12].sum().backward()
    assert pictures.grad is not None
    rows, columns = (pictures.grad.abs().sum((0, 1, 3 - axis)).nonzero() for axis in (0, 1))
    assert len(rows) == len(columns) == 33
    assert float(rows.float().mean()) == 64  # the middle of what it sees


def test_published_weights_are_read(tmp_path: Path) -> None:
    published = build(lambda: patch_description_network(1.0, 384), 3)
    torch.save(published.state_dict(), tmp_path / "teacher_small.pth")
    teacher = build(lambda: patch_description_network(1.0, 384), 4)
    with torch.no_grad():
        read_teacher(str(tmp_path / "teacher_small.pth"), teacher)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), published.parameters(), strict=True))
    assert sorted(teacher.state_dict()) == sorted(f"{i}.{part}" for i in (0, 3, 6, 8) for part in ("weight", "bias"))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    teacher = build(lambda: patch_description_network(0.1, 4), 0)
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(
        WeightsError, match=r"other\.pth: these weights are not those of a PDN-S: they have no '0\.weight'$"
    ):
        read_teacher(str(path), teacher)
    torch.save(build(lambda: patch_description_network(0.1, 5), 0).state_dict(), path)
    with pytest.raises(WeightsError, match=r"8\.weight has shape \(5, 26, 4, 4\) instead of \(4, 26, 4, 4\)$"):
        read_teacher(str(path), teacher)
    with pytest.raises(WeightsError, match="no such weight file"):
        EfficientAD(teacher=str(tmp_path / "nowhere.pth"), image_size=64).fit(GOOD[:1])


def test_a_model_says_which_teacher_it_has(model: EfficientAD) -> None:
    assert model.training_["teacher"].startswith("distilled here from efficientnet_lite0 on your pictures")
    assert "not the published one" in model.training_["teacher"]


def test_a_published_teacher_has_the_published_width() -> None:
    assert EfficientAD(teacher="t.pth", device="cpu").option("width") == 1.0
    with pytest.raises(OptionError, match=r"^a published teacher has the published width: leave out width=0.5$"):
        EfficientAD(teacher="t.pth", width=0.5).check()


def test_a_distilled_teacher_says_what_the_network_says(model: EfficientAD) -> None:
    """More training brings it nearer, and no weight of the student is moved."""
    scorer: Any = model.scorer
    network = build(scorer.make_network, 1)
    pictures = GoodPictures(model.extractor.collect(gather(GOOD)))
    before = {name: value.clone() for name, value in network.student.state_dict().items()}
    distillation = Distillation(network.teacher, network.colours, network.outputs, pictures, 0.005, 0.0)
    numbers = torch.arange(3)
    first, last = [], []
    for losses in (first, last):
        for seed in range(3):
            with torch.no_grad():
                losses.append(float(distillation.loss(numbers, torch.Generator().manual_seed(seed))))
        if losses is first:
            train(distillation, Training(15, 1))
    assert np.mean(last) < 0.8 * np.mean(first)
    assert all(torch.equal(value, before[name]) for name, value in network.student.state_dict().items())


def test_statistics_of_maps() -> None:
    maps = [torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(i)) * 3 + 1 for i in range(3)]
    network = build(lambda: EfficientADNetwork(5 / 384), 0)
    learn_statistics(network.statistics, maps)
    every = network.statistics.of_maps(torch.cat(maps))
    assert every.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(5), abs=1e-5)
    assert every.std((0, 2, 3), correction=0).numpy() == pytest.approx(np.ones(5), abs=1e-5)


def test_the_penalty_on_other_pictures(model: EfficientAD) -> None:
    scorer: Any = model.scorer
    task = scorer.task(build(scorer.make_network, 2), model.extractor.collect(gather(GOOD)))
    numbers = torch.tensor([1])
    task.others = PictureTextures((np.random.default_rng(0).integers(0, 255, (90, 70, 3)).astype(np.uint8),))
    good, generator = task.items.pictures(numbers), torch.Generator()
    with torch.no_grad():
        found = float(task.loss(numbers, generator.manual_seed(7)))
        with_others, without = (
            float(task.network.loss(good, good, others, generator.manual_seed(7))) for others in (good, None)
        )
        said = task.network.student(task.network.seen(good))[:, : task.network.outputs]
    assert found == pytest.approx(literal.loss(task, numbers, 7), rel=1e-4)
    assert with_others - without == pytest.approx(float(said.square().mean()), rel=1e-2)


def test_maps_of_good_pictures_that_were_kept_back_have_one_scale(model: EfficientAD) -> None:
    """Nine tenths of their pixels lie below 0, and 99.5 % below 0.1, in both maps."""
    scorer: Any = model.scorer
    features = model.extractor.collect(gather(GOOD))
    scorer = scorer.copied()
    scorer.fit(features)
    learned, held = scorer._split(3)
    assert sorted(learned + held) == [0, 1, 2]
    assert len(held) == 1
    with torch.no_grad():
        maps = scorer.network.maps(features.of_image(held[0])[None], features.refs[held[0]].grid)
        scaled = scorer.network.scale(maps)[0].flatten(1).numpy()
    assert np.quantile(scaled, 0.9, axis=1) == pytest.approx([0, 0], abs=1e-5)
    assert np.quantile(scaled, 0.995, axis=1) == pytest.approx([0.1, 0.1], abs=1e-5)


def test_colours_change_by_a_fifth_at_most() -> None:
    pictures = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    found = changed_colours(pictures, torch.Generator().manual_seed(1))
    assert float((found - pictures).abs().max()) <= 0.2 * 0.75 + 1e-6
    means, were = found.mean((1, 2, 3)), pictures.mean((1, 2, 3))
    assert 8 < int((means / were - 1).abs().gt(0.02).sum()) < 40  # a third of them is brighter or darker
