"""CFM: Costanzino et al., "Multimodal Industrial Anomaly Detection by Crossmodal Feature Mapping" (CVPR 2024),
arXiv 2312.04521.

The two mappings, their loss and their score are `training.crossmodal`. The paper
maps features of DINO to those of Point-MAE; here any two channels are mapped to each other, by default the picture and
the curvature of the surface as one network sees them.
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
from patchbank.training.crossmodal import Crossmodal
from patchbank.training.items import Patches
from patchbank.training.loop import Training
from patchbank.training.network import Standard
from patchbank.training.options import check_training, training_of
from patchbank.training.scorer import TrainedScorer


class CFMNetwork(nn.Module):
    """Two mappings between the standardised features of two channels. `hidden`: widths of their hidden layers."""

    def __init__(self, widths: Sequence[int], hidden: Sequence[int]):
        super().__init__()
        self._widths = list(widths)
        # features of one scale: what a network gives has channels that differ by orders of magnitude
        self.statistics = Standard(sum(widths))
        self.mapping = Crossmodal(widths[0], widths[1], hidden)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Features B×P×(Da + Db) → scores B×P: the product of how far each channel is off the prediction."""
        places = vectors.reshape(-1, vectors.shape[-1])
        present = torch.stack([(part != 0).any(-1) for part in torch.split(places, self._widths, -1)]).all(0)
        found = self.mapping.scores(*self.split(places), present)
        return found.reshape(vectors.shape[:2])

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """N×(Da + Db) features → those of each channel, standardised."""
        a, b = torch.split(self.statistics(vectors), self._widths, -1)
        return a, b


class CFMTask:
    """The features of two channels of the same places. `rate`: of learning."""

    def __init__(self, network: CFMNetwork, features: FeatureStore, rate: float):
        self.network, self._rate = network, rate
        self.items, self._others = (Patches(part, features.starts) for part in features.parts)

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Adam, as in the paper."""
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """1 − cos of each prediction, mean over the places."""
        vectors = torch.cat([self.items.rows(numbers), self._others.rows(numbers)], 1)
        one, two = self.network.mapping.distances(*self.network.split(vectors))
        return one.mean() + two.mean()


class CFMScorer(TrainedScorer):
    """The mappings. `hidden`: widths of their hidden layers; `rate`: of learning."""

    def __init__(
        self, levels: Sequence[Levels], training: Training, hidden: Sequence[int], rate: float, device: torch.device
    ):
        super().__init__(levels[0], training, device)
        self._widths, self._hidden, self._rate = [each.dimension for each in levels], list(hidden), rate

    @property
    def stored_width(self) -> int:
        return sum(self._widths)

    def make_network(self) -> CFMNetwork:
        return CFMNetwork(self._widths, self._hidden)

    def task(self, network: CFMNetwork, features: FeatureStore) -> CFMTask:
        network.statistics.learn(*features.parts)
        return CFMTask(network, features, self._rate)


@register
@dataclass(kw_only=True, eq=False)
class CFM(Detector):
    """Networks that predict each channel's features from the other's, learned on good parts; the score is how far both
    are off. Thresholds come from parts that were not learned from.

    Args:
        hidden: widths of the hidden layers of the mappings.
        epochs: how often each patch is seen.
        batch: patches at each step.
        learning_rate: of Adam (0.001 in the paper).
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`. `channels` must be two.
    """

    method: ClassVar[str] = "cfm"
    summary: ClassVar[str] = "how badly the picture predicts the geometry and the other way round; for RGB + 3D"
    cost: ClassVar[str] = "an image takes two networks and two small ones; a minute or more to learn"
    needs: ClassVar[str] = "two channels, such as geometry beside the picture"
    scorer_class: ClassVar[type[CFMScorer]] = CFMScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"fusion"})

    channels: tuple[str, ...] | None = ("rgb", "curvature")
    hidden: tuple[int, ...] = (256, 256)
    epochs: int = 10
    batch: int = 1024
    learning_rate: float = 1e-3
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        if self.channels is None or len(self.channels) != 2:
            raise OptionError(f"cfm takes two channels, such as rgb,curvature, not {self.channels}")
        if not self.hidden or min(self.hidden) < 1:
            raise OptionError(f"hidden takes widths of at least 1, such as 256,256, not {self.hidden}")

    def fuse(self, levels: Sequence[Levels], channels: Sequence[str]) -> CFMScorer:
        return CFMScorer(levels, training_of(self), self.hidden, self.learning_rate, self.torch_device)
