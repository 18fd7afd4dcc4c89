"""What an extension costs: a method and a trained method are one file each, known to everything by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import Self

import patchbank
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import DatasetError, OptionError, Progress
from patchbank.export import export
from patchbank.features.store import FeatureStore
from patchbank.registry import METHODS, register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, lengths, masked
from patchbank.training import Trainable, Training, build, train
from tests.conftest import bad_image, good_image

GOOD = [good_image(i) for i in range(6)]


# ---- a method: the distance of each patch to the mean patch ----------------------------------------------------------


class ToyScorer(Scorer):
    mean: Tensor

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        self.mean = features.stored.mean(0)
        return self

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        return PatchScores(masked(lengths(points - self.mean), inspected))

    def state(self) -> tuple[Memory, dict[str, Any]]:
        return {"mean": self.mean}, {}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mean = tensors["mean"]
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        return {"mean": self.mean.cpu().clone()}, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.mean = memory["mean"]
        return scorer


@dataclass(kw_only=True, eq=False)
class Toy(Detector):
    method: ClassVar[str] = "toy"
    summary: ClassVar[str] = "distance to the mean patch"
    scorer_class: ClassVar[type[Scorer]] = ToyScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {"sharp": {"sigma": 2.0}}

    aggregation: str | None = "mean"
    power: float = 1.0

    def make_scorer(self, levels: Levels) -> Scorer:
        return ToyScorer(levels)


# ---- a trained method: what a small autoencoder leaves of each patch -------------------------------------------------


class TrainedScorer(Scorer):
    def __init__(self, levels: Levels, training: Training):
        super().__init__(levels)
        self.training_options, self.loss = training, float("nan")
        d = levels.dimension
        self.network = build(lambda: nn.Sequential(nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, d)), training.seed)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        self.loss = train(self, features.stored, self.training_options, progress)
        return self

    def training_step(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return (self.network(batch) - batch).square().mean()

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        return PatchScores(masked(lengths(self.network(points) - points), inspected))

    def state(self) -> tuple[Memory, dict[str, Any]]:
        return {name: tensor.detach() for name, tensor in self.network.state_dict().items()}, {"loss": self.loss}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.network.load_state_dict({name: tensors[name] for name in self.network.state_dict()})
        self.network.requires_grad_(False)
        self.loss = values["loss"]
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        return {}, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        return self


@dataclass(kw_only=True, eq=False)
class Trained(Detector):
    method: ClassVar[str] = "trained-toy"
    summary: ClassVar[str] = "what an autoencoder leaves"
    scorer_class: ClassVar[type[Scorer]] = TrainedScorer

    aggregation: str | None = "mean"
    steps: int = 60

    def make_scorer(self, levels: Levels) -> Scorer:
        return TrainedScorer(levels, Training(self.steps, 128, seed=self.seed))


# ---- known to everything ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[Toy, Trained], ids=lambda kind: kind.method)
def kind(request: pytest.FixtureRequest) -> Iterator[type[Detector]]:
    yield register(request.param)
    del METHODS[request.param.method]


def test_by_name(kind: type[Detector]) -> None:
    assert kind.method in patchbank.list_methods("*toy")
    assert isinstance(patchbank.create(kind.method, image_size=64), kind)
    if kind is Toy:
        assert patchbank.create("toy.sharp").option("sigma") == 2.0
        assert patchbank.list_methods("toy*") == ["toy", "toy.sharp"]
        with pytest.raises(OptionError, match="no preset 'dull'"):
            patchbank.create("toy.dull")


def test_it_finds_defects_and_repeats_itself(kind: type[Detector]) -> None:
    state = torch.random.get_rng_state()
    model, again = (kind(image_size=64).fit(GOOD) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    good, bad = model.predict(good_image(50)), model.predict(bad_image(3))
    assert bad.score > good.score
    assert again.predict(bad_image(3)).score == bad.score
    assert bad.map.shape == (96, 128)


def test_its_model_file(kind: type[Detector], tmp_path: Path) -> None:
    model = kind(image_size=64).fit(GOOD)
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank")
    assert type(loaded) is kind
    assert loaded.predict(bad_image(3)).score == model.predict(bad_image(3)).score
    loaded.save(tmp_path / "n.patchbank")
    assert (tmp_path / "m.patchbank").read_bytes() == (tmp_path / "n.patchbank").read_bytes()


@pytest.mark.parametrize("to", ["onnx", "openvino", "torchscript"])
def test_its_export(kind: type[Detector], to: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    model = kind(image_size=64).fit(GOOD)
    export(model, tmp_path / "out", to=to, images=[bad_image(3), good_image(50)])
    exported = runtime.load(tmp_path / "out")
    assert exported.predict(bad_image(3)).score == pytest.approx(model.predict(bad_image(3)).score, rel=1e-4)


def test_its_commands(kind: type[Detector], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from patchbank.cli import app

    model, run = tmp_path / "m.patchbank", CliRunner().invoke
    small = ["--method", kind.method, "--image-size", "96", "--threads", "1"]
    done = run(app, ["fit", str(parts / "train" / "good"), "-o", str(model), *small], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    done = run(app, ["predict", str(model), str(parts / "test" / "spot"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    done = run(
        app,
        ["benchmark", str(parts), "-o", str(out), "--methods", kind.method, "--cache", "0", "--set", "image_size=96"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    metrics = [json.loads(path.read_text()) for path in out.rglob("metrics.json")]
    assert [m["method"] for m in metrics] == [kind.method]
    assert np.isfinite(metrics[0]["image_auroc"])
    assert kind.method in run(app, ["methods"]).output


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_a_trained_scorer_is_trainable_and_learns() -> None:
    levels = Levels((8,), (8,), 8)
    patches = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 8)
    short, long = (TrainedScorer(levels, Training(steps, 64, 1e-2)) for steps in (1, 200))
    assert isinstance(short, Trainable)
    seen: list[int] = []
    first = train(short, patches, short.training_options)
    last = train(long, patches, long.training_options, lambda stage, done, total: seen.append(done))
    assert last < 0.1 * first
    assert seen == list(range(1, 201))
    assert not any(parameter.requires_grad for parameter in long.parameters())


def test_a_loss_that_is_no_number_is_said() -> None:
    scorer = TrainedScorer(Levels((4,), (8,), 4), Training(5, 8))
    with pytest.raises(DatasetError, match="smaller learning rate"):
        train(scorer, torch.full((10, 4), torch.inf), scorer.training_options)
