"""HyADS: Ma et al., "HyADS: A Hybrid Lightweight Anomaly Detection Framework for Edge-Based Industrial Systems with
Limited Data" (Electronics 14(11), 2025), after its abstract.

The abstract names the parts: HOG and LBP, a light U-Net that rebuilds good parts, adaptive patch matching with a memory
bank, and a segmentation head over the errors of both. How each is made, and how they are trained, is ours: see
docs/methods/hyads.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import PIXELS
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.sample import parts_of
from patchbank.scorer import Grid, Levels
from patchbank.training.anomalies import Anomalies, textures_of
from patchbank.training.handcrafted import CELL, HOG_LENGTH, LBP_LENGTH, grey_levels, hog, lbp
from patchbank.training.loop import Training, train
from patchbank.training.losses import dice_loss, focal_loss, ssim_loss, ssim_map
from patchbank.training.matching import LEAST_SCALE, REGIONS, AdaptiveBank
from patchbank.training.network import Standard, build, convolution
from patchbank.training.options import check_training, training_of
from patchbank.training.pictures import (
    AS_THEY_ARE,
    OF_NETWORKS,
    GoodPictures,
    PictureScorer,
    as_pictures,
    check_colours,
    check_pictures,
)
from patchbank.training.session import Session
from patchbank.training.unet import DEEPEST, UNet

_SSIM_SHARE = 0.84  # of the loss of the reconstruction; the rest is L1
_MATCHING = 0.3  # weight of a standard deviation of the distance in the score
_HEAD = 16  # channels of the segmentation head
_MOST_PICTURES = 64  # whose errors the head's inputs are standardised by
_FAR = 1e30
_PER_PIXEL = 180  # bytes of a step for each pixel and channel of the first level: what gradients need


class HyADSNetwork(nn.Module):
    """The U-Net, the bank and the head, for pictures with `channels`. `width`: of the U-Net; `bank`: vectors."""

    def __init__(self, channels: int, width: int, bank: int):
        super().__init__()
        self.unet = UNet(channels, width)
        self.bank = AdaptiveBank(bank, (HOG_LENGTH, LBP_LENGTH, DEEPEST * width))
        self.evidence = Standard(3)
        wider = [layer for dilation in (2, 4) for layer in convolution(_HEAD, _HEAD, dilation=dilation)]
        self.head = nn.Sequential(*convolution(3, _HEAD), *wider, nn.Conv2d(_HEAD, 1, 1))

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Pixels B×P×C → scores B×P: −log(1 − p) + 0.3·max(0, z), p the head's probability of an anomaly, z the
        standardised distance to the bank.

        The head learns from synthetic anomalies, which show best in what is rebuilt. Without the second term it would
        pass over what matching alone finds.
        """
        errors = self.evidence.of_maps(self.errors(as_pictures(vectors, grid)))
        found = F.softplus(self.head(errors)) + _MATCHING * errors[:, 2:].clamp(min=0)
        return found.reshape(vectors.shape[:2])

    def loss(self, pictures: Tensor, damaged: Tensor) -> Tensor:
        """0.84·(1 − SSIM(x, x̂)) + 0.16·L1(x, x̂), x̂ rebuilt from the damaged picture."""
        rebuilt, _ = self.unet(damaged)
        l1: Tensor = (rebuilt - pictures).abs().mean()
        return _SSIM_SHARE * ssim_loss(rebuilt, pictures) + (1 - _SSIM_SHARE) * l1

    def errors(self, pictures: Tensor, penalty: Tensor | None = None) -> Tensor:
        """What the head decides from, at each pixel: |x − x̂|, 1 − SSIM(x, x̂), and the distance of its cell to the bank.

        Args:
            pictures: B×C×H×W.
            penalty: see `AdaptiveBank`.

        Returns:
            B×3×H×W.
        """
        rebuilt, bottleneck = self.unet(pictures)
        distances = self.bank(self.described(pictures, bottleneck), penalty)
        far = F.interpolate(distances, scale_factor=float(CELL), mode="bilinear", align_corners=False)
        off = (pictures - rebuilt).abs().mean(1, keepdim=True)
        return torch.cat([off, 1 - ssim_map(pictures, rebuilt).mean(1, keepdim=True), far], 1)

    def described(self, pictures: Tensor, bottleneck: Tensor) -> Tensor:
        """[HOG ⊕ LBP ⊕ bottleneck] of each cell: B×D×H/8×W/8."""
        grey = grey_levels(pictures)
        return torch.cat([hog(grey), lbp(grey), bottleneck], 1)


class ReconstructionTask:
    """The U-Net, and pictures with anomalies that it is to rebuild as they were. `rate`: of learning."""

    def __init__(self, network: HyADSNetwork, pictures: GoodPictures, anomalies: Anomalies, rate: float):
        self.network, self.items, self.anomalies, self.rate = network, pictures, anomalies, rate

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.unet.parameters(), lr=self.rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        good = self.items.pictures(numbers)
        damaged, _ = self.anomalies.applied(good, generator, self.items.inspected(numbers))
        return self.network.loss(good, damaged)


