"""EasyNet: Chen et al., "EasyNet: An Easy Network for 3D Industrial Anomaly Detection" (ACM MM 2023), arXiv 2307.13925.

Published: a network for the picture and one for the depth rebuild good parts from ones with drawn anomalies, without
skip connections; a segmentation reads their layers at several scales, and lets a modality through where the information
entropy of its attention says so; SSIM and squared error on the picture, squared error on the depth, focal loss on the
mask. The parts are in `training.modalities`.

Written from the abstract and the words below the figure of the networks; the full text was not at hand. Not said there:
how the entropy is computed, and its threshold, which in the released code looks tuned on the test images. What is ours:
the entropy of `attention_entropy`, whose limits come from good training parts; which scales are read; narrower networks
on a CPU; heights as they are, where the released code rounds them to 8 bits, steps of 2.7 mm; dents, bumps and missing
points among the anomalies; Adam and its rate; and the last epoch is the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

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
from patchbank.sample import RGB_CHANNEL
from patchbank.scorer import Grid, Levels
from patchbank.training.anomalies import Anomalies, DepthAnomalies, SolidAnomalies
from patchbank.training.loop import Training
from patchbank.training.losses import focal_loss, ssim_loss
from patchbank.training.modalities import Reconstruction, Segmentation
from patchbank.training.options import check_training, training_of
from patchbank.training.pictures import (
    AS_THEY_ARE,
    OF_NETWORKS,
    GoodPictures,
    PictureScorer,
    as_pictures,
    check_pictures,
    check_width,
    default_width,
)

RELIEF = "relief"  # the channel of heights, as shares of the tallest training part, and which pixels have one
_WIDTHS = (128, 256, 512, 1024, 1024)
_READ = range(1, 4)  # scales of the layers that the segmentation reads: 1/2, 1/4 and 1/8 of the sides
_CHANNELS = {RGB_CHANNEL: 3, RELIEF: 2}
_REBUILT = {RGB_CHANNEL: 3, RELIEF: 1}  # the heights, not which pixels have one
_LOOKED_AT = 64  # good parts that limits of entropies are learned from
_PER_PIXEL = 110  # bytes of a step for each pixel and channel of the first layers: what gradients need
_TALLEST = DepthAnomalies(scale_mm=1.0)  # dents as shares of the tallest part, which is the unit of the relief


class EasyNetwork(nn.Module):
    """A reconstruction of each modality (MRN), and the segmentation of their layers (MSN).

    Args:
        modalities: "rgb", "relief" or both, in the order in which their features lie beside each other.
        width: of all layers, relative to the paper's.
    """

    def __init__(self, modalities: Sequence[str], width: float):
        super().__init__()
        widths = [max(round(width * base), 1) for base in _WIDTHS]
        self.modalities = tuple(modalities)
        self.rebuild = nn.ModuleList(
            Reconstruction(_CHANNELS[each], _REBUILT[each], widths, _READ) for each in self.modalities
        )
        self.mark = Segmentation(len(self.modalities), [widths[k] for k in _READ], widths[0])

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Pixels B×P×D → the probability of an anomaly B×P."""
        return torch.sigmoid(self.mark(self.layers(as_pictures(vectors, grid)), grid)).flatten(1)

    def layers(self, pixels: Tensor) -> list[list[Tensor]]:
        """B×D×h×w → what the segmentation reads of each modality and scale."""
        both = zip(self.rebuild, self.split(pixels), strict=True)
        return [rebuild.layers(part)[0] for rebuild, part in both]  # type: ignore[operator]

    def split(self, pixels: Tensor) -> list[Tensor]:
        """B×D×h×w → what each network sees, B×C×h×w; heights are 0 where there is no point."""
        parts = torch.split(pixels, [_CHANNELS[each] for each in self.modalities], 1)
        return [
            torch.cat([part[:, :1] * part[:, 1:], part[:, 1:]], 1) if each == RELIEF else part
            for each, part in zip(self.modalities, parts, strict=True)
        ]

    def loss(self, good: Tensor, damaged: Tensor, mask: Tensor) -> Tensor:
        """L = L_SSIM(Î, I) + |Î − I|² + |D̂ − D|² + L_focal(M̂, M), each a mean over the pixels; D where it is known.

        Args:
            good: B×D×h×w pixels of good parts.
            damaged: the same with anomalies, which the networks see.
            mask: B×1×h×w, 1 where they are.
        """
        total, layers = torch.zeros((), device=good.device), list[list[Tensor]]()
        for name, rebuild, seen, target in zip(
            self.modalities, self.rebuild, self.split(damaged), self.split(good), strict=True
        ):
            read, decoded = rebuild.layers(seen)  # type: ignore[operator]
            layers.append(read)
            rebuilt: Tensor = rebuild.rebuilt(decoded)  # type: ignore[operator]
            if name == RELIEF:
                heights, known = target[:, :1], target[:, 1:]
                total = total + ((rebuilt - heights).square() * known).sum() / known.sum().clamp(min=1)
            else:
                total = total + ssim_loss(rebuilt, target) + F.mse_loss(rebuilt, target)
        size = (int(mask.shape[2]), int(mask.shape[3]))
        return total + focal_loss(self.mark(layers, size), mask)


