"""FastFlow: Yu et al., "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows" (2021),
arXiv 2111.07677.

The map of each level has a normalising flow of its own, whose subnets are convolutions: 3×3 and 1×1 in turn. A position
scores by the density of its z alone, as in public implementations, for with log |det| defects stand out less. What is
ours (docs/methods/fastflow.md): features are standardised over the training images, where the paper has a layer norm;
the score is ½‖z‖² / C, where −exp(−½‖z‖² / C) would make all unlikely positions alike; features have noise while
learning, and the learning rate is three times the paper's and falls to 0, for far fewer epochs; and the last is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from patchbank.detector import Detector
from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement, Cells
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training.couplings import Flow, Subnet, mean_inside
from patchbank.training.items import Pictures, on_finest
from patchbank.training.loop import Training
from patchbank.training.network import Standard
from patchbank.training.options import check_training, training_of
from patchbank.training.scorer import TrainedScorer

_CLAMP = 2.0
_DECAY = 1e-5


def convolutions(kernel: int, ratio: float) -> Subnet:
    """Subnets of two convolutions. `ratio`: of hidden channels to those that go in."""

    def make(given: int, wanted: int) -> nn.Module:
        hidden = max(1, round(ratio * given))
        first = nn.Conv2d(given, hidden, kernel, padding=kernel // 2)
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(hidden, wanted, kernel, padding=kernel // 2))

    return make


class FastFlowNetwork(nn.Module):
    """A flow for each level. `steps`: couplings of each; `ratio`: as of `convolutions`."""

    def __init__(self, levels: Levels, steps: int, ratio: float):
        super().__init__()
        self.levels = levels
        self.statistics = Standard(levels.dimension)
        subnets = [convolutions(3 if step % 2 == 0 else 1, ratio) for step in range(steps)]
        self.flows = nn.ModuleList(Flow(channels, subnets, _CLAMP, axis=1) for channels in levels.channels)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Cells B×P×D → ½‖z‖² / C, the mean over the levels on the grid of the shallowest, B×h×w."""
        return on_finest([flow.distance(level) for flow, level in self._by_level(vectors, grid)]).mean(0)

    def _by_level(self, vectors: Tensor, grid: Grid) -> list[tuple[Flow, Tensor]]:
        """The flow of each level, and its standardised map, B×C_j×h_j×w_j."""
        cells = self.statistics(vectors).reshape(-1, *grid, self.levels.dimension)
        maps = Cells().channels(cells, self.levels.channels, self.levels.strides)
        return [(flow, level) for flow, (level, _) in zip(self.flows, maps, strict=True)]  # type: ignore[misc]

    def loss(self, vectors: Tensor, grid: Grid, inside: Tensor) -> Tensor:
        """−log p = ½‖z‖² − log |det ∂z/∂x| + ½ C log 2π, divided by the C channels of a level: mean over its positions,
        and over the levels.

        Args:
            vectors: B×P×D.
            grid: (rows, columns) of the P cells.
            inside: B×P, 1 for cells that are inspected, 0 for the others.
        """
        cells, losses = inside.reshape(-1, *grid), []
        for flow, level in self._by_level(vectors, grid):
            surprise = flow.surprise(level)
            side = surprise.shape[1] // grid[0]
            there = cells.repeat_interleave(side, 1).repeat_interleave(side, 2)
            losses.append(mean_inside(surprise, there))
        return torch.stack(losses).mean()


class FastFlowTask:
    """Whole maps of good images, as likely as can be."""

    def __init__(self, network: FastFlowNetwork, features: FeatureStore, rate: float, noise: float = 0.0):
        self.network, self.items, self._rate, self.noise = network, Pictures(features), rate, noise

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate, weight_decay=_DECAY)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        vectors, inside = self.items.vectors(numbers), self.items.inside(numbers)
        counts = torch.ones(vectors.shape[:2]) if inside is None else inside.flatten(1)
        vectors = self.network.statistics.with_noise(vectors, self.noise, generator)
        return self.network.loss(vectors, self.items.grid(numbers), counts.to(vectors))


class FastFlowScorer(TrainedScorer):
    """The flows. `rate`: of learning; `noise`: as of `FastFlow`; others as of the network."""

    keeps_grid: ClassVar[bool] = True
    working_bytes: ClassVar[int] = 1_000_000_000  # activations of all couplings, for a batch of whole maps

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        *,
        steps: int,
        ratio: float,
        rate: float,
        noise: float,
    ):
        super().__init__(levels, training, device)
        self._steps, self._ratio, self._rate, self._noise = steps, ratio, rate, noise

    def make_network(self) -> FastFlowNetwork:
        return FastFlowNetwork(self.levels, self._steps, self._ratio)

    def task(self, network: FastFlowNetwork, features: FeatureStore) -> FastFlowTask:
        network.statistics.learn(features.stored)
        return FastFlowTask(network, features, self._rate, self._noise)


@register
@dataclass(kw_only=True, eq=False)
class FastFlow(Detector):
    """Normalising flows of whole feature maps, one for each level: how unlikely a position is, is its score.
    Thresholds come from parts that were not learned from.

    Args:
        steps: couplings of each flow.
        hidden_ratio: width of a subnet's hidden layer, as a share of the channels that it sees.
        learning_rate: of Adam, which falls to 0 as a cosine.
        noise: what is added to features while learning, in standard deviations of each.
        epochs: how often each image is seen.
        batch: images at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`, but aggregation.
    """

    method: ClassVar[str] = "fastflow"
    summary: ClassVar[str] = "how unlikely a place is, by flows that were learned on whole feature maps"
    cost: ClassVar[str] = "an image takes a network and its flows; minutes to learn"
    scorer_class: ClassVar[type[FastFlowScorer]] = FastFlowScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"aggregation"})
    on_whole_images: ClassVar[dict[str, Any]] = {"sigma": 4.0, "position_scale": True}

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "smoothed"
    steps: int = 8
    hidden_ratio: float = 1.0
    learning_rate: float = 3e-3
    noise: float = 0.3
    epochs: int = 8
    batch: int = 4
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        if self.steps < 1:
            raise OptionError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.hidden_ratio <= 16:
            raise OptionError(f"hidden_ratio must lie in (0, 16], not {self.hidden_ratio}")
        if not 0 <= self.noise <= 10:
            raise OptionError(f"noise must lie in [0, 10], not {self.noise}")
        if self.stride != 1:
            raise OptionError(f"fastflow learns from whole maps: stride must be 1, not {self.stride}")

    def arrange(self) -> Arrangement:
        return Cells(self.option("patch_size"))

    def make_scorer(self, levels: Levels) -> FastFlowScorer:
        return self.scorer_class(
            levels, training_of(self, schedule="cosine"), self.torch_device,
            steps=self.steps, ratio=self.hidden_ratio, rate=self.learning_rate, noise=self.noise,
        )  # fmt: skip
