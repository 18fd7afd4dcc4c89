"""The same numbers on a GPU as on a CPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import patchbank
from patchbank import PatchCore, SimpleNet
from patchbank.features.backbones import open_backbone
from patchbank.memory.coreset import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from patchbank.memory.search import make_index
from tests.conftest import bad_image, good_image

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


def drawn(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.logspace(1, -1, d) + 2


@pytest.mark.parametrize("sampler_class", [GreedyCoresetSampler, ApproximateGreedyCoresetSampler])
@pytest.mark.parametrize(("n", "d"), [(20_000, 128), (3000, 16), (1, 4)])
def test_the_same_selection(sampler_class: type, n: int, d: int) -> None:
    features = drawn(n, d, seed=0)
    on_cpu, on_gpu = sampler_class(0.1, "cpu"), sampler_class(0.1, "cuda")
    on_cpu.run(features)
    kept = on_gpu.run(features.cuda())
    assert on_gpu.indices_.tolist() == on_cpu.indices_.tolist()
    assert kept.device.type == "cuda"
    assert on_gpu.covering_radius_ == pytest.approx(on_cpu.covering_radius_, rel=1e-5)


def test_the_same_neighbours() -> None:
    queries, bank = drawn(500, 152, seed=1), drawn(9000, 152, seed=2)
    index = make_index(bank.cuda())
    assert index.name == "blocked"
    distances, indices = index.nearest(queries.cuda())
    exact = torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert torch.allclose(distances.cpu().double(), exact.values, rtol=1e-4)
    assert float((indices.cpu() == exact.indices).float().mean()) > 0.999


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_the_same_features(precision: str, tolerance: float) -> None:
    image = 255 * torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    on_gpu = open_backbone("efficientnet_lite0", device="cuda", precision=precision)
    for ours, theirs in zip(on_gpu(image), open_backbone("efficientnet_lite0", runtime="torch")(image), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours.cpu() - theirs).abs().max()) < tolerance * float(theirs.abs().max())


def test_fit_save_and_predict(tmp_path: Path) -> None:
    images = [good_image(i) for i in range(8)]
    models = {device: PatchCore(image_size=96, bank_size=100, device=device).fit(images) for device in ("cpu", "cuda")}
    for image in (good_image(20), bad_image(20)):
        cpu, cuda = (models[device].predict(image) for device in ("cpu", "cuda"))
        assert cuda.score == pytest.approx(cpu.score, rel=1e-2)
        assert cuda.is_anomalous == cpu.is_anomalous
    models["cuda"].save(tmp_path / "m.patchbank")
    again = patchbank.load(tmp_path / "m.patchbank", device="cpu")
    assert again.predict(bad_image(20)).score == pytest.approx(models["cuda"].predict(bad_image(20)).score, rel=1e-2)


def test_the_same_fit_twice() -> None:
    images = [good_image(i) for i in range(6)]
    first, second = (PatchCore(image_size=96, bank_size=80, device="cuda").fit(images) for _ in range(2))
    assert torch.equal(first.bank_.vectors, second.bank_.vectors)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_are_learned_and_resumed(precision: str, tmp_path: Path) -> None:
    options = {"image_size": 64, "epochs": 8, "batch": 96, "noise": 0.5, "calibration": "held-out"}
    images = [good_image(i) for i in range(8)]
    on_cpu = SimpleNet(**options, device="cpu").fit(images)
    on_gpu = SimpleNet(**options, device="cuda", precision=precision)

    def fail(stage: str, done: int, total: int) -> None:
        if stage.startswith("training") and done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_gpu.fit(images, checkpoints=tmp_path / "training", progress=fail)
    on_gpu.fit(images, checkpoints=tmp_path / "training", resume=True)
    assert on_gpu.training_["loss"] == pytest.approx(on_cpu.training_["loss"], rel=0.2)
    assert on_gpu.predict(good_image(20)).score < on_gpu.predict(bad_image(20)).score
    on_gpu.save(tmp_path / "m.patchbank")
    there, here = (patchbank.load(tmp_path / "m.patchbank", device=device) for device in ("cuda", "cpu"))
    assert here.predict(bad_image(20)).score == pytest.approx(there.predict(bad_image(20)).score, rel=0.02)
