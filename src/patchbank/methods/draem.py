"""DRAEM: Zavrtanik, Kristan and Skočaj, "DRAEM – A Discriminatively Trained Reconstruction Embedding for Surface
Anomaly Detection" (ICCV 2021), arXiv 2108.07610.

What is ours: the networks may be narrower (`width`), anomalies are blended with generated textures where no folder of
pictures is given (the paper has the pictures of DTD), good pictures are not turned at random, and the map is smoothed
by a Gaussian of about the width of the paper's mean filter. The last epoch is taken, where the released code keeps the
one that is best on the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.detector import Detector
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import PIXELS
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training.anomalies import Anomalies, textures_of
from patchbank.training.loop import Training
from patchbank.training.losses import focal_loss, ssim_loss
from patchbank.training.network import convolution
from patchbank.training.options import check_training, training_of
from patchbank.training.pictures import (
    AS_THEY_ARE,
    OF_NETWORKS,
    GoodPictures,
    PictureScorer,
    as_pictures,
    check_colours,
    check_pictures,
    check_width,
    default_width,
)

_REBUILDING, _MARKING = 128, 64  # widths of the first layers of both networks (released code)
_REBUILDING_DEPTHS, _MARKING_DEPTHS = (1, 2, 4, 8, 8), (1, 2, 4, 8, 8, 8)  # multiples of them, at half the size each
_DROPS = (4 / 7, 6 / 7)  # after 400 and 600 of 700 epochs the rate falls to a tenth (§4.1)
_PER_PIXEL = 140  # bytes of a step for each pixel and channel of the first layers: what gradients need


class Hourglass(nn.Module):
    """Blocks of two 3×3 convolutions at one size after the other, each half as large, and back again.

    Args:
        inputs, outputs: channels.
        widths: channels of the blocks, at the full size first.
        skips: whether a block on the way back also sees what the block of its size on the way down made (U-Net).
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], skips: bool):
        super().__init__()
        self._skips = skips
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(a, b), *convolution(b, b)) for a, b in pairwise([inputs, *widths])
        )
        back = [*reversed(widths[:-2]), widths[0]]  # channels on the way back
        self.enlarge = nn.ModuleList(nn.Sequential(*convolution(a, b)) for a, b in pairwise([widths[-1], *back]))
        sides = [b + skips * side for b, side in zip(back, reversed(widths[:-1]), strict=True)]
        self.up = nn.ModuleList(
            nn.Sequential(*convolution(a, b), *convolution(b, b)) for a, b in zip(sides, back, strict=True)
        )
        self.last = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """B×inputs×h×w → B×outputs×h×w; h and w can be halved for each block but the first."""
        sides: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            sides.append(x)
        for enlarge, block, side in zip(self.enlarge, self.up, reversed(sides[:-1]), strict=True):
            x = enlarge(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            x = block(torch.cat([x, side], 1) if self._skips else x)
        found: Tensor = self.last(x)
        return found


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*convolution(inputs, outputs), *convolution(outputs, outputs))