class EasyNetTask:
    """Good parts, on half of which an anomaly is drawn. `rate`: of learning."""

    def __init__(self, network: EasyNetwork, pictures: GoodPictures, rate: float):
        self.network, self.items, self._rate = network, pictures, rate

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Adam."""
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        good = self.items.pictures(numbers)
        return self.network.loss(good, *self.damaged(good, self.items.inspected(numbers), generator))

    def damaged(self, good: Tensor, inspected: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """B×D×h×w good parts, and B×1×h×w where something may be drawn → the same with anomalies, and their masks."""
        modalities = self.network.modalities
        if modalities == (RGB_CHANNEL,):
            return Anomalies().applied(good, generator, inspected)
        parts = dict(zip(modalities, self.network.split(good), strict=True))
        heights, known = parts[RELIEF][:, :1], parts[RELIEF][:, 1:] > 0
        where = foreground(heights, known, inspected)
        if modalities == (RELIEF,):
            z, left, mask = _TALLEST.applied(heights, known, generator, where)
        else:
            parts[RGB_CHANNEL], z, left, mask = SolidAnomalies(depth=_TALLEST).applied(
                parts[RGB_CHANNEL], heights, known, generator, where
            )
        parts[RELIEF] = torch.cat([z, left.to(z)], 1)
        return torch.cat([parts[each] for each in modalities], 1), mask


def foreground(heights: Tensor, known: Tensor, inspected: Tensor | None) -> Tensor:
    """Where an anomaly may be drawn: on the part, which is what is not the background at height 0 (all B×1×h×w). Where
    a picture has no part with a point, everywhere."""
    inside = torch.ones_like(known) if inspected is None else inspected.to(known.device)
    part = ((heights != 0) | ~known) & inside
    has_points = (part & known).flatten(1).any(1)[:, None, None, None]
    return torch.where(has_points, part, inside)


class EasyNetScorer(PictureScorer):
    """Both networks. `modalities`: what they see; `width`: of them; `rate`: of learning."""

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        modalities: Sequence[str],
        width: float,
        rate: float,
    ):
        dimension = sum(_CHANNELS[each] for each in modalities)
        super().__init__(replace(levels, dimension=dimension), training, device)
        self._modalities, self._width, self._rate = tuple(modalities), width, rate

    def make_network(self) -> EasyNetwork:
        return EasyNetwork(self._modalities, self._width)

    def task(self, network: EasyNetwork, features: FeatureStore) -> EasyNetTask:
        return EasyNetTask(network, GoodPictures(features), self._rate)

    def pixel_bytes(self) -> float:
        return _PER_PIXEL * self._width * _WIDTHS[0] * len(self._modalities)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """And then the limits of the entropies, from good parts."""
        super().fit(features, progress)
        gates = self.network.mark.gates
        if gates is not None:
            pictures = GoodPictures(features)
            looked_at = range(0, pictures.images, max(pictures.images // _LOOKED_AT, 1))
            gates.learn(torch.cat([self._entropies(pictures.pictures(torch.tensor([i]))) for i in looked_at]))
        return self

    def _entropies(self, pixels: Tensor) -> Tensor:
        """B×D×h×w → the entropy of each modality's attention at each scale, B×modalities×scales."""
        with torch.no_grad():
            layers = self.network.layers(pixels.to(self._device))
            found: Tensor = self.network.mark.gates.entropies(self.network.mark.reduced(layers))
        return found


@register
@dataclass(kw_only=True, eq=False)
class EasyNet(Detector):
    """Networks that rebuild picture and depth of good parts, and mark what does not look rebuilt. Thresholds come from
    parts that were not learned from.

    Args:
        width: of all layers, relative to the paper's; None for 1.0 on a GPU and 0.25 on a CPU.
        learning_rate: of Adam.
        epochs: how often each part is seen.
        batch: parts at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the parts, which are kept back.
    Other options: `Options`. `channels` are rgb, relief or both; None for both where the parts have geometry.
    """

    method: ClassVar[str] = "easynet"
    summary: ClassVar[str] = "networks that rebuild picture and depth, and mark what they changed; for RGB + 3D"
    cost: ClassVar[str] = "an image takes networks at full resolution; hours to learn"
    scorer_class: ClassVar[type[EasyNetScorer]] = EasyNetScorer
    without_effect: ClassVar[frozenset[str]] = OF_NETWORKS | {"fusion"}
    with_geometry: ClassVar[tuple[str, ...]] = (RGB_CHANNEL, RELIEF)

    backbone: str = PIXELS
    image_size: int | None = 256
    image_score: str | None = "smoothed"
    sigma: float | None = 6.0
    width: float | None = None
    learning_rate: float = 1e-3
    epochs: int = 30
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
        if self.channels is not None and not set(self.channels) <= set(_CHANNELS):  # another order is as good
            given = ",".join(self.channels)
            raise OptionError(f"easynet looks at the channels rgb, relief or both, not {given}")

    def arrange(self) -> Arrangement:
        return AS_THEY_ARE

    def make_scorer(self, levels: Levels) -> EasyNetScorer:
        modality = RELIEF if levels.dimension == _CHANNELS[RELIEF] else RGB_CHANNEL
        return self.fuse([levels], [modality])

    def fuse(self, levels: Sequence[Levels], channels: Sequence[str]) -> EasyNetScorer:
        training = training_of(self, schedule="cosine")
        return self.scorer_class(
            levels[0], training, self.torch_device, channels, self.option("width"), self.learning_rate
        )
