"""What an extension costs: a method, a trained method and a channel are one file each, known to everything by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import patchbank
from patchbank.data.channels import READERS, register_channel
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.export import export
from patchbank.features.store import FeatureStore
from patchbank.registry import METHODS, register
from patchbank.sample import Data
from patchbank.scorer import Grid, Levels, Scorer, lengths
from patchbank.training import Training
from patchbank.training.items import Patches
from patchbank.training.scorer import TrainedScorer
from tests.conftest import bad_image, good_image
from tests.toys import MeanScorer

GOOD = [good_image(i) for i in range(6)]


# ---- a method: the distance of each patch to the mean patch ----------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class Toy(Detector):
    method: ClassVar[str] = "toy"
    summary: ClassVar[str] = "distance to the mean patch"
    scorer_class: ClassVar[type[Scorer]] = MeanScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {"sharp": {"sigma": 2.0}}

    aggregation: str | None = "mean"
    power: float = 1.0

    def make_scorer(self, levels: Levels) -> Scorer:
        return MeanScorer(levels)


# ---- a trained method: what a small autoencoder leaves of each patch -------------------------------------------------


class Autoencoder(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, d))

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        return lengths(self.layers(vectors) - vectors)


class AutoencoderTask:
    def __init__(self, network: Autoencoder, patches: Patches):
        self.network, self.items = network, patches

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=1e-2)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        rows = self.items.rows(numbers)
        return (self.network.layers(rows) - rows).square().mean()


class AutoencoderScorer(TrainedScorer):
    def make_network(self) -> Autoencoder:
        return Autoencoder(self.levels.dimension)

    def task(self, network: Autoencoder, features: FeatureStore) -> AutoencoderTask:
        return AutoencoderTask(network, Patches.of(features))


@dataclass(kw_only=True, eq=False)
class Trained(Detector):
    method: ClassVar[str] = "trained-toy"
    summary: ClassVar[str] = "what an autoencoder leaves"
    scorer_class: ClassVar[type[Scorer]] = AutoencoderScorer

    aggregation: str | None = "mean"
    epochs: int = 6

    def make_scorer(self, levels: Levels) -> Scorer:
        return AutoencoderScorer(levels, Training(self.epochs, 128, self.seed), self.torch_device)


# ---- a channel: temperatures, stored as hundredths of a kelvin in the two channels of a picture ----------------------


def read_thermal(data: Data) -> np.ndarray:
    """Kelvin, H×W."""
    if isinstance(data, np.ndarray):
        stored = data
    else:
        try:
            stored = np.asarray(Image.open(data))  # type: ignore[arg-type]
        except OSError as error:
            raise ImageError(f"cannot be read as temperatures ({error})") from None
    return 256 * stored[:, :, 0].astype(np.float32) / 100 + stored[:, :, 1].astype(np.float32) / 100


def thermal(seed: int, hot: bool = False) -> np.ndarray:
    """A picture that means nothing as colours."""
    kelvin = 290 + 5 * good_image(seed, (64, 96))[:, :, 0].astype(np.float32) / 255
    if hot:
        kelvin[20:34, 40:54] += 8
    hundredths = np.round(kelvin * 100).astype(np.uint32)
    return np.stack([hundredths >> 8, hundredths & 255, np.zeros_like(hundredths)], axis=2).astype(np.uint8)


@pytest.fixture
def channel() -> Iterator[str]:
    register_channel("thermal", read_thermal)
    yield "thermal"
    del READERS["thermal"]


def test_a_channel_is_a_reader(channel: str, tmp_path: Path) -> None:
    samples = [{"rgb": good_image(i, (64, 96)), channel: thermal(i)} for i in range(6)]
    model = patchbank.PatchCore(image_size=64, channels=(channel,)).fit(samples)
    hot, cold = ({"rgb": good_image(50, (64, 96)), channel: thermal(50, hot)} for hot in (True, False))
    assert model.predict(hot).score > 1.5 * model.predict(cold).score
    x, y = np.unravel_index(np.nanargmax(model.predict(hot).map), (64, 96))[::-1]
    assert 34 <= x < 60
    assert 14 <= y < 40
    # the colours are those of a good part
    colours = patchbank.PatchCore(image_size=64).fit(samples)
    assert colours.predict(hot).score == colours.predict(cold).score
    # a plain image is the channel that is looked at
    assert model.predict(thermal(50, True)).score == model.predict(hot).score
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank")
    assert loaded.predict(hot).score == model.predict(hot).score
    export(model, tmp_path / "out", to="torchscript", images=[hot, cold])
    assert runtime.load(tmp_path / "out").predict(hot).score == pytest.approx(model.predict(hot).score, rel=1e-4)


def test_a_missing_channel_is_refused_by_name(channel: str) -> None:
    samples = [{"rgb": good_image(i, (64, 96)), channel: thermal(i)} for i in range(4)]
    model = patchbank.PatchCore(image_size=64, channels=(channel,)).fit(samples)
    with pytest.raises(ImageError, match="image 0: has no channel 'thermal' \\(it has 'rgb'\\)"):
        model.predict({"rgb": good_image(0, (64, 96))})
    failed: list[str] = []
    found = list(model.predict_many([samples[0], {"rgb": thermal(0)}], on_error=lambda n, e: failed.append(str(e))))
    assert len(found) == len(failed) == 1
    with pytest.raises(DatasetError, match="none of the 1 images"):
        patchbank.PatchCore(image_size=64).fit([{"depth": thermal(0)}], on_error=lambda n, e: None)
    with pytest.raises(OptionError, match=r"channels must be among rgb, thermal, .*, not 'heat'"):
        patchbank.PatchCore(channels=("heat",)).fit(samples)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "at least one channel"),
        ({1: good_image(0)}, "a mapping is one sample"),
        ({"rgb": {"rgb": good_image(0)}}, "a mapping is one sample"),
        ({"rgb": np.zeros((3, 8, 8, 3), np.uint8)}, "must be one image, not 3"),
    ],
)
def test_mappings_that_are_no_sample(given: dict[Any, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        patchbank.PatchCore().fit([given])


def test_a_channel_has_its_commands(channel: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from patchbank.cli import app

    for folder, hot in (("train/good", False), ("test/good", False), ("test/hot", True)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(thermal(10 * len(folder) + i, hot)).save(tmp_path / "set" / folder / f"{i}.png")
    small, run = ["--set", f"channels={channel}", "--set", "image_size=64", "--threads", "1"], CliRunner().invoke
    model = str(tmp_path / "m.patchbank")
    done = run(app, ["fit", str(tmp_path / "set"), "-o", model, *small], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    done = run(app, ["predict", model, str(tmp_path / "set/test/hot"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    done = run(app, ["benchmark", str(tmp_path / "set"), "-O", str(tmp_path / "out"), "--cache", "0", *small])
    assert done.exit_code == 0, done.output
    metrics = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metrics.json")]
    assert metrics[0]["image_auroc"] == 1.0


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
        ["benchmark", str(parts), "-O", str(out), "--methods", kind.method, "--cache", "0", "--set", "image_size=96"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    metrics = [json.loads(path.read_text()) for path in out.rglob("metrics.json")]
    assert [m["method"] for m in metrics] == [kind.method]
    assert np.isfinite(metrics[0]["image_auroc"])
    assert kind.method in run(app, ["methods"]).output
