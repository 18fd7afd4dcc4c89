"""LMF-Core: Liu, "LMF-Core: A Training-Free Coreset for Industrial Anomaly Detection": levels fused by their variance,
and a bank that is projected and drawn at random."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.calibration.calibration import Calibration
from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.storage import map_blocks, map_rows, take
from patchbank.features.store import FeatureStore
from patchbank.memory.bank_scorer import BankScorer, BankSize, check_bank_search
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.moments import Moments
from patchbank.methods.patchcore import scores_by_bank
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores
from patchbank.scoring.displacement import Response

_LARGEST_PROJECTION = 8192
SAMPLED_BY = ("random", "greedy")


class LMFCoreScorer(BankScorer):
    """Algorithm 1. `share`: κ; `projection`: d', 0 for none; `equal`: levels weigh the same; `sampler`: "random" or
    "greedy"; `normalise`: report (â − μ)/σ."""

    learns_in_shards: ClassVar[bool] = True
    matrix: Tensor  # D×d': selection, scaling and projection in one
    offset: Tensor  # d'

    def __init__(self, levels: Levels, size: BankSize, share: float, projection: int, equal: bool, sampler: str,
                 normalise: bool, **of_bank: Any):  # fmt: skip
        super().__init__(levels, size, **of_bank)
        self._share, self._projection, self._equal = share, projection, equal
        self._sampler, self._normalise = sampler, normalise
        self.loo_is_biased = sampler != "random"

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """Algorithm 1, lines 2 to 5."""
        vectors = features.stored
        self.matrix, self.offset = self._fuse(vectors)
        count = self.kept(len(vectors))
        if self._sampler == "random":
            rows = np.sort(np.random.default_rng(self.seed).choice(len(vectors), count, replace=False))
            kept = torch.from_numpy(rows)
            bank, radius = self.prepare(take(vectors, kept.to(vectors.device))), math.nan
        else:
            everything = map_rows(vectors, self.prepare, width=self.matrix.shape[1])
            share = min(count / len(vectors), 0.999)
            sampler = SAMPLERS["greedy"](share, self.device, everything.shape[1], count=count, seed=self.seed)
            bank, kept, radius = sampler.run(everything), sampler.indices_, sampler.covering_radius_
        self.bank = self.make_bank(bank, features, kept, radius)
        return self

    def _fuse(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """VG-Fusion (§4.3) and the projection (§4.4) as one affine map z = xM − o: per level the ⌈κC⌉ channels with the
        largest standard deviation, standardised, times w_l = (1/v_l)/Σ_k(1/v_k), v_l the mean variance; then R/√d'."""
        dimension, device = vectors.shape[1], vectors.device
        moments = Moments(1, dimension, "diagonal", device, torch.float64)
        for _, of_block in map_blocks(vectors, _moments_of):
            moments = moments.merge(of_block)
        variance, mean = moments.scatter[0] / max(moments.count - 1, 1), moments.mean[0]
        levels = torch.split(torch.arange(dimension), list(self.levels.channels))
        inverse = [1 / (1.0 if self._equal else max(float(variance[level].mean()), 1e-12)) for level in levels]
        scale = torch.zeros(dimension, dtype=torch.float64, device=device)
        for level, share in zip(levels, inverse, strict=True):
            top = level[torch.topk(variance[level], math.ceil(self._share * len(level))).indices.cpu()]
            # a channel that never varies says nothing
            scale[top] = share / sum(inverse) / variance[top].sqrt().clamp(min=1e-6)
        matrix = torch.diag(scale)
        if self._projection:
            generator = torch.Generator().manual_seed(self.seed)
            random = torch.randn(dimension, self._projection, generator=generator, dtype=torch.float64)
            matrix = matrix @ random.to(device) / self._projection**0.5
        return matrix.float(), (mean @ matrix).float()

    def prepare(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix - self.offset

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """As PatchCore, in the projected space."""
        return scores_by_bank(points, self.bank, self.neighbours, inspected, exclude)

    def normalise_scores(self, calibration: Calibration) -> Calibration:
        """Algorithm 1, line 6."""
        finite = calibration.scores[np.isfinite(calibration.scores)]
        if self._normalise and len(finite) > 1 and finite.std() > 0:
            self.normal = (float(finite.mean()), float(finite.std(ddof=1)))
        mu, sigma = self.normal
        return dataclasses.replace(calibration, scores=(calibration.scores - mu) / sigma)

    def gain(self, response: Response) -> Tensor:
        return self.matrix.square().sum(1)

    @property
    def vector_length(self) -> int:
        return self._projection or self.levels.dimension

    def default_kept(self, patches: int) -> int:
        return int(patches * 0.1)

    def plan_options(self) -> dict[str, Any]:
        return {"projected": self.vector_length if self._sampler == "greedy" else 0}

    def rescale_from(self, other: Any) -> Tensor:
        if not (torch.equal(self.matrix, other.matrix) and torch.equal(self.offset, other.offset)):
            raise OptionError(
                "lmf weighs and projects features by the statistics of its images: two of its banks cannot be merged"
            )
        return torch.ones(self.matrix.shape[1], device=self.matrix.device)

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors, values = super().state()
        return tensors | {"matrix": self.matrix, "offset": self.offset}, values | {"normal": list(self.normal)}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.matrix, self.offset, self.normal = tensors["matrix"], tensors["offset"], tuple(values["normal"])
        return super().restore(tensors, values)


def _moments_of(block: Tensor) -> Moments:
    moments = Moments(1, block.shape[1], "diagonal", block.device, torch.float64)
    moments.add(block[:, None])
    return moments


@register
@dataclass(kw_only=True, eq=False)
class LMFCore(Detector):
    """A small bank without a selection loop: channels by their variance, projected at random, drawn at random.

    Args:
        channel_share: κ, of each level's channels, those that vary most.
        projection: d', dimension of the bank, 0 for none.
        level_fusion: weights of the levels by "variance" (§4.3), or "equal".
        sampler: "random", or "greedy" for the paper's ablation.
        normalise: report the image score as (â − μ)/σ over nominal images.
        coreset: r, share of all patches to keep (0.1).
        bank_size: how many patches to keep instead.
        bank_mb: MB of patches to keep instead.
        neighbours: b of Eq. 7 of PatchCore (9), 0 or 1 for no re-weighting.
        search: how neighbours are found, see `patchbank.memory.search`.
        bank_dtype: "float32", or "float16" for half the file.
    Other options: `Options`.
    """

    method: ClassVar[str] = "lmf"
    summary: ClassVar[str] = "distance to a random share of nominal patches, projected at random"
    cost: ClassVar[str] = "an image takes a network and a search in a larger bank; seconds to learn"
    scorer_class: ClassVar[type[LMFCoreScorer]] = LMFCoreScorer

    aggregation: str | None = "mean"
    coreset: float | None = None
    bank_size: int | None = None
    bank_mb: float | None = None
    neighbours: int | None = None
    search: str = "auto"
    bank_dtype: str = "float32"
    channel_share: float = 0.5
    projection: int = 128
    level_fusion: str = "variance"
    sampler: str = "random"
    normalise: bool = True

    def check(self) -> None:
        super().check()
        self._size().check()
        check_bank_search(self.search, self.torch_device, self.option("neighbours"))
        if not 0 < self.channel_share <= 1:
            raise OptionError(f"channel_share must lie in (0, 1], such as 0.5, not {self.channel_share}")
        if not 0 <= self.projection <= _LARGEST_PROJECTION:
            raise OptionError(
                f"projection must be a dimension, at most {_LARGEST_PROJECTION}, or 0 for none, not {self.projection}"
            )
        if self.level_fusion not in ("variance", "equal"):
            raise OptionError(f"level_fusion must be variance or equal, not {self.level_fusion!r}")
        if self.sampler not in SAMPLED_BY:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLED_BY)}, not {self.sampler!r}")
        if self.option("aggregation") != "mean":
            raise OptionError("lmf weighs levels apart: aggregation must be mean")

    def make_scorer(self, levels: Levels) -> LMFCoreScorer:
        return LMFCoreScorer(
            levels, self._size(), self.channel_share, self.projection, self.level_fusion == "equal", self.sampler,
            self.normalise, neighbours=self.option("neighbours"), search=self.search, device=self.torch_device,
            seed=self.seed,
        )  # fmt: skip

    def _size(self) -> BankSize:
        return BankSize(self.coreset, self.bank_size, self.bank_mb, self.bank_dtype)