class DRAEMNetwork(nn.Module):
    """The reconstructive and the discriminative network (§3.1, §3.3). `width`: of both, relative to the paper's."""

    def __init__(self, channels: int, width: float):
        super().__init__()
        rebuilding, marking = (max(round(width * base), 1) for base in (_REBUILDING, _MARKING))
        self.rebuild = Hourglass(channels, channels, [k * rebuilding for k in _REBUILDING_DEPTHS], skips=False)
        self.mark = Hourglass(2 * channels, 2, [k * marking for k in _MARKING_DEPTHS], skips=True)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Pixels B×P×C → the probability of an anomaly B×P."""
        _, logits = self.both(as_pictures(vectors, grid))
        return torch.softmax(logits, 1)[:, 1].flatten(1)

    def both(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """B×C×h×w → the rebuilt pictures, and B×2×h×w logits of good and anomalous pixels."""
        rebuilt = self.rebuild(pictures)
        return rebuilt, self.mark(torch.cat([rebuilt, pictures], 1))

    def loss(self, pictures: Tensor, damaged: Tensor, mask: Tensor) -> Tensor:
        """Eq. 4: L_rec(I, I_r) + L_seg(M_a, M), with Eq. 3: L_rec = λ·L_SSIM + l₂, λ = 1.

        Args:
            pictures: B×C×h×w good ones.
            damaged: the same with anomalies, which the network sees.
            mask: B×1×h×w, 1 where they are.
        """
        rebuilt, logits = (found.float() for found in self.both(damaged))
        of_rebuilding = ssim_loss(pictures, rebuilt) + F.mse_loss(rebuilt, pictures)
        return of_rebuilding + focal_loss(logits[:, 1:] - logits[:, :1], mask)


class DRAEMTask:
    """Good pictures, on half of which an anomaly is drawn (§3.2). `rate`: of learning."""

    def __init__(self, network: DRAEMNetwork, pictures: GoodPictures, anomalies: Anomalies, rate: float):
        self.network, self.items, self.anomalies, self._rate = network, pictures, anomalies, rate

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Adam (released code)."""
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        good = self.items.pictures(numbers)
        return self.network.loss(good, *self.anomalies.applied(good, generator, self.items.inspected(numbers)))


class DRAEMScorer(PictureScorer):
    """Both networks. `width`: of them; `textures`: a folder of what is blended in; `rate`: of learning."""

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        width: float,
        textures: str | None,
        rate: float,
    ):
        super().__init__(levels, training, device)
        self._width, self._textures, self._rate = width, textures, rate

    def make_network(self) -> DRAEMNetwork:
        return DRAEMNetwork(self.levels.dimension, self._width)

    def pixel_bytes(self) -> float:
        return _PER_PIXEL * self._width * (_REBUILDING + _MARKING)

    def task(self, network: DRAEMNetwork, features: FeatureStore) -> DRAEMTask:
        anomalies = Anomalies(kinds=("perlin",), textures=textures_of(self._textures))
        return DRAEMTask(network, GoodPictures(features), anomalies, self._rate)


@register
@dataclass(kw_only=True, eq=False)
class DRAEM(Detector):
    """A network that repairs pictures with drawn anomalies, and one that marks what was repaired. Thresholds come from
    parts that were not learned from.

    Args:
        width: of all layers, relative to the paper's; None for 1.0 on a GPU and 0.25 on a CPU.
        textures: a folder of pictures that anomalies are blended with; None for generated textures.
        learning_rate: of Adam (0.0001 in the paper, which learns 35 times as long).
        epochs: how often each picture is seen (700 in the paper).
        batch: pictures at each step (8 in the paper).
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`.
    """

    method: ClassVar[str] = "draem"
    summary: ClassVar[str] = "networks that repair drawn anomalies and mark them"
    cost: ClassVar[str] = "an image takes two networks at full resolution; hours to learn"
    scorer_class: ClassVar[type[DRAEMScorer]] = DRAEMScorer
    without_effect: ClassVar[frozenset[str]] = OF_NETWORKS

    backbone: str = PIXELS
    image_size: int | None = 256
    image_score: str | None = "smoothed"
    sigma: float | None = 6.0  # as wide as a mean over 21×21 pixels
    width: float | None = None
    textures: str | None = None
    learning_rate: float = 1e-3
    epochs: int = 20
    batch: int = 4
    max_minutes: float | None = None
    patience: int | None = None

    def in_effect(self, name: str, value: Any) -> Any:
        if name == "width" and value is None:
            return default_width(self)
        return super().in_effect(name, value)

    def check(self) -> None:
        super().check()
        check_training(self)
        check_pictures(self)
        check_width(self)

    def arrange(self) -> Arrangement:
        return AS_THEY_ARE

    def make_scorer(self, levels: Levels) -> DRAEMScorer:
        check_colours(self, levels)
        training = training_of(self, drops=_DROPS)
        width = self.option("width")
        return self.scorer_class(levels, training, self.torch_device, width, self.textures, self.learning_rate)
