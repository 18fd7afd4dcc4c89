"""SubspaceAD: "Training-Free Few-Shot Anomaly Detection via Subspace Modeling" (CVPR 2026)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.data import Sample, turned_by
from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.planning import Plan, plan_statistics
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.memory.moments import LEAF, Moments
from patchbank.options import check_augment
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, lengths
from patchbank.scoring.displacement import Response

_FOLDS = 10
_WAYS_OUT = "use a level with fewer channels (--levels 2), or give it more memory (--memory-budget)"


class SubspaceADScorer(Scorer):
    """The principal components of all nominal patches that keep a share `variance` of the variance."""

    learns_in_shards: ClassVar[bool] = True
    folds_images: ClassVar[bool] = True
    mean: Tensor  # D
    components: Tensor  # K×D, orthonormal rows
    scatter: Tensor | None = None  # D×D, float64, of all patches: what two models are merged by
    count: int = 0  # patches

    def __init__(self, levels: Levels, variance: float, device: torch.device):
        super().__init__(levels)
        self._variance, self._device = variance, device
        self._fold_of: list[int] = []
        self._folds: list[Moments] = []
        self._without_fold: dict[int, tuple[Tensor, Tensor]] = {}

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        d = self.levels.dimension
        partial_sums = (-(-images // LEAF)).bit_length()
        needed = 8 * (_FOLDS * partial_sums + 6) * d * d + 12 * d * (patches // images)
        return plan_statistics(
            f"{images} images, {patches // images} patches × {d} each", needed, device, budget, _WAYS_OUT
        )

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """§3.2: the principal components of all patches; also of those of each fold, for the calibration."""
        count = min(features.images, _FOLDS)
        self._folds = features.fold(partial(self._learn_some, count), _merged, LEAF)
        self._fold_of = [number % count for number in features.numbers]
        return self._of(_total(self._folds))

    def _learn_some(self, count: int, items: Iterator[PatchFeatures]) -> list[Moments]:
        """The moments of each fold among images that follow each other; a turned image goes where the one it was made
        of went."""
        folds = [Moments(1, self.levels.dimension, "full", self._device, torch.float64) for _ in range(count)]
        for item in items:
            folds[item.number % count].add(item.vectors[:, None])
        return folds

    def _of(self, moments: Moments) -> Self:
        self.mean, self.components = self._subspace(moments)
        self.scatter, self.count = moments.scatter[0], moments.count
        return self

    def _subspace(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Mean, and the first components that keep `variance` of the variance."""
        values, vectors = torch.linalg.eigh(moments.scatter[0])
        values = values.flip(0).clamp(min=0)
        kept = values.cumsum(0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
        count = int((kept < self._variance).sum()) + 1
        components = vectors.flip(1)[:, :count].T
        # an eigenvector's sign is the library's choice: refits must not differ by it
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return moments.mean[0].float(), (components * largest.sign()).float().contiguous()

    def release(self) -> None:
        self._folds, self._without_fold = [], {}

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """§3.3: ‖f − f̂‖, what the components leave of each patch; of an image that is excluded, the components of the
        other folds."""
        mean, components = (self.mean, self.components) if exclude is None else self._without(exclude)
        if mean is None:
            return PatchScores(torch.full((len(points),), torch.inf))
        centred = points - mean
        return PatchScores(lengths(centred - (centred @ components.T) @ components))

    def _without(self, image: int) -> Any:
        if not self._folds:
            raise OptionError("subspace leaves an image out only while it is fitted: its components are not kept apart")
        folds = {i: fold for i, fold in enumerate(self._folds) if fold.count}  # the images of one may be unreadable
        if len(folds) < 2:
            return None, None
        if not self._without_fold:
            self._without_fold = {
                i: self._subspace(_total([fold for j, fold in folds.items() if j != i])) for i in folds
            }
        return self._without_fold[self._fold_of[image]]

    def gain(self, response: Response) -> Tensor:
        return 1 - self.components.square().sum(0)  # what the components leave of a change of one dimension

    def facts(self) -> dict[str, Any]:
        return {"components": len(self.components)}

    @property
    def memory_mb(self) -> float:
        return sum(t.numel() * t.element_size() for t in (self.mean, self.components)) / 1e6

    # ---- merge, files, exports ---------------------------------------------------------------------------------------

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """The components of the patches of all; images that were learned twice count twice."""
        merged = self.copied()._of(_total([scorer._as_moments() for scorer in (self, *others)]))
        merged.release()
        return merged

    def _as_moments(self) -> Moments:
        if self.scatter is None:
            raise OptionError("the models cannot be merged: one is a file that holds the components alone")
        moments = Moments(1, len(self.mean), "full", self.mean.device, torch.float64)
        moments.mean, moments.scatter, moments.count = self.mean.double()[None], self.scatter[None], self.count
        return moments

    def state(self) -> tuple[Memory, dict[str, Any]]:
        kept = {} if self.scatter is None else {"scatter": self.scatter}
        return {"mean": self.mean, "components": self.components, **kept}, {"count": self.count}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mean, self.components, self.scatter = tensors["mean"], tensors["components"], tensors.get("scatter")
        self.count = values.get("count", 0)
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        memory = {"mean": self.mean.cpu().clone(), "components": self.components.cpu().clone()}
        return memory, {"components": 0}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.mean, scorer.components = memory["mean"], memory["components"]
        return scorer


def _merged(first: list[Moments], second: list[Moments]) -> list[Moments]:
    return [mine.merge(other) for mine, other in zip(first, second, strict=True)]


def _total(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


@register
@dataclass(kw_only=True, eq=False)
class SubspaceAD(Detector):
    """Principal components of all nominal patches; the score is what they leave unexplained, ‖f − f̂‖.

    No bank: one matrix. By default patches are not averaged (patch_size=1) and the image score is the mean of the top
    1 % of patches, as in the paper, whose features come from a large vision transformer.

    Args:
        variance: share of the variance that the components keep.
        augment: "rotations" learns each image at eight angles, for few images.
    Other options: `Options`.
    """

    method: ClassVar[str] = "subspace"
    summary: ClassVar[str] = "what the principal components of nominal patches leave unexplained"
    cost: ClassVar[str] = "an image takes a network; seconds to learn, and a small memory"
    scorer_class: ClassVar[type[SubspaceADScorer]] = SubspaceADScorer
    stores_features: ClassVar[bool] = False

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "top"
    variance: float = 0.99
    augment: str | None = None

    def check(self) -> None:
        super().check()
        if not 0 < self.variance < 1:
            raise OptionError(f"variance must lie in (0, 1), such as 0.99, not {self.variance}")
        check_augment(self.augment, self.align)

    def augmented(self, sources: list[Sample]) -> list[Sample]:
        return turned_by(sources) if self.augment else sources

    def make_scorer(self, levels: Levels) -> SubspaceADScorer:
        return SubspaceADScorer(levels, self.variance, self.torch_device)
