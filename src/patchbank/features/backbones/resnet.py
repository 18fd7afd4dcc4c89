"""The ResNet family of the papers, with torchvision's state-dict keys, without torchvision.

He et al., "Deep residual learning" (2016); Zagoruyko & Komodakis, "Wide residual networks" (2016); Xie et al.,
"Aggregated residual transformations" (2017). Bottlenecks stride at their 3×3 convolution, as in torchvision. Written
without batch-norm: `fold_batch_norm` puts it into the convolutions when the weights load.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.features.backbones.registry import BackboneSpec, UrlWeights, register


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (ResNet18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, width_per_group: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1 down, 3×3 (grouped in ResNeXt), 1×1 up."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, width_per_group: int):
        super().__init__()
        width = planes * width_per_group // 64 * groups
        self.conv1 = nn.Conv2d(inputs, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1)
        self.downsample = shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a strided 1×1 convolution where the shape changes (key `downsample.0`)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))


class ResNet(nn.Module):
    """Normalised image, B×3×H×W → the maps of `levels` (1..4), shallowest first; deeper layers are not built."""

    def __init__(
        self,
        levels: tuple[int, ...],
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        groups: int = 1,
        width_per_group: int = 64,
    ):
        super().__init__()
        self.levels = levels
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        inputs = 64
        for level in range(1, max(levels) + 1):
            planes, blocks = 64 * 2 ** (level - 1), []
            for i in range(depths[level - 1]):
                stride = 2 if i == 0 and level > 1 else 1
                blocks.append(block(inputs, planes, stride, groups, width_per_group))
                inputs = planes * block.expansion
            self.add_module(f"layer{level}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)
        maps = {}
        for level in range(1, max(self.levels) + 1):
            x = maps[level] = self.get_submodule(f"layer{level}")(x)
        return tuple(maps[level] for level in self.levels)


def batch_norm_of(conv: str) -> str:
    """Key of the batch-norm that follows a convolution: convN → bnN, downsample.0 → downsample.1."""
    return conv[:-1] + "1" if conv.endswith("downsample.0") else conv[: conv.rindex("conv")] + f"bn{conv[-1]}"


def _register(
    name: str,
    file: str,
    block: type[BasicBlock | Bottleneck],
    depths: tuple[int, int, int, int],
    groups: int = 1,
    width_per_group: int = 64,
) -> None:
    register(
        BackboneSpec(
            name=name,
            build=lambda levels: ResNet(levels, block, depths, groups, width_per_group),
            levels=(1, 2, 3, 4),
            default_levels=(2, 3),
            batch_norm_of=batch_norm_of,
            batch_norm_eps=1e-5,
            # torchvision's ImageNet statistics, in units of 0..255
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
            weights=UrlWeights(f"https://download.pytorch.org/models/{file}"),
        )
    )


_register("resnet18", "resnet18-f37072fd.pth", BasicBlock, (2, 2, 2, 2))
_register("resnet34", "resnet34-b627a593.pth", BasicBlock, (3, 4, 6, 3))
_register("resnet50", "resnet50-0676ba61.pth", Bottleneck, (3, 4, 6, 3))
_register("resnet101", "resnet101-63fe2227.pth", Bottleneck, (3, 4, 23, 3))
_register("wide_resnet50", "wide_resnet50_2-95faca4d.pth", Bottleneck, (3, 4, 6, 3), width_per_group=128)
_register("wide_resnet101", "wide_resnet101_2-32ee1156.pth", Bottleneck, (3, 4, 23, 3), width_per_group=128)
_register("resnext101", "resnext101_32x8d-8ba56ff5.pth", Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8)
