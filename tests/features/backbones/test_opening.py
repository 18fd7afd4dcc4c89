"""Opening a backbone: runtimes agree, weights are found or their absence is one clear sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from patchbank.errors import MissingPackageError, OptionError, WeightsError
from patchbank.features.aggregation import patch_features
from patchbank.features.backbones import engines as runtimes
from patchbank.features.backbones import open_backbone
from patchbank.features.backbones.engines import Head
from patchbank.features.backbones.registry import UrlWeights

LITE = "efficientnet_lite0"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("head", [None, patch_features])
def test_runtimes_give_the_same_features(runtime: str, head: Head | None) -> None:
    backbone, reference = (open_backbone(LITE, runtime=r, head=head) for r in (runtime, "torch"))
    assert backbone.runtime == runtime
    for size in ((96, 96), (64, 160), (224, 224)):
        image = 255 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        for ours, theirs in zip(backbone(image), reference(image), strict=True):
            assert ours.shape == theirs.shape
            assert float((ours - theirs).abs().max()) < 1e-3 * float(theirs.abs().max())
    assert 0 < backbone.difference < 1e-4


def test_a_runtime_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone(LITE, runtime="openvino")
    honest = backbone._run
    monkeypatch.setattr(backbone, "_run", lambda batch: [1.01 * m for m in honest(batch)])
    image = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"openvino computes features .* that differ by 1.0e-02 .* 64×96 pixels"):
        maps = backbone(image)
    assert backbone.runtime == "torch"
    for ours, theirs in zip(maps, open_backbone(LITE, runtime="torch")(image), strict=True):
        assert torch.equal(ours, theirs)


def test_only_so_many_shapes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone(LITE)
    compared = []
    monkeypatch.setattr(runtimes, "difference", lambda *a: compared.append(a[2].shape) or 0.0)
    for side in range(32, 32 * 22, 32):
        for _ in range(2):
            backbone(torch.zeros(1, 3, 32, side))
    assert len(compared) == len(set(compared)) == 16


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "is_available", lambda runtime: runtime == "torch")
    assert open_backbone(LITE).runtime == "torch"
    with pytest.raises(MissingPackageError, match=r"patchbank\[onnx\]"):
        open_backbone(LITE, runtime="onnxruntime")


def test_narrow_precision_is_for_a_gpu() -> None:
    with pytest.raises(OptionError, match="GPU"):
        open_backbone(LITE, precision="bfloat16")
    with pytest.raises(OptionError, match="float16"):
        open_backbone(LITE, precision="int4")


def test_results_are_not_overwritten_by_the_next_call() -> None:
    backbone = open_backbone(LITE)
    first = backbone(torch.zeros(1, 3, 64, 64))[0]
    kept = first.clone()
    backbone(torch.full((1, 3, 64, 64), 255.0))
    assert torch.equal(first, kept)


def test_random_weights_only_by_name() -> None:
    one, same, other = (open_backbone("resnet18", weights="random", seed=s) for s in (0, 0, 1))
    assert one.weights == "random (seed 0)"
    assert one.checksum == same.checksum != other.checksum
    assert (one.channels, one.strides) == ((128, 256), (8, 16))


def test_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    open_backbone("resnet18", weights="random")
    assert torch.equal(torch.get_rng_state(), state)


def test_no_network_and_no_weights_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError) as error:
        open_backbone("wide_resnet50")
    message = str(error.value)
    assert "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth" in message
    assert str(tmp_path / "checkpoints" / "wide_resnet50_2-95faca4d.pth") in message
    assert "--weights PATH" in message
    assert "\n" not in message


def test_a_downloaded_file_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = UrlWeights("https://example.org/net-0123abcd.pth")
    assert source.find() is None
    source.path.parent.mkdir()
    source.path.touch()
    assert source.find() == source.fetch("net") == tmp_path / "checkpoints" / "net-0123abcd.pth"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"name": LITE, "levels": (5,)}, "has the levels 1, 2, 3, 4, not 5"),
        ({"name": LITE, "levels": (3, 2)}, "increasing"),
        ({"name": LITE, "runtime": "tvm"}, "runtime must be one of"),
    ],
)
def test_wrong_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        open_backbone(**options)  # type: ignore[arg-type]


def test_wrong_weight_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weight file"):
        open_backbone(LITE, weights=tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        open_backbone(LITE, weights=tmp_path / "text.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not those of efficientnet_lite0"):
        open_backbone(LITE, weights=tmp_path / "other.pth")


class _Unpickled:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("import pathlib; pathlib.Path('executed').touch()",))


def test_nothing_in_a_weight_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Unpickled()}, "evil.pth")
    with pytest.raises(WeightsError):
        open_backbone(LITE, weights="evil.pth")
    assert not Path("executed").exists()


def test_odd_sizes_are_refused_by_efficientnet_lite() -> None:
    with pytest.raises(OptionError, match="multiples of 16"):
        open_backbone(LITE, runtime="torch")(torch.zeros(1, 3, 90, 90))


class _FakeTimm(nn.Module):
    """What `timm.create_model(features_only=True)` returns, as far as the adapter uses it."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

    def __init__(self, indices: list[int]):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.indices = indices
        self.feature_info = SimpleNamespace(reduction=lambda: [2 ** (i + 1) for i in indices])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(self.stem(x), 2 ** (i + 1)) for i in self.indices]


