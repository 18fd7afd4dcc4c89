"""PaDiM: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization" (ICPR
2020 workshops), arXiv 2011.08785."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchbank.calibration.calibration import Calibration
from patchbank.errors import DatasetError, ImageError, OptionError
from patchbank.features.displacement import Response
from patchbank.features.extractor import Progress
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.memory.moments import KINDS, Moments
from patchbank.memory.whitening import distances, whiten, whiten_tied
from patchbank.methods.method import PatchScores
from patchbank.methods.streaming import StreamingDetector

REGULARISATION = 0.01  # ε of Σ + εI (PaDiM §III-B)
_TOGETHER = 16  # images whose outer products are added at once
_LOOKED_AT = 64  # positions that tell how much a channel weighs


@dataclass(kw_only=True, eq=False)
class PaDiM(StreamingDetector):
    """A normal distribution of patch features at every position; the score is the Mahalanobis distance.

    Needs aligned parts and images of one shape. channels: how many of the backbone's, drawn by the seed (100 in the
    paper for a ResNet18, 550 for a WideResNet50), or None for all; covariance: "full" for each position, "diagonal", or
    "tied": one for all positions. By default patches are not averaged (patch_size=1) and the image score is the maximum
    of the smoothed map, as in the paper. Other options: `Options`.
    """

    method: ClassVar[str] = "padim"
    summary: ClassVar[str] = "Mahalanobis distance to a normal distribution at each position"
    cost: ClassVar[str] = "69 ms an image, 253 MB, 35 s to learn"
    needs: ClassVar[str] = "aligned parts, images of one shape"
    ways_out: ClassVar[str] = (
        "use a smaller image size (--image-size), every second patch (--set stride=2), fewer channels (--set "
        "channels=50) or a smaller covariance (--set covariance=diagonal), or give it more memory (--memory-budget)"
    )
    keeps_grid: ClassVar[bool] = True
    default_levels: ClassVar[tuple[int, ...] | None] = (1, 2, 3)

    aggregation: str | None = "mean"
    patch_size: int | None = 1
    image_score: str | None = "smoothed"
    channels: int | None = 100
    covariance: str = "full"

    mean_: Tensor = dataclasses.field(init=False, repr=False)  # P×d
    factor_: Tensor = dataclasses.field(init=False, repr=False)  # W with ‖W(x − μ)‖ the distance; see `whitening`
    channels_: Tensor = dataclasses.field(init=False, repr=False)  # d indices
    grid_: tuple[int, int] = dataclasses.field(init=False, repr=False)
    _waiting: list[Tensor] = dataclasses.field(init=False, repr=False)
    _moments: Moments | None = dataclasses.field(init=False, repr=False, default=None)
    _left_out: Tensor | None = dataclasses.field(init=False, repr=False, default=None)

    def _check(self) -> None:
        super()._check()
        if self.covariance not in KINDS:
            raise OptionError(f"covariance must be one of {', '.join(KINDS)}, not {self.covariance!r}")
        if self.channels is not None and self.channels < 1:
            raise OptionError(f"channels must be at least 1, not {self.channels}")

    def _kept_channels(self) -> int:
        return min(self.channels or self._open().dimension, self._open().dimension)

    def _statistics_bytes(self, images: int, patches: int) -> int:
        positions, d = patches // images, self._kept_channels()
        # the scatter, and two packed factors made of it: of all images; without one of them, in float64 where these are
        # few
        full = (2 if images > d + 2 else 3) * positions * d * d
        matrices = {"full": full, "diagonal": 3 * positions * d, "tied": 4 * d * d}[self.covariance]
        return 4 * (matrices + (_TOGETHER * 3 + 1) * positions * d)

    def _begin(self, images: int) -> None:
        dimension = self._open().dimension
        chosen = np.random.default_rng(self.seed).permutation(dimension)[: self._kept_channels()]
        self.channels_ = torch.from_numpy(np.sort(chosen)).to(self.torch_device)
        self._moments, self._waiting = None, []

    def _observe(self, item: ImageFeatures) -> None:
        if self._moments is None:
            self.grid_ = item.grid
            kind, positions = self.covariance, len(item.vectors)
            self._moments = Moments(positions, len(self.channels_), kind, self.torch_device)
        if item.grid != self.grid_:
            raise DatasetError(self._other_shape(item.source.name, item.grid))
        self._waiting.append(self._prepare(item.vectors))
        if len(self._waiting) == _TOGETHER:
            self._add_waiting(self._moments)

    def _add_waiting(self, moments: Moments) -> None:
        if self._waiting:
            moments.add(torch.stack(self._waiting))
            self._waiting = []

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        assert self._moments is not None
        self._add_waiting(self._moments)
        self.mean_ = self._moments.mean
        self.factor_ = whiten(self._moments, max(self._moments.count - 1, 1), REGULARISATION)

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """Each image against the distributions without it: Σ' = (S − n/(n−1)·uuᵀ)/(n−2) + εI with u = x − μ, and
        x − μ' = n/(n−1)·u, so one factor of S/(n−2) + εI serves all images (Sherman and Morrison)."""
        assert self._moments is not None
        if self.covariance != "tied":
            # with fewer images than channels 1 − … in `_without` is small, and float32 would lose it
            n = self._moments.count
            dtype = torch.float64 if n - 2 < len(self.channels_) else torch.float32
            self._left_out = whiten(self._moments, max(n - 2, 1), REGULARISATION, dtype)
        return super()._leave_one_out(features, progress)

    def _tidy(self) -> None:
        self._moments = self._left_out = None

    def _prepare(self, vectors: Tensor) -> Tensor:
        return vectors[:, self.channels_]

    def _gain(self, response: Response) -> Tensor:
        """The diagonal of the inverse covariance, on average over some of the positions."""
        d, gain = len(self.channels_), torch.zeros(response.dimension)
        if self.covariance == "full":
            some = self.factor_[:: max(1, len(self.factor_) // _LOOKED_AT)].square().mean(0).cpu().float()
            precision = torch.zeros(d).index_add_(0, torch.tril_indices(d, d)[1], some)
        else:
            precision = self.factor_.square().mean(0).cpu().float()
        gain[self.channels_.cpu()] = precision
        return gain

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        if grid != self.grid_:
            raise ImageError(self._other_shape("this image", grid))
        centred = vectors - self.mean_
        if without_image is None:
            values = distances(self.covariance, self.factor_, centred)
        else:
            values = self._without(centred)
        return PatchScores(values.reshape(grid))

    def _without(self, centred: Tensor) -> Tensor:
        """P distances of a training image to the distributions without it."""
        assert self._moments is not None
        n, left_out = self._moments.count, self._left_out
        if n == 1:
            return torch.full((len(centred),), torch.inf, device=centred.device)
        grown = n / (n - 1)
        share = grown / max(n - 2, 1)
        if self.covariance == "tied":
            rest = self._moments.scatter - grown * centred.T @ centred
            factor = whiten_tied(rest / (len(centred) * max(n - 2, 1)), REGULARISATION)
            return grown * distances(self.covariance, factor, centred)
        assert left_out is not None
        if self.covariance == "diagonal":
            variance = 1 / left_out.square() - share * centred.square()
            return grown * (centred.square() / variance.clamp(min=REGULARISATION)).sum(1).sqrt()
        squared = distances(self.covariance, left_out, centred.to(left_out.dtype)).square()
        return (grown * (squared / (1 - share * squared).clamp(min=1e-12)).sqrt()).float()

    def _other_shape(self, name: str, grid: tuple[int, int]) -> str:
        return (
            f"{name}: has a grid of {grid[0]}×{grid[1]} patches, the images before it {self.grid_[0]}×{self.grid_[1]}: "
            "padim compares images position by position; with geometry=paper (--geometry paper) all have one shape"
        )

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"mean": self.mean_, "factor": self.factor_, "channels": self.channels_}
        return tensors, {"grid": list(self.grid_)}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.mean_, self.factor_, self.channels_ = (tensors[k] for k in ("mean", "factor", "channels"))
        self.grid_ = tuple(values["grid"])
