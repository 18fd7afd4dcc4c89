"""AnomalyDINO: Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with DINOv2" (2024), arXiv
2405.14529."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from patchbank.errors import OptionError
from patchbank.features.backbones import numbers_layers
from patchbank.features.foreground import foreground_mask
from patchbank.features.store import FeatureStore
from patchbank.memory.selecting import Selecting
from patchbank.methods.patchcore import PatchCore, PatchCoreScorer
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores


class AnomalyDINOScorer(PatchCoreScorer):
    """All nominal patches, normalised. `foreground`: leave the background of the image that is scored out."""

    foreground: bool = False

    def to_bank_space(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=-1)  # lengths are wanted again to tell the background

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """The cosine distance 1 − cos of each patch to its nearest: half the square of that of normalised vectors."""
        scores = super().compare(self.to_bank_space(points), grid, inspected, exclude)
        assert scores.distances is not None
        scores = replace(scores, distances=self.distance_of(scores.distances))
        if self.foreground and scores.distances is not None:
            mask = foreground_mask(points / self.balance, grid).flatten()
            if mask.any():  # where nothing stands out, all is compared
                scores = replace(scores, distances=scores.distances.masked_fill(~mask, 0.0))
        return scores

    def distance_of(self, euclidean: Tensor) -> Tensor:
        return euclidean.square() / 2

    def default_kept(self, patches: int) -> int:
        return patches

    @property
    def can_reselect(self) -> bool:  # type: ignore[override]
        return False  # the stored features are not normalised

    def reselected(self, features: FeatureStore, held: Sequence[int]) -> Self:
        raise NotImplementedError

    def rescale_from(self, other: Any) -> Tensor:
        if not torch.equal(self.balance, other.balance):
            raise OptionError("the models cannot be merged: normalised features of other scales")
        return super().rescale_from(other)

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        if self.foreground:
            raise OptionError("foreground=true cannot be exported: no graph format has the eigenvectors that it takes")
        return super().export_memory(grid)


@register
@dataclass(kw_only=True, eq=False)
class AnomalyDINO(PatchCore):
    """All patches of few nominal images; the score is the cosine distance to the nearest one. For a vision transformer.

    Args:
        augment: "rotations" learns each image at eight angles.
        foreground: mask out the background of the image that is scored by its first principal component.
    Other options: as `PatchCore`, and `Options`; by default images are inspected at 448 pixels, patches are not
    averaged, and the image score is the mean of the 1 % of patches that are farthest.
    """

    method: ClassVar[str] = "anomalydino"
    summary: ClassVar[str] = "cosine distance of each patch to its nearest in few nominal images; for transformers"
    cost: ClassVar[str] = "an image takes what its transformer takes; seconds to learn"
    needs: ClassVar[str] = "a vision transformer (--backbone dinov2_vits14)"
    scorer_class: ClassVar[type[PatchCoreScorer]] = AnomalyDINOScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    on_whole_images: ClassVar[dict[str, Any]] = {}

    image_size: int | None = 448
    patch_size: int | None = 1
    image_score: str | None = "top"
    sigma: float | None = 4.0
    neighbours: int | None = 0
    balance_levels: bool | None = False
    foreground: bool = False

    def check(self) -> None:
        super().check()
        if self.coreset == "stream":
            raise OptionError("anomalydino is for few images: coreset='stream' does not go with it")
        if self.sampler == "proxies":
            raise OptionError("sampler='proxies' needs lengths: anomalydino compares directions")
        if self.foreground and self.option("neighbours") > 1:
            raise OptionError("foreground does not go with the re-weighting of Eq. 7: set neighbours=0")
        if self.foreground and self.roi is not None:
            raise OptionError("foreground does not go with a region of interest: give one of them")
        if self.align and self.foreground:
            raise OptionError("align lays every part the same way: leave out foreground")

    def usual_levels(self) -> tuple[int, ...] | None:
        return (-1,) if numbers_layers(self.backbone) else super().usual_levels()

    def make_scorer(self, levels: Levels) -> PatchCoreScorer:
        scorer = super().make_scorer(levels)
        assert isinstance(scorer, AnomalyDINOScorer)
        scorer.foreground = self.foreground
        return scorer

    def _selecting(self) -> Selecting:
        return replace(super()._selecting(), copied=True)
