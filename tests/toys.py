"""A method as small as can be, which several tests build upon."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import Self

from patchbank.errors import Progress
from patchbank.features.store import FeatureStore
from patchbank.scorer import Grid, Memory, PatchScores, Scorer, lengths, masked


class MeanScorer(Scorer):
    """The distance of each patch to the mean patch."""

    mean: Tensor

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        self.mean = features.stored.mean(0)
        return self

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        return PatchScores(masked(lengths(points - self.mean), inspected))

    def state(self) -> tuple[Memory, dict[str, Any]]:
        return {"mean": self.mean}, {}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mean = tensors["mean"]
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        return {"mean": self.mean.cpu().clone()}, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.mean = memory["mean"]
        return scorer
