"""FAPM: Kim et al., "FAPM: Fast Adaptive Patch Memory for Real-time Industrial Anomaly Detection" (ICASSP 2023),
arXiv 2211.07381."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank._system.threads import on_this_thread
from patchbank.detector import Detector
from patchbank.errors import OptionError, Progress
from patchbank.features.aggregation import Arrangement, Cells, OneGrid
from patchbank.features.storage import drop, subset, take
from patchbank.features.store import FeatureStore
from patchbank.memory.coreset.farthest_first import farthest_first_of_each
from patchbank.memory.coreset.samplers import project
from patchbank.memory.grid_scorer import GridScorer, on_grid, only
from patchbank.memory.region_grid import GridBanks, Indices, RegionGrid
from patchbank.memory.spread import cluster_spread, to_nearest_other
from patchbank.registry import register
from patchbank.sample import same_part
from patchbank.scorer import Grid, Levels, PatchScores, pick
from patchbank.scoring.displacement import Response

PROJECTION = 128  # as PatchCore: for the distances of the selection, of features with at least twice as many dimensions


@dataclass(frozen=True)
class FAPMOptions:
    """Those of `FAPM` that its memory needs; `unit` is its adaptive_threshold_unit, None where it is not adaptive."""

    share: float
    threshold: float
    unit: str | None
    regions: int
    radius: int
    weights: tuple[float, ...]
    neighbours: int
    layer_wise: bool
    scored_by_maximum: bool
    seed: int


@dataclass(frozen=True)
class _Kept:
    """What is kept of one region and level."""

    vectors: Tensor
    provenance: NDArray[np.int32]
    radius: float


class FAPMScorer(GridScorer):
    """A bank for each region of the image and each level."""

    learns_in_shards: ClassVar[bool] = True
    loo_is_biased = True

    def __init__(self, levels: Levels, options: FAPMOptions):
        sides = [levels.strides[-1] // stride for stride in levels.strides] if options.layer_wise else [1]
        super().__init__(levels, options.radius, sides)
        self.options = options

    # ---- learn -------------------------------------------------------------------------------------------------------

    def fit(self, features: FeatureStore, progress: Progress | None = None) -> Self:
        """§2.1 and 2.2: cells go to their regions, and each region and level is thinned by itself."""
        self._refs = tuple(features.refs)
        most = self.options.regions
        regions = RegionGrid(*(min(most, *(ref.grid[axis] for ref in features.refs)) for axis in (0, 1)))
        region_of = np.concatenate([regions.of_cells(ref.grid) for ref in features.refs])
        cells = [np.flatnonzero(region_of == region) for region in range(len(regions))]
        kept = []
        for region, of_region in enumerate(cells):
            levels = self._levels_of(features, of_region)
            counts = [max(1, int(len(level) * self.options.share)) for level in levels]
            kept.append(self._take(features, of_region, levels, counts))
            if progress:
                progress("coreset", region + 1, len(regions))
        doubled = self._too_large(features, cells, np.array([[part.radius for part in parts] for parts in kept]))
        for region in np.flatnonzero(doubled.any(1)).tolist():
            levels = self._levels_of(features, cells[region])
            counts = [
                min(len(part.vectors) * (2 if twice else 1), len(level))
                for part, twice, level in zip(kept[region], doubled[region], levels, strict=True)
            ]
            kept[region] = self._take(features, cells[region], levels, counts)
        self.banks = []
        for j, of_level in enumerate(zip(*kept, strict=True)):
            number = np.repeat(np.arange(len(regions)), [len(part.vectors) for part in of_level])
            vectors, origin = torch.cat([p.vectors for p in of_level]), np.concatenate([p.provenance for p in of_level])
            self.banks.append(GridBanks(vectors, number, origin, doubled[:, j], regions, self.options.radius))
        return self

    def _split(self, cells: Tensor) -> list[Tensor]:
        """…×P×D cells → each level's vectors, …×P×V_j×C_j."""
        if not self.options.layer_wise:
            return [cells.unsqueeze(-2)]
        return Cells.split(cells, self.levels.channels, self.levels.strides)

    def _levels_of(self, features: FeatureStore, cells: Indices) -> list[Tensor]:
        """The vectors of some cells, each level's as one matrix; where features lie elsewhere, so does it."""
        widths = self.levels.channels if self.options.layer_wise else [self.levels.dimension]
        return [
            subset(features.stored, torch.from_numpy(cells), partial(self._level_of, j), side**2, width)
            for j, (side, width) in enumerate(zip(self._sides, widths, strict=True))
        ]

    def _level_of(self, level: int, vectors: Tensor) -> Tensor:
        return self._split(vectors)[level].flatten(0, 1)

    def _take(self, features: FeatureStore, cells: Indices, levels: list[Tensor], counts: list[int]) -> list[_Kept]:
        """Greedy coresets of one region's levels."""
        seed = self.options.seed
        points = [project(s, PROJECTION if s.shape[1] >= 2 * PROJECTION else s.shape[1], seed) for s in levels]
        chosen = farthest_first_of_each(points, counts)
        kept = [
            _Kept(take(level, one.indices), self._origin(features, cells, j, one.indices), one.radius)
            for j, (level, one) in enumerate(zip(levels, chosen, strict=True))
        ]
        drop(*points, *levels)
        return kept

    def _too_large(self, features: FeatureStore, cells: list[Indices], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Regions×levels: where the largest cluster, which reaches as far as the covering radius, has d > D_th (Eq. 1).

        On raw features d saturates, so ‖v_far − v'‖² is taken in units of the level (docs/methods/fapm.md).
        """
        if self.options.unit is None:
            return np.zeros(reach.shape, bool)
        if self.options.unit == "reach":
            units = np.median(reach**2, axis=0)
        else:
            rng = np.random.default_rng(self.options.seed)
            squares = [[to_nearest_other(level, rng) for level in self._levels_of(features, of)] for of in cells]
            units = np.array([float(torch.cat(of_level).median()) for of_level in zip(*squares, strict=True)])
        return cluster_spread(reach**2 / np.where(units > 0, units, 1.0)) > self.options.threshold

    def _origin(self, features: FeatureStore, cells: Indices, level: int, kept: Tensor) -> NDArray[np.int32]:
        """Image, row and column on the level's own grid of each kept vector."""
        side = self._sides[level]
        cell, inside = np.divmod(kept.cpu().numpy(), side**2)
        origin = features.provenance(torch.from_numpy(cells[cell]))
        origin[:, 1] = origin[:, 1] * side + inside // side
        origin[:, 2] = origin[:, 2] * side + inside % side
        return origin

    def kept(self, patches: int) -> int:
        banks = (2 * self.options.radius + 1) ** 2  # each vector is in the bank of every region that is near
        return max(1, int(patches * self.options.share * (1 if self.options.unit is None else 2) * banks))

    def plan_options(self) -> dict[str, Any]:
        # one region holds all vectors: they are copied twice
        return {"projected": 2 * self.levels.dimension if self.options.regions == 1 else 0}

    # ---- score -------------------------------------------------------------------------------------------------------

    def compare(
        self, points: Tensor, grid: Grid, inspected: Tensor | None = None, exclude: int | None = None
    ) -> PatchScores:
        """§2.3: each level's distances to the banks of the vectors' own regions, brought together on the finest grid by
        a weighted sum; the image score is that of the levels' largest distances, each re-weighted."""
        fine, found = self._sides[0], []
        top: Any = 0.0
        reweighted: Any = 0.0
        without = () if exclude is None else same_part(self._refs, exclude)
        for weight, banks, level in zip(self.options.weights, self.banks, self._split(points), strict=True):
            distances, numbers = banks.nearest(level, grid, without)  # …×P×V
            distances = only(distances, inspected)
            with on_this_thread():
                flat = distances.flatten(-2)
                worst = flat.argmax(-1)
                largest = weight * pick(flat, worst)
                cell = worst // int(level.shape[-2])
                vector = pick(level.flatten(-3, -2), worst)
                factor = self._factor(banks, vector, cell, grid, without)
                top, reweighted = top + largest, reweighted + largest * factor
            numbers = None if numbers is None else on_grid(numbers, grid, fine)
            found.append((weight * on_grid(distances, grid, fine), numbers))
        total = torch.stack([distances for distances, _ in found]).sum(0)
        if self.options.scored_by_maximum:
            return PatchScores(total, found[0][1], image=reweighted)
        if top.ndim == 0:
            return PatchScores(total, found[0][1], float(reweighted) / float(top) if 0 < float(top) < math.inf else 1.0)
        finite = (top > 0) & (top < torch.inf)
        factor = torch.where(finite, reweighted / top.clamp(min=1e-30), torch.ones_like(top))
        return PatchScores(total, found[0][1], factor)

    def _factor(self, banks: Any, vector: Tensor, cell: Tensor, grid: Grid, without: Sequence[int]) -> Tensor | float:
        """1 − exp(d₁)/Σ exp(d_k) over the vectors nearest to the worst one, in the manner of Eq. 7 of PatchCore."""
        if self.options.neighbours < 2:
            return 1.0
        closest = banks.closest(vector, cell, grid, self.options.neighbours, without)  # …×K, +inf where are no more
        if closest.ndim == 1:  # one image: there are as many as there are
            return 1 - torch.softmax(closest, 0)[0] if len(closest) > 1 else 1.0
        if closest.shape[-1] < 2:
            return torch.ones_like(closest[..., 0])
        valid = closest < torch.inf
        shifted = torch.where(valid, closest - closest[..., :1], torch.full_like(closest, -torch.inf))
        factor = 1 - torch.softmax(shifted, -1)[..., 0]
        return torch.where(valid[..., 1], factor, torch.ones_like(factor))

    def gain(self, response: Response) -> Tensor | None:
        """Of each level its weight; that distances are added, not their squares, makes little difference."""
        if not self.options.layer_wise:
            return None
        weights = torch.tensor(self.options.weights).square()
        return weights.repeat_interleave(torch.tensor(self.levels.channels))


@register
@dataclass(kw_only=True, eq=False)
class FAPM(Detector):
    """A bank for each region of the image and each level; a vector is compared with its own region's bank only.

    Needs roughly aligned parts.

    Args:
        coreset: share to keep of each region and level.
        adaptive: keep twice as many where the vectors spread more than `adaptive_threshold`.
        adaptive_threshold: D_th of the paper, 0..1.
        adaptive_threshold_unit: what it is measured in: "reach", the median region's, or "neighbour", the median
            distance to the nearest vector.
        regions: how many in each direction.
        search_radius: also search the regions up to N steps away.
        level_weights: of the levels' distances, 1 by default.
        neighbours: nearest vectors that re-weight the image score, 0 or 1 for none.
        patch_wise: the ablation switch of Table 2; False: one bank for all regions.
        layer_wise: another; False: levels concatenated.
    Other options: `Options`.
    """

    method: ClassVar[str] = "fapm"
    summary: ClassVar[str] = "distance to the nearest nominal patch of the same region, level by level"
    cost: ClassVar[str] = "an image takes a network and small searches; seconds to learn"
    needs: ClassVar[str] = "roughly aligned parts (search_radius=1 forgives a region's width)"
    scorer_class: ClassVar[type[FAPMScorer]] = FAPMScorer

    former: ClassVar[dict[str, str]] = Detector.former | {
        "spread": "adaptive_threshold", "spread_unit": "adaptive_threshold_unit", "radius": "search_radius",
    }  # fmt: skip

    aggregation: str | None = "mean"
    coreset: float = 0.1
    adaptive: bool = True
    adaptive_threshold: float = 0.5
    adaptive_threshold_unit: str = "reach"
    regions: int = 7
    search_radius: int = 0
    level_weights: tuple[float, ...] | None = None
    neighbours: int = 4
    patch_wise: bool = True
    layer_wise: bool = True

    def check(self) -> None:
        super().check()
        if not 0 < self.coreset <= 1:
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, not {self.coreset!r}")
        if not 0 <= self.adaptive_threshold <= 1:
            raise OptionError(f"adaptive_threshold must lie in 0..1, not {self.adaptive_threshold}")
        if self.adaptive_threshold_unit not in ("reach", "neighbour"):
            raise OptionError(
                f"adaptive_threshold_unit must be reach or neighbour, not {self.adaptive_threshold_unit!r}"
            )
        for name, least in (("regions", 1), ("search_radius", 0), ("neighbours", 0), ("stride", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.level_weights is not None and not all(weight > 0 for weight in self.level_weights):
            raise OptionError(f"level_weights must be positive, not {self.level_weights}")
        if self.stride != 1 and self.layer_wise:
            raise OptionError("stride is for levels on one grid: fapm takes it with layer_wise=false only")
        if self.option("aggregation") != "mean":
            raise OptionError("fapm averages patches by channel: aggregation must be mean")

    def arrange(self) -> Arrangement:
        patch_size = self.option("patch_size")
        return Cells(patch_size) if self.layer_wise else OneGrid("mean", patch_size, self.stride)

    def make_scorer(self, levels: Levels) -> FAPMScorer:
        count = len(levels.channels) if self.layer_wise else 1
        weights = tuple(self.level_weights) if self.level_weights else (1.0,) * count
        if len(weights) != count:
            raise OptionError(f"level_weights must be {count} numbers, one for each level, not {len(weights)}")
        options = FAPMOptions(
            self.coreset, self.adaptive_threshold, self.adaptive_threshold_unit if self.adaptive else None,
            self.regions if self.patch_wise else 1, self.search_radius, weights, self.neighbours, self.layer_wise,
            self.option("image_score") == "max", self.seed,
        )  # fmt: skip
        return FAPMScorer(levels, options)
