"""LMF-Core: Liu, "LMF-Core: A Training-Free Coreset for Industrial Anomaly Detection": levels fused by their variance,
and a bank that is projected and drawn at random."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.calibration.calibration import Calibration
from patchbank.data import View
from patchbank.errors import OptionError
from patchbank.features.displacement import Response
from patchbank.features.extractor import Progress
from patchbank.features.storage import in_blocks, take
from patchbank.features.store import FeatureSet
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.moments import Moments
from patchbank.methods.memory_bank import MemoryBankDetector
from patchbank.methods.method import Scored

_LARGEST_PROJECTION = 8192
SAMPLED_BY = ("random", "greedy")


@dataclass(kw_only=True, eq=False)
class LMFCore(MemoryBankDetector):
    """A small bank without a selection loop: channels by their variance, projected at random, drawn at random.

    channel_share: κ, of each level's channels, those that vary most; projection: d', dimension of the bank, 0 for none;
    coreset: r, share of patches drawn (0.1); fusion: weights of the levels by "variance" (§4.3), or "equal";
    sampler: "random", or "greedy" for the paper's ablation; normalise: report the image score as (â − μ)/σ over
    nominal images. Other options: `MemoryBankDetector` and `Options`.
    """

    method: ClassVar[str] = "lmf"
    summary: ClassVar[str] = "distance to a random share of nominal patches, projected at random"
    cost: ClassVar[str] = "110 ms an image, 33 MB, 21 s to learn"

    aggregation: str | None = "mean"
    channel_share: float = 0.5
    projection: int = 128
    fusion: str = "variance"
    sampler: str = "random"
    normalise: bool = True

    offset_: Tensor = dataclasses.field(init=False, repr=False)  # d'
    matrix_: Tensor = dataclasses.field(init=False, repr=False)  # D×d': selection, scaling and projection in one
    normal_: tuple[float, float] = dataclasses.field(init=False, repr=False, default=(0.0, 1.0))  # μ, σ

    def _check(self) -> None:
        super()._check()
        if not 0 < self.channel_share <= 1:
            raise OptionError(f"channel_share must lie in (0, 1], such as 0.5, not {self.channel_share}")
        if not 0 <= self.projection <= _LARGEST_PROJECTION:
            raise OptionError(
                f"projection must be a dimension, at most {_LARGEST_PROJECTION}, or 0 for none, not {self.projection}"
            )
        if self.fusion not in ("variance", "equal"):
            raise OptionError(f"fusion must be variance or equal, not {self.fusion!r}")
        if self.sampler not in SAMPLED_BY:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLED_BY)}, not {self.sampler!r}")
        if self.option("aggregation") != "mean":
            raise OptionError("lmf weighs levels apart: aggregation must be mean")

    def _leaves_holes(self) -> bool:
        return self.sampler != "random"

    def _default_kept(self, patches: int) -> int:
        return int(patches * 0.1)

    def _vector_length(self) -> int:
        return self.projection or self._open().dimension

    def _plan_options(self) -> dict[str, Any]:
        return {"projected": self._vector_length() if self.sampler == "greedy" else 0}

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Algorithm 1, lines 2 to 5."""
        vectors, self.normal_ = features.stored, (0.0, 1.0)
        self.matrix_, self.offset_ = self._fuse(vectors)
        count = self._kept(len(vectors))
        if self.sampler == "random":
            rows = np.sort(np.random.default_rng(self.seed).choice(len(vectors), count, replace=False))
            kept = torch.from_numpy(rows)
            bank, radius = self._prepare(take(vectors, kept.to(vectors.device))), math.nan
        else:
            everything = torch.cat([self._prepare(block) for _, block in in_blocks(vectors)])
            sampler = SAMPLERS["greedy"](
                min(count / len(vectors), 0.999), self.torch_device, everything.shape[1], count=count, seed=self.seed
            )
            bank, kept, radius = sampler.run(everything), sampler.indices_, sampler.covering_radius_
        self.bank_ = self._make_bank(bank, features, kept, radius)

    def _fuse(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """VG-Fusion (§4.3) and the projection (§4.4) as one affine map z = xM − o: per level the ⌈κC⌉ channels with the
        largest standard deviation, standardised, times w_l = (1/v_l)/Σ_k(1/v_k), v_l the mean variance; then R/√d'."""
        dimension, device = vectors.shape[1], vectors.device
        moments = Moments(1, dimension, "diagonal", device, torch.float64)
        for _, block in in_blocks(vectors):
            moments.add(block[:, None])
        variance, mean = moments.scatter[0] / max(moments.count - 1, 1), moments.mean[0]
        levels = torch.split(torch.arange(dimension), list(self._open().backbone.channels))
        equal = self.fusion == "equal"
        inverse = [1 / (1.0 if equal else max(float(variance[level].mean()), 1e-12)) for level in levels]
        scale = torch.zeros(dimension, dtype=torch.float64, device=device)
        for level, share in zip(levels, inverse, strict=True):
            top = level[torch.topk(variance[level], math.ceil(self.channel_share * len(level))).indices.cpu()]
            # a channel that never varies says nothing
            scale[top] = share / sum(inverse) / variance[top].sqrt().clamp(min=1e-6)
        matrix = torch.diag(scale)
        if self.projection:
            generator = torch.Generator().manual_seed(self.seed)
            random = torch.randn(dimension, self.projection, generator=generator, dtype=torch.float64)
            matrix = matrix @ random.to(device) / self.projection**0.5
        return matrix.float(), (mean @ matrix).float()

    def _prepare(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix_ - self.offset_

    def _gain(self, response: Response) -> Tensor:
        return self.matrix_.square().sum(1)

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        walk = dataclasses.replace(features, vectors=None, again=lambda: self._prepared(features))
        return super()._leave_one_out(walk, progress)

    def _finish(self, calibration: Calibration) -> Calibration:
        """Algorithm 1, line 6."""
        finite = calibration.scores[np.isfinite(calibration.scores)]
        if self.normalise and len(finite) > 1 and finite.std() > 0:
            self.normal_ = (float(finite.mean()), float(finite.std(ddof=1)))
        mu, sigma = self.normal_
        return dataclasses.replace(calibration, scores=(calibration.scores - mu) / sigma)

    def _to_mine(self, other: Self) -> Tensor:
        if not (torch.equal(self.matrix_, other.matrix_) and torch.equal(self.offset_, other.offset_)):
            raise OptionError(
                "lmf weighs and projects features by the statistics of its images: two of its banks cannot be merged"
            )
        return torch.ones(self.matrix_.shape[1], device=self.matrix_.device)

    def _prepared(self, features: FeatureSet) -> Iterator[Tensor]:
        return (self._prepare(vectors) for vectors in features.walk())

    def _score(self, vectors: Tensor, grid: tuple[int, int], view: View, without_image: int | None = None) -> Scored:
        scored = super()._score(vectors, grid, view, without_image)
        return dataclasses.replace(scored, score=(scored.score - self.normal_[0]) / self.normal_[1])

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._memory_state()
        return tensors | {"matrix": self.matrix_, "offset": self.offset_}, values | {"normal": list(self.normal_)}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super()._restore_memory(tensors, values)
        self.matrix_, self.offset_, self.normal_ = tensors["matrix"], tensors["offset"], tuple(values["normal"])
