"""The networks against independent implementations, and the folding of batch-norm."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from patchbank.features.backbones import get_spec, list_backbones, open_backbone
from patchbank.features.backbones.registry import fold_batch_norm, read_state

NAMES = [spec.name for spec in list_backbones()]
LITES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
# parameters of the whole classifiers, as torchvision's documentation states them
PARAMETERS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "wide_resnet50": 68_883_240, "wide_resnet101": 126_886_696, "resnext101": 88_791_336,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_strides_of_their_levels(name: str) -> None:
    spec = get_spec(name)
    with torch.device("meta"):
        network = spec.build(spec.levels)
        maps = network(torch.zeros(1, 3, 128, 192))
    assert [tuple(m.shape[2:]) for m in maps] == [(128 // 2 ** (j + 1), 192 // 2 ** (j + 1)) for j in spec.levels]


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_cut_after_the_deepest_level(name: str) -> None:
    spec = get_spec(name)
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in spec.build((level,)).parameters()) for level in spec.levels]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", LITES)
def test_lite_equals_the_weight_packages_own_network(name: str) -> None:
    # its padding is a constant of the image size that it was built for
    peer = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(name.replace("_", "-"), image_size=224)
    weights = get_spec(name).weights.find()
    assert weights is not None
    peer.load_state_dict(torch.load(weights, weights_only=True))
    peer.eval()
    image = 255 * torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    outputs = {}
    with torch.no_grad():
        x = F.relu6(peer._bn0(peer._conv_stem((image - 127) / 128)))
        for i, block in enumerate(peer._blocks):
            x = outputs[i] = block(x)
    backbone = open_backbone(name, levels=(1, 2, 3, 4))
    last = get_spec(name).build((1, 2, 3, 4)).last_block
    for level, ours in zip((1, 2, 3, 4), backbone(image), strict=True):
        theirs = outputs[last[level]]
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()))


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    """A random state dict with torchvision's keys, written down from its naming scheme."""
    spec = get_spec(name)
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = spec.build((1, 2, 3, 4))
    state = {}
    for conv, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            state[f"{conv}.weight"] = torch.randn(module.weight.shape, generator=generator) * (1 / fan_in) ** 0.5
            channels = module.out_channels
            parent, _, leaf = conv.rpartition(".")
            bn = f"{parent}.1" if leaf == "0" else f"{parent}.{leaf.replace('conv', 'bn')}".lstrip(".")
            state[f"{bn}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
            state[f"{bn}.bias"] = 0.1 * torch.randn(channels, generator=generator)
            state[f"{bn}.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
            state[f"{bn}.running_var"] = 1 + torch.rand(channels, generator=generator)
            state[f"{bn}.num_batches_tracked"] = torch.tensor(7)
    features = 512 if name in ("resnet18", "resnet34") else 2048
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, features), torch.zeros(1000)
    return state


@pytest.mark.parametrize("name", PARAMETERS)
def test_resnets_have_torchvisions_parameters(name: str) -> None:
    with torch.device("meta"):
        network = get_spec(name).build((1, 2, 3, 4))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    # each convolution has a bias here and a batch-norm of two vectors there
    counted = sum(m.weight.numel() + 2 * m.out_channels for m in convolutions)
    features = 512 if name in ("resnet18", "resnet34") else 2048
    assert counted + 1000 * features + 1000 == PARAMETERS[name]


def literal_resnet(
    state: dict[str, torch.Tensor], x: torch.Tensor, depths: list[int], groups: int
) -> list[torch.Tensor]:
    """torchvision's forward written as plain functions on its state dict, batch-norm kept apart."""

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        k = [state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *k, training=False, eps=1e-5)

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    outputs = []
    for layer, depth in enumerate(depths, start=1):
        for i in range(depth):
            key, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            bottleneck = f"{key}.conv3.weight" in state
            strides, pads = ((1, stride, 1), (0, 1, 0)) if bottleneck else ((stride, 1), (1, 1))
            y = x
            for j, (s, p) in enumerate(zip(strides, pads, strict=True), start=1):
                g = groups if bottleneck and j == 2 else 1
                y = norm(F.conv2d(y, state[f"{key}.conv{j}.weight"], stride=s, padding=p, groups=g), f"{key}.bn{j}")
                y = F.relu(y) if j < len(strides) else y
            if f"{key}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride), f"{key}.downsample.1")
            x = F.relu(x + y)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    ("name", "depths", "groups"),
    [
        ("resnet18", [2, 2, 2, 2], 1),
        ("resnet50", [3, 4, 6, 3], 1),
        ("wide_resnet50", [3, 4, 6, 3], 1),
        ("resnext101", [3, 4, 23, 3], 32),
    ],
)
def test_resnet_equals_the_literal_one(name: str, depths: list[int], groups: int, tmp_path: Path) -> None:
    state = torchvision_state(name)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    image = 255 * torch.rand(1, 3, 65, 96, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = literal_resnet(state, (image / 255 - mean) / std, depths, groups)
    backbone = open_backbone(name, levels=(1, 2, 3), weights=path, runtime="torch")
    assert backbone.weights == "file weights.pth"
    for ours, theirs in zip(backbone(image), expected, strict=False):
        assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()))


def test_folding_is_exact() -> None:
    spec = get_spec("resnet18")
    state = torchvision_state("resnet18")
    with torch.device("meta"):
        network = spec.build((1,))
    folded = fold_batch_norm(network, spec, state)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    norm = [state[f"bn1.{n}"].double() for n in ("running_mean", "running_var", "weight", "bias")]
    expected = F.batch_norm(F.conv2d(x, state["conv1.weight"].double()), *norm, training=False, eps=1e-5)
    ours = F.conv2d(x, folded["conv1.weight"].double(), folded["conv1.bias"].double())
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not any(key.startswith("layer2") for key in folded)


def test_safetensors_weights_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(read_state(tmp_path / "w.safetensors")["a"], torch.ones(2))
