"""RD4AD: Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding" (CVPR 2022),
arXiv 2201.10703.

The frozen backbone is the teacher E. A student decoder D gets nothing but a narrow embedding of the teacher's levels,
and has to give each of them back. What is ours:

- Equation 1 compares position by position. The released code flattens each map into one vector before it takes the
  cosine. Here the loss is that of the equation.
- The teacher's features are standardised by their mean and deviation over good parts: cosines of features whose mean is
  large hardly differ.
- A linear layer follows each block of the decoder, for our default teacher has features of both signs. Each level has
  one residual block, as wide as the teacher's level times `width`.
- Batches have 4 images, not 16: with few images and epochs, large batches are few steps.
- The last epoch is taken, where the released code reports the one that is best on the test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.detector import Detector
from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement, Cells
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training.items import Pictures, on_finest
from patchbank.training.loop import Training
from patchbank.training.network import Standard, convolution
from patchbank.training.options import check_training, training_of
from patchbank.training.scorer import TrainedScorer

_BETAS = (0.5, 0.999)  # of Adam (§4.1)
_LEAST_WIDTH = 4  # channels
_LEAST = 1e-12  # of squares that are divided by


class Residual(nn.Module):
    """A residual block, relu(x' + f(x)), whose `first` layer and `shortcut` x → x' change the resolution alike."""

    def __init__(self, first: nn.Module, shortcut: nn.Module, channels: int):
        super().__init__()
        self.first = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )  # fmt: skip
        self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


def _encoding(inputs: int, outputs: int) -> Residual:
    """A block of a ResNet that halves the resolution."""
    first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return Residual(first, nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), outputs)


def _decoding(inputs: int, outputs: int, factor: int) -> Residual:
    """The same block reversed: deconvolutions with kernel and stride `factor` (§3.2, where it is 2)."""
    first, shortcut = (nn.ConvTranspose2d(inputs, outputs, factor, factor, bias=False) for _ in range(2))
    return Residual(first, shortcut, outputs)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """B×C×h×w → B×h×w, in operations that every graph format has."""
    squared = a.square().sum(1) * b.square().sum(1)
    return (a * b).sum(1) / squared.clamp(min=_LEAST).sqrt()


def _to_deepest(levels: Levels, widths: Sequence[int], level: int) -> tuple[nn.Sequential, int]:
    """A level → the deepest level's resolution, by one convolution for each halving; and how many channels that has."""
    layers, channels = list[nn.Module](), levels.channels[level]
    for deeper in range(level + 1, len(widths)):
        for _ in range(round(math.log2(levels.strides[deeper] / levels.strides[deeper - 1]))):
            layers.append(nn.Sequential(*convolution(channels, widths[deeper], stride=2)))
            channels = widths[deeper]
    return nn.Sequential(*layers), channels


class ReverseNetwork(nn.Module):
    """Bottleneck and student, for `levels` in cells (`features.aggregation.Cells`). `width`: channels of the student
    for each one of the teacher."""

    def __init__(self, levels: Levels, width: float):
        super().__init__()
        self._levels = levels
        widths = [max(_LEAST_WIDTH, round(width * channels)) for channels in levels.channels]
        deepest, strides = widths[-1], levels.strides
        self.statistics = Standard(levels.dimension)
        # multi-scale feature fusion (§3.3), then one-class embedding: the next block of a ResNet
        ways = [_to_deepest(levels, widths, level) for level in range(len(widths))]
        self.to_deepest = nn.ModuleList(way for way, _ in ways)
        self.fuse = nn.Sequential(*convolution(sum(channels for _, channels in ways), deepest, 1))
        self.embed = _encoding(deepest, 2 * deepest)
        factors = [*(strides[j + 1] // strides[j] for j in range(len(strides) - 1)), 2]
        self.decoder = nn.ModuleList(map(_decoding, [*widths[1:], 2 * deepest], widths, factors))
        self.heads = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip(widths, levels.channels, strict=True))

    def forward(self, vectors: Tensor, grid: Grid, inspected: Tensor | None = None) -> Tensor:
        """Cells B×P×D → scores B×rows×columns on the grid of the shallowest level: the sum of the levels' 1 − cos, each
        enlarged (Eq. 3). `inspected`: P or B×P, 1 for cells that count, None for all."""
        maps = self.compare(vectors, grid, inspected)
        return on_finest(maps).sum(0)

    def loss(self, vectors: Tensor, grid: Grid, inspected: Tensor | None = None) -> Tensor:
        """Eq. 2: the sum over levels of the mean of M over positions."""
        loss: Tensor = torch.stack([each.mean() for each in self.compare(vectors, grid, inspected)]).sum()
        return loss

    def compare(self, vectors: Tensor, grid: Grid, inspected: Tensor | None = None) -> list[Tensor]:
        """Eq. 1 for each level: M = 1 − ⟨E, D⟩ / (‖E‖ ‖D‖) at each position, B×h×w."""
        cells = self.statistics(vectors)
        if inspected is not None:
            cells = cells * inspected[..., None]  # the mean of good parts, whatever lies there: the student sees far
        cells = cells.reshape(-1, grid[0], grid[1], int(vectors.shape[-1]))
        teacher = [one for one, _ in Cells().channels(cells, self._levels.channels, self._levels.strides)]
        student = self._reconstruct(teacher)
        return [1 - _cosine(e, d) for e, d in zip(teacher, student, strict=True)]

    def _reconstruct(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the teacher → those that the student makes of their embedding."""
        down = [way(level) for way, level in zip(self.to_deepest, teacher, strict=True)]
        x = self.embed(self.fuse(torch.cat(down, 1)))
        found: list[Tensor] = []
        for block, head, level in reversed(list(zip(self.decoder, self.heads, teacher, strict=True))):
            # an odd side was rounded up when it was halved
            x = block(x)[:, :, : int(level.shape[2]), : int(level.shape[3])]
            found.insert(0, head(x))
        return found


class RD4ADTask:
    """Whole images of good parts. `rate`: of learning."""

    def __init__(self, network: ReverseNetwork, features: FeatureStore, rate: float, device: torch.device):
        self.network, self.items, self._rate, self._device = network, Pictures(features), rate, device

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """§4.1."""
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate, betas=_BETAS)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        cells, inside = self.items.vectors(numbers).to(self._device), self.items.inside(numbers)
        counts = None if inside is None else inside.flatten(1).to(cells)
        return self.network.loss(cells, self.items.grid(numbers), counts)


class RD4ADScorer(TrainedScorer):
    """Bottleneck and student. `width`: of the student, in widths of the teacher; `rate`: of learning."""

    keeps_grid: ClassVar[bool] = True
    working_bytes: ClassVar[int] = 1_000_000_000

    def __init__(self, levels: Levels, training: Training, device: torch.device, width: float, rate: float):
        super().__init__(levels, training, device)
        self._width, self._rate = width, rate

    def make_network(self) -> ReverseNetwork:
        return ReverseNetwork(self.levels, self._width)

    def task(self, network: ReverseNetwork, features: FeatureStore) -> RD4ADTask:
        network.statistics.learn(features.stored)
        return RD4ADTask(network, features, self._rate, self._device)

    def scores(self, batch: Tensor, grid: Grid, inspected: Tensor | None) -> Tensor:
        found: Tensor = self.network(batch, grid, None if inspected is None else inspected.reshape(-1).to(batch.dtype))
        return found


@register
@dataclass(kw_only=True, eq=False)
class RD4AD(Detector):
    """A decoder that learns on good parts to give back the levels of the backbone from a narrow embedding of them; the
    score is 1 − cos between what the two say. Thresholds come from parts that were not learned from.

    Args:
        width: channels of the decoder for each one of the backbone's level.
        learning_rate: of Adam.
        epochs: how often each image is seen (200 in the paper).
        batch: images at each step (16 in the paper; with tens of images that makes too few steps).
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`, but aggregation.
    """

    method: ClassVar[str] = "rd4ad"
    summary: ClassVar[str] = "how badly a decoder gives back the levels of the backbone from a narrow embedding"
    cost: ClassVar[str] = "an image takes two networks; minutes to learn"
    scorer_class: ClassVar[type[RD4ADScorer]] = RD4ADScorer
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3)
    without_effect: ClassVar[frozenset[str]] = frozenset({"aggregation"})

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    width: float = 1.0
    learning_rate: float = 0.005
    epochs: int = 20
    batch: int = 4
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        if not 0 < self.width <= 16:
            raise OptionError(f"width must lie in (0, 16], not {self.width}")
        if self.stride != 1:
            raise OptionError(f"rd4ad reconstructs every position: stride must be 1, not {self.stride}")

    def arrange(self) -> Arrangement:
        return Cells(self.option("patch_size"))

    def make_scorer(self, levels: Levels) -> RD4ADScorer:
        return RD4ADScorer(levels, training_of(self), self.torch_device, self.width, self.learning_rate)
