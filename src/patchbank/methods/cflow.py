"""CFLOW-AD: Gudovskiy et al., "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via Conditional
Normalizing Flows" (WACV 2022), arXiv 2107.12571.

Vectors of each level have a normalising flow, which is told where a vector lies. What is ours (docs/methods/cflow.md):
features are standardised over the training images; the loss is −log p / C itself, where the released code has
−log σ(log p / C); and a vector scores by the density of its z alone, which told more defects with short trainings. The
released code scales each level by the largest log p of the test images, and keeps the epoch that is best on them:
neither is done here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.detector import Detector
from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement, Cells
from patchbank.features.store import FeatureStore
from patchbank.registry import register
from patchbank.scorer import Grid, Levels
from patchbank.training.couplings import Flow, Subnet, mean_inside
from patchbank.training.items import Patches, on_finest
from patchbank.training.loop import Training
from patchbank.training.network import Standard
from patchbank.training.options import check_training, training_of
from patchbank.training.scorer import TrainedScorer

_CLAMP = 1.9
_CODE = 128  # length of the position code, a multiple of 4
_SLOWEST = 1e-4  # of the code's frequencies


def position_code(rows: Tensor, columns: Tensor) -> Tensor:
    """Sines and cosines of the column, then of the row, at frequencies from 1 to 1e-4 that form a geometric series.

    Args:
        rows: … of positions.
        columns: as many.

    Returns:
        …×128.
    """
    steps = torch.arange(_CODE // 4, device=rows.device).float()
    frequencies = torch.exp(steps * (math.log(_SLOWEST) / (_CODE // 4)))
    angles = [places[..., None] * frequencies for places in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], -1)


def connected(width: int) -> Subnet:
    """Subnets of two layers that also see the position code. `width`: of the hidden layer, in numbers that go in."""

    def make(given: int, wanted: int) -> nn.Module:
        seen = given + _CODE
        return nn.Sequential(nn.Linear(seen, width * seen), nn.ReLU(), nn.Linear(width * seen, wanted))

    return make


class CFlowNetwork(nn.Module):
    """A flow for each level. `steps`: couplings of each; `width`: as of `connected`."""

    def __init__(self, levels: Levels, steps: int, width: int):
        super().__init__()
        self.levels = levels
        self.statistics = Standard(levels.dimension)
        subnets = [connected(width)] * steps
        self.flows = nn.ModuleList(Flow(channels, subnets, _CLAMP, axis=-1) for channels in levels.channels)

    def forward(self, vectors: Tensor, grid: Grid) -> Tensor:
        """Cells B×P×D → ½‖z‖² / C, the mean over the levels on the grid of the shallowest, B×h×w."""
        rows = torch.arange(grid[0], device=vectors.device).repeat_interleave(grid[1])
        columns = torch.arange(grid[1], device=vectors.device).repeat(grid[0])
        maps = []
        for (flow, level, code), side in zip(self._by_level(vectors, rows, columns), self._sides(), strict=True):
            of_cells = flow.distance(level, code).transpose(1, 2).reshape(-1, side**2, *grid)
            maps.append(F.pixel_shuffle(of_cells, side)[:, 0])
        return on_finest(maps).mean(0)

    def _by_level(self, cells: Tensor, rows: Tensor, columns: Tensor) -> list[tuple[Flow, Tensor, Tensor]]:
        """The flow of each level; the standardised vectors that each cell has of it, …×N×V_j×C_j; and where they lie,
        …×N×V_j×128. Arguments: as of `loss`."""
        found = []
        levels = Cells.split(self.statistics(cells), self.levels.channels, self.levels.strides)
        for flow, level, side in zip(self.flows, levels, self._sides(), strict=True):
            inner = torch.arange(side, device=rows.device)
            down = side * rows[:, None] + inner.repeat_interleave(side)
            across = side * columns[:, None] + inner.repeat(side)
            found.append((flow, level, position_code(down, across).expand(*level.shape[:-1], _CODE)))
        return found  # type: ignore[return-value]

    def loss(self, cells: Tensor, rows: Tensor, columns: Tensor, inside: Tensor) -> Tensor:
        """−log p = ½‖z‖² − log |det ∂z/∂x| + ½ C log 2π, divided by the C channels of a level: mean over its vectors,
        and over the levels.

        Args:
            cells: N×D.
            rows: N, where the cells lie in the grids of their images.
            columns: N.
            inside: N, 1 for cells that are inspected, 0 for the others.
        """
        by_level = self._by_level(cells, rows, columns)
        losses = [mean_inside(flow.surprise(level, code), inside[:, None]) for flow, level, code in by_level]
        return torch.stack(losses).mean()

    def _sides(self) -> list[int]:
        """How many rows, and columns, of vectors a cell has of each level."""
        return [self.levels.strides[-1] // stride for stride in self.levels.strides]


class CFlowTask:
    """Cells of good images in random order, as likely as can be where they lie."""

    def __init__(self, network: CFlowNetwork, features: FeatureStore, rate: float, noise: float = 0.0):
        self.network, self.items, self._rate, self.noise = network, Patches.of(features), rate, noise
        self.grids = [ref.grid for ref in features.refs]
        self._starts, self._widths = torch.tensor(features.starts), torch.tensor([grid[1] for grid in self.grids])
        masks = zip(features.inspected, self.grids, strict=True)
        there = [np.ones(grid, dtype=bool) if mask is None else mask for mask, grid in masks]
        self._inside = torch.from_numpy(np.concatenate([each.ravel() for each in there]))

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def places(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of each of these cells, in the grid of its image."""
        image = torch.searchsorted(self._starts, numbers, right=True) - 1
        within, width = numbers - self._starts[image], self._widths[image]
        return within // width, within % width

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        cells, inside = self.items.rows(numbers), self._inside[numbers].float()
        cells = self.network.statistics.with_noise(cells, self.noise, generator)
        rows, columns = self.places(numbers)
        return self.network.loss(cells, *(each.to(cells.device) for each in (rows, columns, inside)))


