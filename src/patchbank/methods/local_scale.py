"""Local scale: how far is far is learned near each vector of a bank.

After the idea of Tao, Cao and Du, "G2SF: Geometry-Guided Score Fusion for Multimodal Industrial Anomaly Detection"
(2025), arXiv 2503.10091: the distance to the nearest vector of a bank is divided by a scale that a network predicts
from that vector and the direction of the difference. Only the abstract of the paper was read. The network, the
pseudo-anomalies, the loss and its equations below are ours, and so is the use on one bank.

With x a patch, n(x) the nearest vector of the bank and u the direction of x − n(x):

    score(x) = ‖x − n(x)‖ / s(n(x), u)                                                                           (1)

s is a small network, `training.scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan
from patchbank.features.store import FeatureStore
from patchbank.memory.bank_scorer import BankSize, check_bank_search
from patchbank.memory.traced import norm
from patchbank.methods.patchcore import PatchCoreScorer, greedy_scorer
from patchbank.registry import register
from patchbank.sample import SampleRef, parts_of
from patchbank.scorer import Grid, Levels, Memory, Origin, PatchScores, Scorer, masked
from patchbank.scoring.displacement import Response
from patchbank.training.items import Patches
from patchbank.training.loop import Training
from patchbank.training.options import check_training, training_of
from patchbank.training.scale import ScaleNetwork
from patchbank.training.scorer import TrainedScorer

_LEAST = 1e-6  # of lengths that are divided by
_NEAR, _FAR = 1.0, 4.0  # how far a pseudo-anomaly is from its patch, in mean distances of good patches to the bank
_HARDEST = 0.05  # share of the good patches of a batch that the loss ranks


class LocalScaleTask:
    """Good patches, and pseudo-anomalies made of them.

    Args:
        network: its bank and statistics filled.
        patches: of good parts, as the bank keeps them.
        part_of: the part that each image shows, N_images.
        owner: the part that each vector of the bank comes from, M.
        rate: of learning.
        stiffness: λ of Eq. 2.
    """

    def __init__(
        self, network: ScaleNetwork, patches: Patches, part_of: Sequence[int], owner: Tensor, rate: float,
        stiffness: float,
    ):  # fmt: skip
        self.network, self.items, self._rate, self.stiffness = network, patches, rate, stiffness
        self.part_of, self.owner = np.asarray(part_of), owner
        spread = network.statistics.scale
        self.unit = spread / norm(spread)  # of noise: the expected length of unit · N(0, 1) is about 1

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Adam."""
        return [torch.optim.Adam(self.network.parameters(), lr=self._rate)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """The highest scores of good patches are to lie below those of pseudo-anomalies, wherever both are. With g_i
        the logarithms of the highest 5 % of the scores of good patches and a_j those of all pseudo-anomalies:

            mean over i, j of log(1 + exp(g_i − a_j)) + λ · mean over all patches of (log s)².                   (2)

        With all good patches in the place of the highest ones s would level out how dense the bank is, and a defect
        that is like the rarest good patches would pass. The second term keeps s at 1 where nothing speaks against it.
        """
        good = self.items.rows(numbers)
        parts = self._parts(numbers).to(good.device)
        nearest = self.nearest(good, parts)
        off = self.pseudo_anomalies(good, norm(good - self.network.bank[nearest]), generator)
        of_good, scale = self.network.log_scores(good, nearest)
        of_off, scale_of_off = self.network.log_scores(off, self.nearest(off, parts))
        highest = of_good.topk(max(1, int(_HARDEST * len(good)))).values
        ranked = F.softplus(highest[:, None] - of_off).mean()
        return ranked + self.stiffness * torch.cat([scale, scale_of_off]).square().mean()

    def pseudo_anomalies(self, good: Tensor, distance: Tensor, generator: torch.Generator) -> Tensor:
        """Good patches B×D, `distance` B from the bank → patches 1 to 4 times the mean distance away from them: half
        of them in a random direction, as each dimension spreads; half towards the patch of another place."""
        far, kind = torch.rand(2, len(good), generator=generator).to(good.device)
        noise = torch.randn(good.shape, generator=generator).to(good.device) * self.unit
        other = good.roll(1, 0) - good  # batches are shuffled
        other = other / norm(other)[:, None].clamp(min=_LEAST)
        length = (_NEAR + (_FAR - _NEAR) * far) * distance.mean()
        moved: Tensor = good + length[:, None] * torch.where(kind[:, None] < 0.5, noise, other)
        return moved

    def nearest(self, points: Tensor, parts: Tensor) -> Tensor:
        """Numbers B of the vectors nearest to B×D points, those of their own `parts` B left out."""
        bank = self.network.bank
        squared = bank.square().sum(1) - 2 * points @ bank.T
        own = self.owner == parts[:, None]
        found: Tensor = squared.masked_fill(own & ~own.all(1, keepdim=True), torch.inf).argmin(1)
        return found

    def _parts(self, rows: Tensor) -> Tensor:
        images = np.searchsorted(self.items.starts, rows.cpu().numpy(), side="right") - 1
        return torch.from_numpy(self.part_of[images])


class LocalScaleScorer(TrainedScorer):
    """A bank as PatchCore's, and the scale. `bank`: not fitted; `hidden`: width of the network; `rate`: of learning;
    `stiffness`: λ of Eq. 2."""

    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True

    def __init__(
        self, bank: PatchCoreScorer, training: Training, device: torch.device, hidden: int, rate: float,
        stiffness: float,
    ):  # fmt: skip
        super().__init__(bank.levels, training, device)
        self._hidden, self._rate, self._stiffness, self._is_traced = hidden, rate, stiffness, False
        self._banked, self._count = (bank,), 0  # no module of this one, as the network

    @property
    def memory(self) -> PatchCoreScorer:
        """The bank, and how patches come to its space."""
        return self._banked[0]

    def make_network(self) -> ScaleNetwork:
        return ScaleNetwork(self.levels.dimension, self._count, self._hidden)

    def task(self, network: ScaleNetwork, features: FeatureStore) -> LocalScaleTask:
        vectors = features.stored if features.prepared else self.prepare(features.stored)
        network.statistics.learn(vectors)
        network.bank.copy_(self.memory.bank.vectors)
        patches, parts, owner = Patches(vectors, features.starts), parts_of(features.refs), self.memory.bank.part_of
        return LocalScaleTask(network, patches, parts, owner, self._rate, self._stiffness)

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        return Scorer.plan(self, images, patches, device, budget)  # of the selection: the training needs less

    def training_bytes(self, images: int, patches: int) -> tuple[int, int]:
        return 0, 0

    def plan_options(self) -> dict[str, Any]:
        return self.memory.plan_options()

    def kept(self, patches: int) -> int:
        return self.memory.kept(patches)

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """First the bank, then the scale near its vectors."""
        self.memory.fit(features, progress)
        self._count = len(self.memory.bank)
        return super().fit(features, progress)

    # ---- score -------------------------------------------------------------------------------------------------------

    def prepare(self, vectors: Tensor) -> Tensor:
        return self.memory.prepare(vectors)

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        if self._is_traced:
            return super().compare(points, grid, inspected)
        distances, nearest = self.memory.bank.nearest(points, exclude)
        with torch.no_grad():
            scores = self.network.scores(points, nearest)
        scores = scores.masked_fill(torch.isinf(distances), torch.inf)  # nothing is left to compare with
        return PatchScores(masked(scores, inspected), nearest)

    def gain(self, response: Response) -> Tensor:
        return self.memory.gain(response)

    # ---- what it knows, files, exports -------------------------------------------------------------------------------

    def closest(self, points: Tensor, patch: int, count: int, exclude: int | None) -> list[tuple[int, float]]:
        """Nearest by the distance of the bank; the distances are scores."""
        found = [reference for reference, _ in self.memory.closest(points, patch, count, exclude)]
        if not found:
            return []
        with torch.no_grad():
            scores = self.network.scores(points[patch].expand(len(found), -1), torch.tensor(found))
        return list(zip(found, scores.tolist(), strict=True))

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        return self.memory.origin_of(references)

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        return self.memory.refs

    @property
    def memory_vectors(self) -> int | None:
        return self.memory.memory_vectors

    def facts(self) -> dict[str, Any]:
        return {**self.memory.facts(), **super().facts()}

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors, values = self.memory.state()
        learned, outcome = super().state()
        del learned["network.bank"]  # it is there once
        return tensors | learned, values | outcome

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.memory.restore(tensors, values)
        self._count = len(self.memory.bank)
        return super().restore(tensors | {"network.bank": self.memory.bank.vectors.float()}, values)

    def on_cpu(self) -> Self:
        scorer = super().on_cpu()
        scorer._banked = (self.memory.on_cpu(),)
        return scorer

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        memory, _ = super().export_memory(grid)
        return memory, {"bank": 0}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = super().traced(memory, grid)
        scorer._is_traced = True
        return scorer


@register
@dataclass(kw_only=True, eq=False)
class LocalScale(Detector):
    """A coreset of nominal patch features, and a small network that says how far is far near each of them: the score is
    the distance to the nearest one over that. Thresholds come from parts that were not learned from.

    Args:
        coreset: share of all patches to keep (by default 10 %, but no more than 10 000 patches).
        bank_size: how many patches to keep instead.
        search: how neighbours are found, see `patchbank.memory.search`.
        hidden: width of the network.
        stiffness: how strongly the scale is kept at 1; with a large one the score is the distance.
        learning_rate: of Adam.
        epochs: how often each patch is seen.
        batch: patches at each step.
        max_minutes: when to stop, whether or not all epochs are done; all trainings of the fit together.
        patience: stop after so many epochs without a lower loss on a tenth of the images, which are kept back.
    Other options: `Options`.
    """

    method: ClassVar[str] = "localscale"
    summary: ClassVar[str] = "distance to the nearest in a coreset, over a scale that is learned there"
    cost: ClassVar[str] = "an image takes what patchcore takes and a small network; minutes to learn"
    scorer_class: ClassVar[type[LocalScaleScorer]] = LocalScaleScorer

    coreset: float | None = None
    bank_size: int | None = None
    search: str = "auto"
    hidden: int = 64
    stiffness: float = 5.0
    learning_rate: float = 1e-3
    epochs: int = 2
    batch: int = 512
    max_minutes: float | None = None
    patience: int | None = None

    def check(self) -> None:
        super().check()
        check_training(self)
        BankSize(self.coreset, self.bank_size).check()
        check_bank_search(self.search, self.torch_device, 0)
        if self.hidden < 1:
            raise OptionError(f"hidden must be at least 1, not {self.hidden}")
        if not 0 <= self.stiffness <= 1e6:
            raise OptionError(f"stiffness must lie in 0..1e6, not {self.stiffness}")

    def make_scorer(self, levels: Levels) -> LocalScaleScorer:
        balanced = self.in_effect("balance_levels", None) and self.option("aggregation") == "mean"
        bank = greedy_scorer(self, levels, balanced=balanced)
        return LocalScaleScorer(
            bank, training_of(self), self.torch_device, self.hidden, self.learning_rate, self.stiffness
        )  # fmt: skip
