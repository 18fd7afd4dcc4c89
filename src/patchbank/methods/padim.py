"""PaDiM: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization" (ICPR
2020 workshops), arXiv 2011.08785."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, OptionError, Progress
from patchbank.features.planning import Plan, plan_statistics
from patchbank.features.store import FeatureStore, PatchFeatures
from patchbank.memory.moments import KINDS, LEAF, Moments
from patchbank.memory.traced import TracedGaussians
from patchbank.memory.whitening import distances, scatter_of, whiten, whiten_tied
from patchbank.registry import register
from patchbank.scorer import Grid, Levels, Memory, PatchScores, Scorer, masked
from patchbank.scoring.displacement import Response

REGULARISATION = 0.01  # ε of Σ + εI (§III-B)
_TOGETHER = 16  # images whose outer products are added at once
_LOOKED_AT = 64  # positions that tell how much a channel weighs
_WAYS_OUT = (
    "use a smaller image size (--image-size), every second patch (--set stride=2), fewer channels "
    "(--set n_features=50) or a smaller covariance (--set covariance=diagonal), or give it more memory "
    "(--memory-budget)"
)


class PaDiMScorer(Scorer):
    """N(μ, Σ) of some channels at each of P positions. `kind`: of the covariance, one of `KINDS`."""

    keeps_grid: ClassVar[bool] = True
    learns_in_shards: ClassVar[bool] = True
    folds_images: ClassVar[bool] = True
    mean: Tensor  # P×d
    factor: Tensor  # W with ‖W(x − μ)‖ the distance; see `memory.whitening`
    channels: Tensor  # d indices
    grid: Grid
    count: int = 0  # images

    def __init__(self, levels: Levels, kind: str, channels: int | None, seed: int, device: torch.device):
        super().__init__(levels)
        self.kind, self._d, self._seed, self._device = (
            kind,
            min(channels or levels.dimension, levels.dimension),
            seed,
            device,
        )
        self._moments: Moments | None = None
        self._left_out: Tensor | None = None
        self._traced: TracedGaussians | None = None

    # ---- learn -------------------------------------------------------------------------------------------------------

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """§III-A and B: d of the channels at random; μ and Σ + εI of each position over the images."""
        chosen = np.random.default_rng(self._seed).permutation(self.levels.dimension)[: self._d]
        self.channels = torch.from_numpy(np.sort(chosen)).to(self._device)
        total = features.fold(self._learn_some, _merged, LEAF)
        self.grid = total.grid
        return self._of(total.moments)

    def _learn_some(self, items: Iterator[PatchFeatures]) -> _Some:
        """The moments of images that follow each other."""
        found, waiting = None, list[Tensor]()
        for item in items:
            if found is None:
                moments = Moments(len(item.vectors), self._d, self.kind, self._device)
                found = _Some(item.source.name, item.grid, moments)
            if item.grid != found.grid:
                raise DatasetError(_other_shape(item.source.name, item.grid, found.grid))
            waiting.append(self.prepare(item.vectors))
            if len(waiting) == _TOGETHER:
                found.moments.add(torch.stack(waiting))
                waiting.clear()
        assert found is not None
        if waiting:
            found.moments.add(torch.stack(waiting))
        return found

    def _of(self, moments: Moments) -> Self:
        self._moments, self.count, self.mean = moments, moments.count, moments.mean
        self.factor = whiten(moments, max(moments.count - 1, 1), REGULARISATION)
        return self

    def plan(self, images: int, patches: int, device: torch.device, budget: int | None) -> Plan:
        positions, d = patches // images, self._d
        # the scatter, and two packed factors made of it: of all images; without one of them, in float64 where these are
        # few
        full = (2 if images > d + 2 else 3) * positions * d * d
        matrices = {"full": full, "diagonal": 3 * positions * d, "tied": 4 * d * d}[self.kind]
        one = {"full": positions * d * d, "diagonal": positions * d, "tied": d * d}[self.kind]
        matrices = max(matrices, (-(-images // LEAF)).bit_length() * one)  # of what is yet to be merged
        needed = 4 * (matrices + (_TOGETHER * 3 + 1) * positions * d)
        work = f"{images} images, {positions} patches × {self.levels.dimension} each"
        return plan_statistics(work, needed, device, budget, _WAYS_OUT)

    def release(self) -> None:
        self._moments = self._left_out = None

    # ---- score -------------------------------------------------------------------------------------------------------

    def prepare(self, vectors: Tensor) -> Tensor:
        return vectors.index_select(-1, self.channels)

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """Eq. 2: √((x − μ)ᵀ Σ⁻¹ (x − μ)) at each position."""
        if grid != self.grid:
            raise ImageError(_other_shape("this image", grid, self.grid))
        centred = points - self.mean
        if self._traced is not None:
            return PatchScores(masked(self._traced.distances(centred), inspected))
        if exclude is not None:
            return PatchScores(self._without(centred))
        return PatchScores(distances(self.kind, self.factor, centred))

    def _without(self, centred: Tensor) -> Tensor:
        """P distances of a training image to the distributions without it: Σ' = (S − n/(n−1)·uuᵀ)/(n−2) + εI with
        u = x − μ, and x − μ' = n/(n−1)·u, so one factor of S/(n−2) + εI serves all images (Sherman and Morrison)."""
        if self._moments is None:
            raise OptionError("padim leaves an image out only while it is fitted: its distributions are not kept apart")
        n, moments = self.count, self._moments
        if n == 1:
            return torch.full((len(centred),), torch.inf, device=centred.device)
        grown = n / (n - 1)
        share = grown / max(n - 2, 1)
        if self.kind == "tied":
            rest = moments.scatter - grown * centred.T @ centred
            factor = whiten_tied(rest / (len(centred) * max(n - 2, 1)), REGULARISATION)
            return grown * distances(self.kind, factor, centred)
        if self._left_out is None:
            # with fewer images than channels 1 − … is small, and float32 would lose it
            dtype = torch.float64 if n - 2 < self._d else torch.float32
            self._left_out = whiten(moments, max(n - 2, 1), REGULARISATION, dtype)
        left_out = self._left_out
        if self.kind == "diagonal":
            variance = 1 / left_out.square() - share * centred.square()
            return grown * (centred.square() / variance.clamp(min=REGULARISATION)).sum(1).sqrt()
        squared = distances(self.kind, left_out, centred.to(left_out.dtype)).square()
        return (grown * (squared / (1 - share * squared).clamp(min=1e-12)).sqrt()).float()

    def gain(self, response: Response) -> Tensor:
        """The diagonal of the inverse covariance, on average over some of the positions."""
        d, gain = len(self.channels), torch.zeros(self.levels.dimension)
        if self.kind == "full":
            some = self.factor[:: max(1, len(self.factor) // _LOOKED_AT)].square().mean(0).cpu().float()
            precision = torch.zeros(d).index_add_(0, torch.tril_indices(d, d)[1], some)
        else:
            precision = self.factor.square().mean(0).cpu().float()
        gain[self.channels.cpu()] = precision
        return gain

    # ---- merge, files, exports ---------------------------------------------------------------------------------------

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """The distributions of the images of all (Chan, Golub and LeVeque); images that were learned twice count
        twice."""
        total = self._as_moments()
        for other in others:
            if other.grid != self.grid or not torch.equal(other.channels, self.channels):
                raise OptionError("the models cannot be merged: they describe other positions or channels (--seed)")
            total = total.merge(other._as_moments())
        merged = self.copied()._of(total)
        merged.release()
        return merged

    def _as_moments(self) -> Moments:
        """As they were before the factor was made of them, but for rounding."""
        if self.count < 2:
            raise OptionError("the models cannot be merged: one is a file that does not say how many images it has")
        moments = Moments(len(self.mean), self._d, self.kind, self.mean.device)
        moments.mean, moments.count = self.mean, self.count
        divisor = self.count - 1 if self.kind != "tied" else (self.count - 1) * len(self.mean)
        moments.scatter = scatter_of(self.kind, self.factor, divisor, REGULARISATION, self._d)
        return moments

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors = {"mean": self.mean, "factor": self.factor, "channels": self.channels}
        return tensors, {"grid": list(self.grid), "count": self.count}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self.mean, self.factor, self.channels = (tensors[k] for k in ("mean", "factor", "channels"))
        self.grid, self.count = (values["grid"][0], values["grid"][1]), values.get("count", 0)
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        if grid != self.grid:
            raise ImageError(_other_shape("the size to export", grid, self.grid))
        return {"mean": self.mean.cpu().clone(), "factor": self.factor.cpu().float().clone()}, {}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.mean, scorer.channels = memory["mean"], self.channels.cpu()
        scorer._traced = TracedGaussians(self.kind, memory["factor"], self._d)
        return scorer


@dataclass(frozen=True, eq=False)
class _Some:
    """Moments of images of one grid; `name`: of the first."""

    name: str
    grid: Grid
    moments: Moments


def _merged(first: _Some, second: _Some) -> _Some:
    if second.grid != first.grid:
        raise DatasetError(_other_shape(second.name, second.grid, first.grid))
    return _Some(first.name, first.grid, first.moments.merge(second.moments))


def _other_shape(name: str, grid: Grid, before: Grid) -> str:
    return (
        f"{name}: has a grid of {grid[0]}×{grid[1]} patches, the images before it {before[0]}×{before[1]}: "
        "padim compares images position by position; with geometry=paper (--geometry paper) all have one shape"
    )


@register
@dataclass(kw_only=True, eq=False)
class PaDiM(Detector):
    """A normal distribution of patch features at every position; the score is the Mahalanobis distance.

    Needs aligned parts and images of one shape. By default patches are not averaged (patch_size=1) and the image score
    is the maximum of the smoothed map, as in the paper.

    Args:
        n_features: how many of the backbone's, drawn by the seed (100 in the paper for a ResNet18, 550 for a
            WideResNet50), or None for all.
        covariance: "full" for each position, "diagonal", or "tied": one for all positions.
    Other options: `Options`.
    """

    method: ClassVar[str] = "padim"
    summary: ClassVar[str] = "Mahalanobis distance to a normal distribution at each position"
    cost: ClassVar[str] = "an image takes a network; seconds to learn, and a large memory"
    needs: ClassVar[str] = "aligned parts, images of one shape"
    scorer_class: ClassVar[type[PaDiMScorer]] = PaDiMScorer
    stores_features: ClassVar[bool] = False
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3)

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "smoothed"
    n_features: int | None = 100
    covariance: str = "full"

    def check(self) -> None:
        super().check()
        if self.covariance not in KINDS:
            raise OptionError(f"covariance must be one of {', '.join(KINDS)}, not {self.covariance!r}")
        if self.n_features is not None and self.n_features < 1:
            raise OptionError(f"n_features must be at least 1, not {self.n_features}")

    def make_scorer(self, levels: Levels) -> PaDiMScorer:
        return PaDiMScorer(levels, self.covariance, self.n_features, self.seed, self.torch_device)
