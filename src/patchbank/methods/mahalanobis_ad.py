"""Mahalanobis-AD: Rippel et al., "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
Detection" (ICPR 2020), arXiv 2005.14140."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement, Pooled
from patchbank.features.extractor import Progress
from patchbank.features.store import FeatureSet
from patchbank.memory.whitening import whiten_tied
from patchbank.methods.base import Detector
from patchbank.methods.method import PatchScores


@dataclass(kw_only=True, eq=False)
class MahalanobisAD(Detector):
    """A normal distribution of each level's average over the image, with the covariance of Ledoit and Wolf; the score
    is the sum of the levels' Mahalanobis distances. For whole images only: the map is empty (NaN).

    By default levels 1 to 4 are in use. Other options: `Options`; those of patches and maps have no
    effect.
    """

    method: ClassVar[str] = "mahalanobis"
    summary: ClassVar[str] = "Mahalanobis distance of the averaged levels; no map"
    cost: ClassVar[str] = "52 ms an image, 0.5 MB, 9 s to learn"
    needs: ClassVar[str] = "parts that look alike as a whole"
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3, 4)
    localizes: ClassVar[bool] = False
    keeps_grid: ClassVar[bool] = True

    mean_: Tensor = dataclasses.field(init=False, repr=False)  # ΣC
    factors_: list[Tensor] = dataclasses.field(init=False, repr=False)  # for each level C×C; see `whitening`
    _left_out: list[tuple[Tensor, float]] = dataclasses.field(init=False, repr=False, default_factory=list)
    _images: int = dataclasses.field(init=False, repr=False, default=0)

    def _check(self) -> None:
        super()._check()
        if self.tile is not None:
            raise OptionError("mahalanobis averages over the whole image: it does not go with tile")
        if self.align:
            raise OptionError("mahalanobis averages over the whole image, wherever the part lies: leave out align")

    def _arrange(self) -> Arrangement:
        return Pooled()

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        vectors = features.stored.double()
        mean = vectors.mean(0)
        self.mean_, self.factors_, self._left_out, self._images = mean.float(), [], [], len(vectors)
        for level in self._by_level(vectors - mean):
            shrinkage, target = ledoit_wolf(level)
            scatter, ridge = level.T @ level, max(shrinkage * target, 1e-12)
            self.factors_.append(whiten_tied((1 - shrinkage) / len(level) * scatter, ridge).float())
            # without one image, at the same shrinkage and target: one factor for all (see PaDiM._leave_one_out)
            share = (1 - shrinkage) / max(len(level) - 1, 1)
            self._left_out.append((whiten_tied(share * scatter, ridge), share))

    def _tidy(self) -> None:
        self._left_out = []

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        levels = self._by_level(vectors - self.mean_)
        if without_image is None:
            score = sum(float(torch.linalg.vector_norm(x @ w.T)) for x, w in zip(levels, self.factors_, strict=True))
        else:
            score = self._without(levels)
        return PatchScores(torch.full(grid, torch.nan), image=score)

    def _without(self, levels: tuple[Tensor, ...]) -> float:
        """The score of a training image, given its differences from the mean, by the distributions without it."""
        if self._images == 1:
            return math.inf
        grown, score = self._images / (self._images - 1), 0.0
        for x, (factor, share) in zip(levels, self._left_out, strict=True):
            squared = float((x.double() @ factor.T).square().sum())
            score += grown * (squared / max(1 - share * grown * squared, 1e-12)) ** 0.5
        return score

    def _by_level(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return torch.split(vectors, list(self._open().backbone.channels), dim=1)

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mean": self.mean_, **{f"factor.{i}": w for i, w in enumerate(self.factors_)}}, {}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.mean_ = tensors["mean"]
        count = sum(name.startswith("factor.") for name in tensors)
        # cloned: products round differently where a matrix does not begin at a multiple of a cache line
        self.factors_ = [tensors[f"factor.{i}"].clone() for i in range(count)]


def ledoit_wolf(centred: Tensor) -> tuple[float, float]:
    """N×D, mean subtracted → (ρ, μ): the covariance is estimated as (1 − ρ)·S + ρ·μ·I, S = XᵀX/N, μ = tr(S)/D.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
    """
    n, d = centred.shape
    covariance = centred.T @ centred / n
    target = float(covariance.diagonal().sum()) / d
    spread = float(covariance.square().sum()) - d * target**2  # d² of the paper, times D
    noise = (float(centred.square().sum(1).square().sum()) / n - float(covariance.square().sum())) / n
    shrinkage = min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 1.0
    return shrinkage, target
