"""PatchCore: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2021), arXiv 2106.08265.

Eq. 1-3, the locally aware patch features, are `features.aggregation.patch_features`: the extractor makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from patchbank._system.threads import on_this_thread
from patchbank.data import Sample, turned_by
from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.aggregation import level_balance
from patchbank.features.storage import scale
from patchbank.features.store import FeatureStore
from patchbank.memory.bank_scorer import BankSize, check_bank_search
from patchbank.memory.coreset_scorer import CoresetScorer
from patchbank.memory.selecting import Selecting
from patchbank.options import check_augment
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, lengths, masked, pick
from patchbank.scoring.displacement import Response

DEFAULT_CORESET, DEFAULT_BANK_SIZE = 0.1, 10_000  # the smaller of the two; see docs/guides/backbones.md
STREAM = "stream"  # as the value of `coreset`
_LITE2 = "efficientnet_lite2"  # another network sees other things


class PatchCoreScorer(CoresetScorer):
    """The memory bank M. `balanced`: scale the levels to equal variance (not in the paper)."""

    learns_in_shards: ClassVar[bool] = True
    balance: Tensor  # D: factors

    def __init__(self, levels: Levels, size: BankSize, select: Selecting, balanced: bool, **more: Any):
        super().__init__(levels, size, select, **more)
        self._balanced = balanced

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """Algorithm 1: all nominal patches P(N) (Eq. 4), thinned to the coreset M (Eq. 5)."""
        if features.vectors is None:
            self.balance = self.select_in_chunks(features, self._level_balance)
            return self
        self.balance = self._level_balance(features.vectors)
        scale(features.vectors, self.balance)
        features.prepared = True
        self.select_from(self.to_bank_space(features.vectors), features, progress)
        return self

    def prepare(self, vectors: Tensor) -> Tensor:
        return vectors * self.balance

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        return scores_by_bank(points, self.bank, self.neighbours, inspected, exclude)

    def default_kept(self, patches: int) -> int:
        return min(int(patches * DEFAULT_CORESET), DEFAULT_BANK_SIZE)

    def _level_balance(self, vectors: Tensor) -> Tensor:
        if not self._balanced:
            return torch.ones(vectors.shape[1], device=vectors.device)
        return level_balance(vectors, self.levels.channels, "mean")

    def gain(self, response: Response) -> Tensor:
        return self.balance.square()

    def rescale_from(self, other: Any) -> Tensor:
        factors: Tensor = self.balance / other.balance
        return factors

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors, values = super().state()
        return tensors | {"balance": self.balance}, values

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.balance = tensors["balance"]
        return super().restore(tensors, values)


def greedy_scorer(
    options: Any,
    levels: Levels,
    kind: type[PatchCoreScorer] = PatchCoreScorer,
    *,
    balanced: bool = False,
    neighbours: int = 0,
) -> PatchCoreScorer:
    """A memory that the greedy coreset thins, for methods that have one among other things: with their options coreset,
    bank_size and search."""
    return kind(
        levels, BankSize(options.coreset, options.bank_size),
        Selecting("greedy", None, options.seed, options.torch_device),
        balanced, takes_held_out=options.geometry != "paper", neighbours=neighbours, search=options.search,
        device=options.torch_device, seed=options.seed,
    )  # fmt: skip


def scores_by_bank(points: Tensor, bank: Any, b: int, inspected: Tensor | None, exclude: int | None) -> PatchScores:
    """Eq. 6: s* = max over patches of the distance to the nearest of M; Eq. 7 re-weights it."""
    distances, nearest = bank.nearest(points, exclude)
    distances = masked(distances, inspected)
    return PatchScores(distances, nearest, reweighting(points, distances, nearest, bank, b))


def reweighting(points: Tensor, distances: Tensor, nearest: Tensor, bank: Any, b: int) -> Tensor | float:
    """Eq. 7: the factor 1 − exp‖m_test − m*‖ / Σ_{m ∈ N_b(m*)} exp‖m_test − m‖ at the worst patch m_test, whose nearest
    is m*. …×P×D points, …×P distances and indices of the nearest → …; a softmax, so it cannot overflow."""
    if b < 2:
        return 1.0
    with on_this_thread():
        worst = distances.argmax(-1)
        test, closest = pick(points, worst), pick(nearest, worst)
        to_nearest = lengths(test - bank.vectors[closest])
        to_others = lengths(bank.neighbourhood(closest, b) - test.unsqueeze(-2))
        factor: Tensor = 1 - torch.exp(to_nearest - torch.logsumexp(to_others, -1))
    return factor


@register
@dataclass(kw_only=True, eq=False)
class PatchCore(Detector):
    """A memory bank of nominal patch features, thinned to a coreset; the score is the distance to the nearest one.

    Args:
        coreset: share of all patches to keep (by default 10 %, but no more than 10 000 patches), or "stream" to select
            chunk by chunk where not all patches fit into memory.
        bank_size: how many patches to keep instead.
        bank_mb: MB of patches to keep instead.
        coreset_radius: stop as soon as every patch is that close to a kept one.
        sampler: "greedy", "approximate", "random", "identity", or "proxies": vectors learned after Eq. 8, each said to
            come from the patch nearest to it.
        neighbours: b of Eq. 7 (9), 0 or 1 for no re-weighting.
        search: how neighbours are found, see `patchbank.memory.search`.
        bank_dtype: "float32", or "float16" for half the file.
        balance_levels: scale the levels to equal variance, so that none drowns the other (not in the paper).
        augment: "rotations" learns each image at eight angles, for few images.
    Other options: `Options`.
    """

    method: ClassVar[str] = "patchcore"
    summary: ClassVar[str] = "distance of each patch to its nearest in a coreset of all nominal patches"
    cost: ClassVar[str] = "an image takes a network and a search; seconds to learn"
    scorer_class: ClassVar[type[PatchCoreScorer]] = PatchCoreScorer
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"geometry": "paper"},
        "fast": {"image_size": 256, "enlarge": False, "bank_size": 4_000},
        "best": {"members": [{"image_size": 384}, {"image_size": 768}, {"image_size": 768, "backbone": _LITE2}]},
    }
    on_whole_images: ClassVar[Any] = {"image_size": 512, "enlarge": True, "sigma": 8.0, "position_scale": True}
    former: ClassVar[dict[str, str]] = Detector.former | {"balance": "balance_levels"}

    coreset: float | str | None = None
    bank_size: int | None = None
    bank_mb: float | None = None
    coreset_radius: float | None = None
    sampler: str = "greedy"
    neighbours: int | None = None
    search: str = "auto"
    bank_dtype: str = "float32"
    balance_levels: bool | None = None
    augment: str | None = None

    def check(self) -> None:
        super().check()
        if isinstance(self.coreset, str) and self.coreset != STREAM:
            raise OptionError(f"coreset must be a share, such as 0.1 for 10 %, or {STREAM!r}, not {self.coreset!r}")
        self._size().check()
        check_bank_search(self.search, self.torch_device, self.option("neighbours"))
        self._selecting().check()
        if self.sampler == "identity" and (self.coreset, self.bank_size, self.bank_mb) != (None, None, None):
            raise OptionError("sampler='identity' keeps all patches: leave out coreset, bank_size and bank_mb")
        check_augment(self.augment, self.align)

    def augmented(self, sources: list[Sample]) -> list[Sample]:
        return turned_by(sources) if self.augment else sources

    def make_scorer(self, levels: Levels) -> PatchCoreScorer:
        balanced = self.option("balance_levels") and self.option("aggregation") == "mean"
        return self.scorer_class(
            levels, self._size(), self._selecting(), balanced, takes_held_out=self.geometry != "paper",
            neighbours=self.option("neighbours"), search=self.search, device=self.torch_device, seed=self.seed,
        )  # fmt: skip

    def _size(self) -> BankSize:
        share = None if self.coreset == STREAM else self.coreset
        return BankSize(share, self.bank_size, self.bank_mb, self.bank_dtype)  # type: ignore[arg-type]

    def _selecting(self) -> Selecting:
        return Selecting(
            self.sampler, self.coreset_radius, self.seed, self.torch_device, streams=self.coreset == STREAM
        )  # fmt: skip