class SegmentationTask:
    """The head, and the pictures of the first task, whose anomalies it is to mark. `parts`: the part that each picture
    shows; `sources`: the part that each vector of the bank comes from. A picture is not compared with its own part, as
    if it were new."""

    def __init__(self, first: ReconstructionTask, parts: Tensor, sources: Tensor):
        self.network, self.items, self.anomalies = first.network.head, first.items, first.anomalies
        self.whole, self._rate, self._parts, self._sources = first.network, first.rate, parts, sources

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Focal loss, and Dice loss over the pixels of the whole batch: half of its pictures have no anomaly."""
        good = self.items.pictures(numbers)
        damaged, mask = self.anomalies.applied(good, generator, self.items.inspected(numbers))
        # in full precision also where the loop is not: patterns of grey levels would not survive
        with torch.no_grad(), torch.autocast(damaged.device.type, enabled=False):
            errors = self.whole.evidence.of_maps(self.whole.errors(damaged, self.penalty(numbers)))
        logits = self.network(errors)
        return focal_loss(logits, mask) + dice_loss(logits.reshape(1, -1), mask.reshape(1, -1))

    def penalty(self, numbers: Tensor) -> Tensor | None:
        """B×size: huge for vectors of the part that a picture shows; None where the bank has no other."""
        if bool((self._sources == self._sources[0]).all()):
            return None
        return (self._parts[numbers][:, None] == self._sources).float() * _FAR


@torch.no_grad()
def learn_errors(task: SegmentationTask) -> None:
    """What the three errors are on good pictures that were not compared with their own part."""
    found = []
    for number in range(0, task.items.images, -(-task.items.images // _MOST_PICTURES)):
        one = torch.tensor([number])
        errors = task.whole.errors(task.items.pictures(one), task.penalty(one))[0].flatten(1).T
        inside = task.items.inspected(one)
        found.append(errors if inside is None else errors[inside.flatten().to(errors.device)])
    task.whole.evidence.learn(torch.cat(found))
    task.whole.evidence.scale.clamp_(min=LEAST_SCALE)


class HyADSScorer(PictureScorer):
    """`width`: of the U-Net; `bank`: vectors; `textures`: a folder of what is blended in; `rate`: of learning."""

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        width: int,
        bank: int,
        textures: str | None,
        rate: float,
    ):
        super().__init__(levels, training, device)
        self._width, self._bank, self._textures, self._rate = width, bank, textures, rate

    def make_network(self) -> HyADSNetwork:
        return HyADSNetwork(self.levels.dimension, self._width, self._bank)

    def pixel_bytes(self) -> float:
        return _PER_PIXEL * self._width

    def task(self, network: HyADSNetwork, features: FeatureStore) -> ReconstructionTask:
        """The first of the two trainings."""
        anomalies = Anomalies(textures=textures_of(self._textures))
        return ReconstructionTask(network, GoodPictures(features), anomalies, self._rate)

    def begin(self, session: Session) -> None:
        super().begin(session)
        session.stages = 2

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """First the U-Net; then the bank, of its bottleneck; then the head, on the errors of both."""
        options = self.training_options
        network = build(self.make_network, options.seed).to(self._device)
        first = self.task(network, features)
        train(first, options, self.session, features.content)
        sources = network.bank.learn_from(first.items, lambda x: network.described(x, network.unet(x)[1]), options.seed)
        parts = torch.tensor(parts_of(features.refs))
        second = SegmentationTask(first, parts.to(self._device), parts[sources].to(self._device))
        learn_errors(second)
        self.outcome = train(second, options, self.session, features.content)
        self._held = (network,)
        return self


@register
@dataclass(kw_only=True, eq=False)
class HyADS(Detector):
    """A light U-Net that rebuilds good parts, a small bank of textures, and a head that marks what neither knows.
    Thresholds come from parts that were not learned from.

    Args:
        width: channels of the U-Net's first level; the others have 2, 4 and 8 times as many.
        bank_size: vectors that the cells of a picture are compared with.
        textures: a folder of pictures that anomalies are blended with; None for generated textures.
        learning_rate: of Adam.
        epochs: how often each picture is seen, by the U-Net and then by the head.
        batch: pictures at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`.
    """

    method: ClassVar[str] = "hyads"
    summary: ClassVar[str] = "rebuilds good parts, matches textures, and marks what fails both (after the abstract)"
    cost: ClassVar[str] = "an image takes two networks at full resolution; half an hour or more to learn"
    scorer_class: ClassVar[type[HyADSScorer]] = HyADSScorer
    without_effect: ClassVar[frozenset[str]] = OF_NETWORKS

    backbone: str = PIXELS
    image_size: int | None = 256
    sigma: float | None = 4.0

    width: int = 16
    bank_size: int = 1024
    textures: str | None = None
    learning_rate: float = 2e-3
    epochs: int = 20
    batch: int = 4
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        check_pictures(self)
        if self.width < 1:
            raise OptionError(f"width must be at least 1, not {self.width}")
        if self.bank_size < len(REGIONS):
            raise OptionError(f"bank_size must be at least {len(REGIONS)}, not {self.bank_size}")

    def arrange(self) -> Arrangement:
        return AS_THEY_ARE

    def make_scorer(self, levels: Levels) -> HyADSScorer:
        check_colours(self, levels)
        return self.scorer_class(
            levels,
            training_of(self, schedule="cosine"),
            self.torch_device,
            self.width,
            self.bank_size,
            self.textures,
            self.learning_rate,
        )