def test_timm_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    # timm itself needs torchvision, which does not import beside the CPU build of torch
    timm = ModuleType("timm")
    timm.is_model = lambda name: name == "toy"  # type: ignore[attr-defined]
    timm.create_model = lambda name, pretrained, features_only, out_indices=(0, 1, 2, 3): _FakeTimm(list(out_indices))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    backbone = open_backbone("timm/toy", weights="random", runtime="torch")
    assert (backbone.levels, backbone.strides) == ((2, 3), (8, 16))
    assert torch.allclose(backbone(torch.full((1, 3, 32, 32), 127.5))[0], torch.zeros(1), atol=1e-6)
    with pytest.raises(OptionError, match="no model 'nothing'"):
        open_backbone("timm/nothing")
    with pytest.raises(OptionError, match="not 7"):
        open_backbone("timm/toy", levels=(7,), weights="random")


class _FakeTimmTransformer(nn.Module):
    """The same for a vision transformer: every block has the reduction of the patch."""

    def __init__(self, indices: list[int]):
        super().__init__()
        self.stem, self.indices = nn.Conv2d(3, 4, 14, stride=14), indices
        self.feature_info = SimpleNamespace(reduction=lambda: [14] * len(indices))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.stem(x) + i for i in self.indices]


def test_timm_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, asked = ModuleType("timm"), []

    def create(name: str, pretrained: bool, features_only: bool, **options: object) -> nn.Module:
        asked.append(options)
        return _FakeTimmTransformer(list(options.get("out_indices", range(12))))  # type: ignore[call-overload]

    timm.is_model, timm.create_model = (lambda name: True), create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    for levels, expected in ((None, (8, 11)), ((-1,), (11,)), ((2, 5), (2, 5))):
        backbone = open_backbone("timm/vit_toy", weights="random", runtime="torch", levels=levels)
        assert (backbone.levels, backbone.multiple, set(backbone.strides)) == (expected, 14, {14})
        assert asked[-1] == {"out_indices": list(expected), "dynamic_img_size": True}
    with pytest.raises(OptionError, match="not 12"):
        open_backbone("timm/vit_toy", weights="random", levels=(12,))


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingPackageError, match=r"patchbank\[timm\]"):
        open_backbone("timm/resnet18")
    with pytest.raises(MissingPackageError, match=r"patchbank\[hf\]"):
        open_backbone("hf/facebook/dinov2-small")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "dinov2"])
def test_hf_adapter_on_a_local_folder(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        model = transformers.ResNetModel(config)
    else:
        config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56)
        model = transformers.Dinov2Model(config)
    model.eval().save_pretrained(tmp_path / "net")
    backbone = open_backbone(f"hf/{tmp_path / 'net'}")
    image = 255 * torch.rand(1, 3, 4 * backbone.multiple, 2 * backbone.multiple)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        states = model((image / 255 - mean) / std, output_hidden_states=True).hidden_states
    maps = backbone(image)
    if kind == "resnet":
        assert (backbone.levels, backbone.strides, backbone.channels) == ((2, 3), (8, 16), (16, 24))
        expected = [states[2], states[3]]
    else:
        assert backbone.multiple == 14
        assert backbone.levels == (3, 4)
        # the last layer as the network gives it out: normalised
        tokens = [states[3], model.layernorm(states[4]).detach()]
        expected = [state[:, 1:].transpose(1, 2).reshape(1, 32, 4, 2) for state in tokens]
    for ours, theirs in zip(maps, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()))
    with pytest.raises(WeightsError, match="local folder"):
        open_backbone(f"hf/{tmp_path / 'missing'}")


def test_importing_patchbank_imports_no_heavy_package() -> None:
    code = "import sys, patchbank.cli; "
    code += "print([m for m in ('torch', 'cv2', 'openvino', 'matplotlib', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_nothing_is_reported_over_the_network() -> None:
    """OpenVINO's converter would, unasked, as soon as it finds the package for it."""
    code = (
        "import sys, patchbank\n"
        "model = patchbank.PatchCore(image_size=64, runtime='openvino', threads=1)\n"
        "assert model.extractor.backbone.runtime == 'openvino'\n"
        "assert 'openvino.tools.ovc' in sys.modules\n"
        "assert not any(name.startswith('openvino_telemetry') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # a program that has imported OpenVINO by itself: nothing more is reported than that import did
    code = (
        "from openvino_telemetry.utils.sender import TelemetrySender\n"
        "sent = []\n"
        "TelemetrySender.send = lambda *message, **more: sent.append(message)\n"
        "import openvino, patchbank\n"
        "before = len(sent)\n"
        "model = patchbank.PatchCore(image_size=64, runtime='openvino', threads=1)\n"
        "assert model.extractor.backbone.runtime == 'openvino'\n"
        "assert len(sent) == before, sent\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
