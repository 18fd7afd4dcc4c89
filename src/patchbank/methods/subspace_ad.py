"""SubspaceAD: "Training-Free Few-Shot Anomaly Detection via Subspace Modeling" (CVPR 2026)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchbank.calibration.calibration import Calibration
from patchbank.data import Source, turned_by
from patchbank.errors import OptionError
from patchbank.features.displacement import Response
from patchbank.features.extractor import Progress
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.memory.moments import Moments
from patchbank.methods.method import PatchScores
from patchbank.methods.streaming import StreamingDetector

_FOLDS = 10


@dataclass(kw_only=True, eq=False)
class SubspaceAD(StreamingDetector):
    """Principal components of all nominal patches; the score is what they leave unexplained, ‖f − f̂‖.

    variance: share of the variance that the components keep; augment: "rotations" learns each image at eight angles,
    for few images. No bank: one matrix. By default patches are not averaged (patch_size=1) and the image score is the
    mean of the top 1 % of patches, as in the paper, whose features come from a large vision transformer. Other options:
    `Options`.
    """

    method: ClassVar[str] = "subspace"
    summary: ClassVar[str] = "what the principal components of nominal patches leave unexplained"
    cost: ClassVar[str] = "53 ms an image, 0.1 MB, 18 s to learn"

    ways_out: ClassVar[str] = "use a level with fewer channels (--levels 2), or give it more memory (--memory-budget)"

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "top"
    variance: float = 0.99
    augment: str | None = None

    mean_: Tensor = dataclasses.field(init=False, repr=False)  # D
    components_: Tensor = dataclasses.field(init=False, repr=False)  # K×D, orthonormal rows
    _given: int = dataclasses.field(init=False, repr=False, default=0)
    _fold_of: list[int] = dataclasses.field(init=False, repr=False, default_factory=list)
    _folds: list[Moments] = dataclasses.field(init=False, repr=False, default_factory=list)
    _without_fold: list[tuple[Tensor, Tensor]] = dataclasses.field(init=False, repr=False, default_factory=list)

    def _check(self) -> None:
        super()._check()
        if not 0 < self.variance < 1:
            raise OptionError(f"variance must lie in (0, 1), such as 0.99, not {self.variance}")
        if self.augment not in (None, "rotations"):
            raise OptionError(f"augment must be rotations or none, not {self.augment!r}")
        if self.augment and self.align:
            raise OptionError("align lays every part the same way: leave out augment")

    def _views(self, sources: list[Source]) -> list[Source]:
        return turned_by(sources) if self.augment else sources

    def _statistics_bytes(self, images: int, patches: int) -> int:
        d = self._open().dimension
        return 8 * (_FOLDS + 6) * d * d + 12 * d * (patches // images)

    def _begin(self, images: int) -> None:
        dimension, device, count = self._open().dimension, self.torch_device, min(images, _FOLDS)
        self._folds = [Moments(1, dimension, "full", device, torch.float64) for _ in range(count)]
        self._given, self._fold_of = 0, []

    def _observe(self, item: ImageFeatures) -> None:
        if not item.source.angle:  # a turned image goes where the one it was made of went
            self._given += 1
        fold = (self._given - 1) % len(self._folds)
        self._fold_of.append(fold)
        self._folds[fold].add(item.vectors[:, None])

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        self.mean_, self.components_ = self._subspace(self._folds)

    def _subspace(self, parts: list[Moments]) -> tuple[Tensor, Tensor]:
        """Mean, and the first components that keep `variance` of the variance."""
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        values, vectors = torch.linalg.eigh(total.scatter[0])
        values = values.flip(0).clamp(min=0)
        kept = values.cumsum(0) / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
        count = int((kept < self.variance).sum()) + 1
        components = vectors.flip(1)[:, :count].T
        # an eigenvector's sign is the library's choice: refits must not differ by it
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return total.mean[0].float(), (components * largest.sign()).float().contiguous()

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """Each image against the components of the other folds of the images (each its own fold where they are few)."""
        folds = [fold for fold in self._folds if fold.count]
        self._without_fold = [
            self._subspace(folds[:i] + folds[i + 1 :]) for i in range(len(folds)) if len(folds) > 1
        ]  # fmt: skip
        return super()._leave_one_out(features, progress)

    def _tidy(self) -> None:
        self._folds, self._without_fold = [], []

    def _gain(self, response: Response) -> Tensor:
        return 1 - self.components_.square().sum(0)  # what the components leave of a change of one dimension

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        mean, components = self.mean_, self.components_
        if without_image is not None:
            if not self._without_fold:
                return PatchScores(torch.full((len(vectors),), torch.inf))
            mean, components = self._without_fold[self._fold_of[without_image]]
        centred = vectors - mean
        residual = centred - (centred @ components.T) @ components
        return PatchScores(torch.linalg.vector_norm(residual, dim=1))

    def _memory_facts(self) -> dict[str, Any]:
        return {"components": len(self.components_)}

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mean": self.mean_, "components": self.components_}, {}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.mean_, self.components_ = tensors["mean"], tensors["components"]
