"""CPMF: Cao, Xu and Shen, "Complementary Pseudo Multimodal Feature for Point Cloud Anomaly Detection" (2023),
arXiv 2303.13194.

A part is drawn from several sides, shaded, and each drawing is seen by a network for pictures; a point has the mean of
its features over the views in which it is visible (`shape.views`). Beside that stands FPFH, a feature of the points
alone. Both have length 1, and PatchCore remembers them side by side. Nothing is trained, and no picture is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.storage import in_blocks
from patchbank.features.store import FeatureStore
from patchbank.memory.bank_scorer import BankSize, check_bank_search
from patchbank.methods.patchcore import PatchCoreScorer, greedy_scorer
from patchbank.registry import register
from patchbank.scorer import Levels

_FPFH = 33


class CPMFScorer(PatchCoreScorer):
    """PatchCore on two features of length 1."""

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        for _, block in in_blocks(features.stored):
            block.copy_(of_length_one(block))
        return super().fit(features, progress)

    def prepare(self, vectors: Tensor) -> Tensor:
        return super().prepare(of_length_one(vectors))


def of_length_one(vectors: Tensor) -> Tensor:
    """P×D: each of both features divided by its length."""
    drawn, fpfh = vectors[:, :-_FPFH], vectors[:, -_FPFH:]
    both: Tensor = F.pad(F.normalize(drawn, dim=-1), (0, _FPFH))
    both[:, -_FPFH:] = F.normalize(fpfh, dim=-1)
    return both


@register
@dataclass(kw_only=True, eq=False)
class CPMF(Detector):
    """PatchCore on drawings of the points from several sides, and on FPFH. It needs geometry alone.

    Args:
        views: how many sides, 1, 9 or 27 (as in the paper).
        coreset: share of all patches to keep (by default 10 %, but no more than 10 000 patches).
        bank_size: how many patches to keep instead.
        neighbours: b of Eq. 7 of PatchCore, 0 or 1 for no re-weighting.
        search: how neighbours are found, see `patchbank.memory.search`.
    Other options: `Options`.
    """

    method: ClassVar[str] = "cpmf"
    summary: ClassVar[str] = "PatchCore on drawings of the points from several sides, and FPFH; for 3D"
    cost: ClassVar[str] = "an image takes a network for each view, and a search; seconds to learn"
    needs: ClassVar[str] = "geometry: depth, height or points"
    scorer_class: ClassVar[type[CPMFScorer]] = CPMFScorer
    without_effect: ClassVar[frozenset[str]] = frozenset({"fusion"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"views": 27, "geometry": "paper"}}

    fusion: str = "concat"
    views: int = 9
    coreset: float | None = None
    bank_size: int | None = None
    neighbours: int | None = 0
    search: str = "auto"

    def check(self) -> None:
        if self.views not in (1, 9, 27):
            raise OptionError(f"views must be 1, 9 or 27, not {self.views}")
        wanted = (f"views{self.views}", "fpfh")
        if self.channels not in (None, wanted):
            raise OptionError(f"cpmf has channels of its own ({','.join(wanted)}): leave out channels, and set views")
        self.channels = wanted
        super().check()
        BankSize(self.coreset, self.bank_size).check()
        check_bank_search(self.search, self.torch_device, self.option("neighbours"))

    def make_scorer(self, levels: Levels) -> PatchCoreScorer:
        return greedy_scorer(self, levels, CPMFScorer, neighbours=self.option("neighbours"))
