"""BTF: Horwitz and Hoshen, "Back to the Feature: Classical 3D Features are (Almost) All You Need for 3D Anomaly
Detection" (2022), arXiv 2203.05550.

Colour and geometry of each patch: the features of a network, and the mean of the FPFH of its points, which do not
change when a part is turned. The paper puts both side by side into one memory of PatchCore (the preset `btf.paper`). By
default each has a memory of its own here: the 33 numbers of FPFH lie in 0..100, drown the features of a network or are
drowned by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from patchbank.detector import Detector
from patchbank.memory.bank_scorer import BankSize, check_bank_search
from patchbank.methods.patchcore import PatchCoreScorer, greedy_scorer
from patchbank.registry import register
from patchbank.scorer import Levels


@register
@dataclass(kw_only=True, eq=False)
class BTF(Detector):
    """PatchCore on the picture and on FPFH, a classical feature of points that does not change when a part is turned.

    Args:
        coreset: share of all patches to keep in each memory (by default 10 %, but no more than 10 000 patches).
        bank_size: how many patches to keep instead.
        neighbours: b of Eq. 7 of PatchCore, 0 or 1 for no re-weighting.
        search: how neighbours are found, see `patchbank.memory.search`.
        balance_levels: scale the levels of the network to equal variance.
    Other options: `Options`.
    """

    method: ClassVar[str] = "btf"
    summary: ClassVar[str] = "PatchCore on the picture and on FPFH of the points; for RGB + 3D"
    cost: ClassVar[str] = "an image takes a network, FPFH and two searches; seconds to learn"
    needs: ClassVar[str] = "geometry beside the picture: depth, height or points"
    scorer_class: ClassVar[type[PatchCoreScorer]] = PatchCoreScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"fusion": "concat", "geometry": "paper", "balance_levels": False, "levels": (2, 3)}
    }
    former: ClassVar[dict[str, str]] = Detector.former | {"balance": "balance_levels"}

    channels: tuple[str, ...] | None = ("rgb", "fpfh")
    coreset: float | None = None
    bank_size: int | None = None
    neighbours: int | None = 0
    search: str = "auto"
    balance_levels: bool | None = None

    def check(self) -> None:
        super().check()
        BankSize(self.coreset, self.bank_size).check()
        check_bank_search(self.search, self.torch_device, self.option("neighbours"))

    def make_scorer(self, levels: Levels) -> PatchCoreScorer:
        balanced = self.option("balance_levels") and self.option("aggregation") == "mean"
        return greedy_scorer(self, levels, balanced=balanced, neighbours=self.option("neighbours"))
