"""SimpleNet: Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization" (CVPR 2023),
arXiv 2303.15140.

The locally aware features of Eq. 1-3 are those of the extractor. What is ours: the noise is relative to each feature's
own spread, where the paper's σ = 0.015 belongs to the features of one network; and the last epoch is taken, where the
released code keeps the one that is best on the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from patchbank.detector import Detector
from patchbank.errors import OptionError
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training.items import Patches
from patchbank.training.loop import Training
from patchbank.training.network import Standard
from patchbank.training.options import check_training, training_of
from patchbank.training.scorer import TrainedScorer

_TRUNCATION = 0.5  # th⁺ and −th⁻ of Eq. 7
_SLOPE = 0.2  # of the discriminator's leaky ReLU
_ADAPTOR_RATE, _DISCRIMINATOR_RATE, _DISCRIMINATOR_DECAY = 1e-4, 2e-4, 1e-5
_LEAST_SPREAD = 1e-6


class SimpleNetwork(nn.Module):
    """The adaptor G and the discriminator D, for features of length `dimension`."""

    def __init__(self, dimension: int, hidden: int):
        super().__init__()
        self.statistics = Standard(dimension)
        self.adaptor = nn.Linear(dimension, dimension)
        self.discriminator = nn.Sequential(
            nn.Linear(dimension, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, 1, bias=False)
        )

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Features B×P×D → scores B×P: −D(G(x)) (Eq. 8)."""
        adapted = self.adaptor(self.statistics(vectors.reshape(-1, vectors.shape[-1])))
        found: Tensor = -self.discriminator(adapted)
        return found.reshape(vectors.shape[:2])

    def loss(self, features: Tensor, noise: Tensor) -> Tensor:
        """Eq. 6 and 7: max(0, th⁺ − D(q)) + max(0, −th⁻ + D(q + ε)), mean over the features.

        Args:
            features: N×D.
            noise: N×D standard deviations that ε has of each adapted feature.
        """
        adapted = self.adaptor(self.statistics(features))
        spread = adapted.detach().std(0, correction=0).clamp(min=_LEAST_SPREAD)
        scores = self.discriminator(torch.cat([adapted, adapted + noise * spread]))
        good, off = scores.split(len(features))
        loss: Tensor = (_TRUNCATION - good).clamp(min=0).mean() + (_TRUNCATION + off).clamp(min=0).mean()
        return loss


class SimpleNetTask:
    """Patches of good parts, and the same with noise. `sigma`: of the noise, in spreads of each adapted feature."""

    def __init__(self, network: SimpleNetwork, patches: Patches, sigma: float):
        self.network, self.items, self._sigma = network, patches, sigma

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """AdamW for the adaptor, Adam for the discriminator (§4.2)."""
        adaptor = torch.optim.AdamW(self.network.adaptor.parameters(), lr=_ADAPTOR_RATE)
        rest = self.network.discriminator.parameters()
        return adaptor, torch.optim.Adam(rest, lr=_DISCRIMINATOR_RATE, weight_decay=_DISCRIMINATOR_DECAY)

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        features = self.items.rows(numbers)
        noise = torch.randn(features.shape, generator=generator) * self._sigma
        return self.network.loss(features, noise.to(features.device))


class SimpleNetScorer(TrainedScorer):
    """G and D. `hidden`: width of D; `sigma`: of the noise."""

    def __init__(self, levels: Levels, training: Training, device: torch.device, hidden: int, sigma: float):
        super().__init__(levels, training, device)
        self._hidden, self._sigma = hidden, sigma

    def make_network(self) -> SimpleNetwork:
        return SimpleNetwork(self.levels.dimension, self._hidden)

    def task(self, network: SimpleNetwork, features: FeatureStore) -> SimpleNetTask:
        network.statistics.learn(features.stored)
        return SimpleNetTask(network, Patches.of(features), self._sigma)


@register
@dataclass(kw_only=True, eq=False)
class SimpleNet(Detector):
    """A small network that tells patch features of good parts from the same with noise; its doubt is the score.
    Thresholds come from parts that were not learned from.

    Args:
        noise: standard deviation of the noise, in standard deviations of each adapted feature.
        hidden: width of the discriminator.
        epochs: how often each patch is seen.
        batch: patches at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`.
    """

    method: ClassVar[str] = "simplenet"
    summary: ClassVar[str] = "a small network that tells good patches from the same with noise"
    cost: ClassVar[str] = "an image takes a network and a small one; a minute or more to learn"
    scorer_class: ClassVar[type[SimpleNetScorer]] = SimpleNetScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"position_scale"})  # its map has a sign

    noise: float = 0.5
    hidden: int = 256
    epochs: int = 3
    batch: int = 2048
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        if not 0 < self.noise <= 100:
            raise OptionError(f"noise must lie in (0, 100], not {self.noise}")
        if self.hidden < 1:
            raise OptionError(f"hidden must be at least 1, not {self.hidden}")

    def make_scorer(self, levels: Levels) -> SimpleNetScorer:
        return self.scorer_class(levels, training_of(self), self.torch_device, self.hidden, self.noise)
