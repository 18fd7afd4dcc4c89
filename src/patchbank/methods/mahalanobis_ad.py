"""Mahalanobis-AD: Rippel et al., "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
Detection" (ICPR 2020), arXiv 2005.14140."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from patchbank._system.tree import Tree
from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.aggregation import Arrangement, Pooled
from patchbank.features.storage import map_blocks
from patchbank.features.store import FeatureStore
from patchbank.memory.whitening import whiten_tied
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, lengths

_Spread: TypeAlias = tuple[Tensor, float]  # of one level: scatter, and the sum of the fourth powers of lengths


class MahalanobisADScorer(Scorer):
    """N(μ, Σ) of each level's average over the image."""

    localizes: ClassVar[bool] = False
    keeps_grid: ClassVar[bool] = True
    learns_in_shards: ClassVar[bool] = True
    mean: Tensor  # ΣC
    factors: list[Tensor]  # for each level C×C; see `memory.whitening`

    def __init__(self, levels: Levels):
        super().__init__(levels)
        self._left_out: list[tuple[Tensor, float]] = []
        self._images = 0

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """§III-A: mean and shrunk covariance of each level."""
        count = self._images = len(features)
        sums = [of_block for _, of_block in map_blocks(features.stored, _sum)]
        mean = torch.stack(sums).sum(0) / count
        self.mean, self.factors, self._left_out = mean.float(), [], []
        tree = Tree(_merged)
        for number, (_, of_block) in enumerate(map_blocks(features.stored, partial(self._spread, mean))):
            tree.add(number, of_block)
        for scatter, fourth in tree.total():
            shrinkage, target = shrink(scatter, fourth, count)
            ridge = max(shrinkage * target, 1e-12)
            self.factors.append(whiten_tied((1 - shrinkage) / count * scatter, ridge).float())
            # without one image, at the same shrinkage and target: one factor for all (as PaDiM)
            share = (1 - shrinkage) / max(count - 1, 1)
            self._left_out.append((whiten_tied(share * scatter, ridge), share))
        return self

    def _spread(self, mean: Tensor, block: Tensor) -> list[_Spread]:
        return [(x.T @ x, float(x.square().sum(1).square().sum())) for x in self._by_level(block.double() - mean)]

    def release(self) -> None:
        self._left_out = []

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """Eq. 2: the sum of the levels' Mahalanobis distances, of one vector for an image."""
        levels = self._by_level(points - self.mean)
        if exclude is not None:
            return PatchScores(None, image=self._without(levels))
        parts = [lengths(x @ w.T) for x, w in zip(levels, self.factors, strict=True)]
        return PatchScores(None, image=torch.stack(parts).sum(0).squeeze(-1))

    def _without(self, levels: tuple[Tensor, ...]) -> float:
        """The score of a training image, given its differences from the mean, by the distributions without it."""
        if self._images == 1:
            return math.inf
        if not self._left_out:
            raise OptionError("mahalanobis leaves an image out only while it is fitted")
        grown, score = self._images / (self._images - 1), 0.0
        for x, (factor, share) in zip(levels, self._left_out, strict=True):
            squared = float((x.double() @ factor.T).square().sum())
            score += grown * (squared / max(1 - share * grown * squared, 1e-12)) ** 0.5
        return score

    def _by_level(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return torch.split(vectors, list(self.levels.channels), dim=-1)

    def state(self) -> tuple[Memory, dict[str, Any]]:
        return {"mean": self.mean, **{f"factor.{i}": w for i, w in enumerate(self.factors)}}, {}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mean = tensors["mean"]
        count = sum(name.startswith("factor.") for name in tensors)
        # cloned: products round differently where a matrix does not begin at a multiple of a cache line
        self.factors = [tensors[f"factor.{i}"].clone() for i in range(count)]
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        return {name.replace(".", ""): tensor.cpu().clone() for name, tensor in self.state()[0].items()}, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.mean = memory["mean"]
        scorer.factors = [memory[f"factor{i}"] for i in range(len(self.factors))]
        return scorer


def _sum(block: Tensor) -> Tensor:
    return block.double().sum(0)


def _merged(first: list[_Spread], second: list[_Spread]) -> list[_Spread]:
    return [(a + b, c + d) for (a, c), (b, d) in zip(first, second, strict=True)]


def ledoit_wolf(centred: Tensor) -> tuple[float, float]:
    """N×D, mean subtracted → (ρ, μ): the covariance is estimated as (1 − ρ)·S + ρ·μ·I, S = XᵀX/N, μ = tr(S)/D.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
    """
    return shrink(centred.T @ centred, float(centred.square().sum(1).square().sum()), len(centred))


def shrink(scatter: Tensor, fourth: float, n: int) -> tuple[float, float]:
    """As `ledoit_wolf`, of XᵀX and Σ‖x‖⁴ of N rows."""
    covariance, d = scatter / n, len(scatter)
    target = float(covariance.diagonal().sum()) / d
    spread = float(covariance.square().sum()) - d * target**2  # d² of the paper, times D
    noise = (fourth / n - float(covariance.square().sum())) / n
    shrinkage = min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 1.0
    return shrinkage, target


@register
@dataclass(kw_only=True, eq=False)
class MahalanobisAD(Detector):
    """A normal distribution of each level's average over the image, with the covariance of Ledoit and Wolf; the score
    is the sum of the levels' Mahalanobis distances. For whole images only: the map is empty (NaN).

    By default levels 1 to 4 are in use. Other options: `Options`, but those of patches and maps.
    """

    method: ClassVar[str] = "mahalanobis"
    summary: ClassVar[str] = "Mahalanobis distance of the averaged levels; no map"
    cost: ClassVar[str] = "an image takes a network; seconds to learn, and the smallest memory"
    needs: ClassVar[str] = "parts that look alike as a whole"
    scorer_class: ClassVar[type[MahalanobisADScorer]] = MahalanobisADScorer
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3, 4)
    without_effect: ClassVar[frozenset[str]] = frozenset({"position_scale"}) | frozenset(
        {"aggregation", "patch_size", "stride", "overlap", "image_score", "sigma"}
    )

    def check(self) -> None:
        super().check()
        if self.tile is not None:
            raise OptionError("mahalanobis averages over the whole image: it does not go with tile")
        if self.align:
            raise OptionError("mahalanobis averages over the whole image, wherever the part lies: leave out align")

    def arrange(self) -> Arrangement:
        return Pooled()

    def make_scorer(self, levels: Levels) -> MahalanobisADScorer:
        return MahalanobisADScorer(levels)