class CFlowScorer(TrainedScorer):
    """The flows. `rate`: of learning; `noise`: as of `CFLOW`; others as of the network."""

    keeps_grid: ClassVar[bool] = True

    def __init__(
        self,
        levels: Levels,
        training: Training,
        device: torch.device,
        *,
        steps: int,
        width: int,
        rate: float,
        noise: float,
    ):
        super().__init__(levels, training, device)
        self._steps, self._width, self._rate, self._noise = steps, width, rate, noise

    def make_network(self) -> CFlowNetwork:
        return CFlowNetwork(self.levels, self._steps, self._width)

    def task(self, network: CFlowNetwork, features: FeatureStore) -> CFlowTask:
        network.statistics.learn(features.stored)
        return CFlowTask(network, features, self._rate, self._noise)


@register
@dataclass(kw_only=True, eq=False)
class CFLOW(Detector):
    """Normalising flows of feature vectors, one for each level, which know where a vector lies: how unlikely it is, is
    its score. Thresholds come from parts that were not learned from.

    Args:
        steps: couplings of each flow.
        hidden_ratio: width of a subnet's hidden layer, in numbers that it sees.
        learning_rate: of Adam, which falls to 0 as a cosine.
        noise: what is added to features while learning, in standard deviations of each.
        epochs: how often each vector is seen.
        batch: cells at each step, which have one vector of the deepest level, and several of the others.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`, but aggregation.
    """

    method: ClassVar[str] = "cflow"
    summary: ClassVar[str] = "how unlikely a vector is where it lies, by flows that were learned"
    cost: ClassVar[str] = "an image takes a network and its flows; minutes to learn"
    needs: ClassVar[str] = "parts that lie in the same place; it works with others, but gains nothing by places there"
    scorer_class: ClassVar[type[CFlowScorer]] = CFlowScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"aggregation"})
    on_whole_images: ClassVar[dict[str, Any]] = {"sigma": 4.0, "position_scale": True}

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "smoothed"
    steps: int = 8
    hidden_ratio: int = 1
    learning_rate: float = 1e-3
    noise: float = 0.3
    epochs: int = 2
    batch: int = 64
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        if self.steps < 1:
            raise OptionError(f"steps must be at least 1, not {self.steps}")
        if not 1 <= self.hidden_ratio <= 16:
            raise OptionError(f"hidden_ratio must lie in 1..16, not {self.hidden_ratio}")
        if not 0 <= self.noise <= 10:
            raise OptionError(f"noise must lie in [0, 10], not {self.noise}")
        if self.stride != 1:
            raise OptionError(f"cflow compares every position: stride must be 1, not {self.stride}")

    def arrange(self) -> Arrangement:
        return Cells(self.option("patch_size"))

    def make_scorer(self, levels: Levels) -> CFlowScorer:
        return self.scorer_class(
            levels, training_of(self, schedule="cosine"), self.torch_device,
            steps=self.steps, width=self.hidden_ratio, rate=self.learning_rate, noise=self.noise,
        )  # fmt: skip
