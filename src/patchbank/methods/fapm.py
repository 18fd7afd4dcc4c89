"""FAPM: Kim et al., "FAPM: Fast Adaptive Patch Memory for Real-time Industrial Anomaly Detection" (ICASSP 2023),
arXiv 2211.07381."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.threads import on_this_thread
from patchbank.errors import OptionError
from patchbank.features.aggregation import Arrangement, Cells, OneGrid
from patchbank.features.displacement import Response
from patchbank.features.extractor import Progress
from patchbank.features.storage import take
from patchbank.features.store import FeatureSet
from patchbank.memory.bank import TrainingImage, same_part
from patchbank.memory.coreset.farthest_first import farthest_first_of_each
from patchbank.memory.coreset.samplers import project
from patchbank.memory.region_grid import Indices, RegionBanks, Regions
from patchbank.methods.base import Detector
from patchbank.methods.method import PatchScores

PROJECTION = 128  # as PatchCore: for the distances of the selection, of features with at least twice as many dimensions
_SAMPLE = 32  # vectors of each region that the spread of a level is measured on


@dataclass(frozen=True)
class _Kept:
    """What is kept of one region and level."""

    vectors: Tensor
    provenance: NDArray[np.int32]
    radius: float


@dataclass(kw_only=True, eq=False)
class FAPM(Detector):
    """A bank for each region of the image and each level; a vector is compared with its own region's bank only.

    Needs roughly aligned parts. coreset: share to keep of each region and level; adaptive: keep twice as many where the
    vectors spread more than `spread` (D_th of the paper, 0..1), in units (`spread_unit`) of "reach", the median
    region's, or "neighbour", the median distance to the nearest vector; regions: so many in each direction; radius:
    also search the regions that many steps away; level_weights: of the levels' distances, 1 by default; neighbours:
    nearest vectors that re-weight the image score, 0 or 1 for none; patch_wise, layer_wise: the ablation switches of
    Table 2 (one bank for all regions; levels concatenated). Other options: `Options`.
    """

    method: ClassVar[str] = "fapm"
    summary: ClassVar[str] = "distance to the nearest nominal patch of the same region, level by level"
    cost: ClassVar[str] = "76 ms an image, 25 MB, 23 s to learn"
    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True
    keeps_grid: ClassVar[bool] = True
    needs: ClassVar[str] = "roughly aligned parts (radius=1 forgives a region's width)"

    aggregation: str | None = "mean"
    coreset: float = 0.1
    adaptive: bool = True
    spread: float = 0.5
    spread_unit: str = "reach"
    regions: int = 7
    radius: int = 0
    level_weights: tuple[float, ...] | None = None
    neighbours: int = 4
    patch_wise: bool = True
    layer_wise: bool = True

    levels_: list[RegionBanks] = dataclasses.field(init=False, repr=False)
    images_: tuple[TrainingImage, ...] = dataclasses.field(init=False, repr=False)

    def _check(self) -> None:
        super()._check()
        if not 0 < self.coreset <= 1:
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, not {self.coreset!r}")
        if not 0 <= self.spread <= 1:
            raise OptionError(f"spread must lie in 0..1, not {self.spread}")
        if self.spread_unit not in ("reach", "neighbour"):
            raise OptionError(f"spread_unit must be reach or neighbour, not {self.spread_unit!r}")
        for name, least in (("regions", 1), ("radius", 0), ("neighbours", 0), ("stride", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.level_weights is not None and not all(weight > 0 for weight in self.level_weights):
            raise OptionError(f"level_weights must be positive, not {self.level_weights}")
        if self.stride != 1 and self.layer_wise:
            raise OptionError("stride is for levels on one grid: fapm takes it with layer_wise=false only")
        if self.option("aggregation") != "mean":
            raise OptionError("fapm averages patches by channel: aggregation must be mean")

    def _arrange(self) -> Arrangement:
        patch_size = self.option("patch_size")
        return Cells(patch_size) if self.layer_wise else OneGrid("mean", patch_size, self.stride)

    def _split(self, cells: Tensor) -> list[Tensor]:
        """P×D cells → each level's vectors, P×V_j×C_j."""
        backbone = self._open().backbone
        return Cells.split(cells, backbone.channels, backbone.strides) if self.layer_wise else [cells[:, None]]

    def _leaves_holes(self) -> bool:
        return True

    def _weights(self) -> tuple[float, ...]:
        count = len(self._open().backbone.channels) if self.layer_wise else 1
        weights = tuple(self.level_weights) if self.level_weights else (1.0,) * count
        if len(weights) != count:
            raise OptionError(f"level_weights must be {count} numbers, one for each level, not {len(weights)}")
        return weights

    def _kept(self, patches: int) -> int:
        banks = (2 * self.radius + 1) ** 2  # each vector is in the bank of every region that is near
        return max(1, int(patches * self.coreset * (2 if self.adaptive else 1) * banks))

    def _plan_options(self) -> dict[str, Any]:
        # one region holds all vectors: they are copied twice
        return {"projected": 0 if self.patch_wise else 2 * self._open().dimension}

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """§2.1 and 2.2: cells go to their regions, and each region and level is thinned by itself."""
        self._weights()
        self.images_ = tuple(features.images)
        most = self.regions if self.patch_wise else 1
        regions = Regions(*(min(most, *(image.grid[axis] for image in features.images)) for axis in (0, 1)))
        region_of = np.concatenate([regions.of_cells(image.grid) for image in features.images])
        cells = [np.flatnonzero(region_of == region) for region in range(len(regions))]
        kept = []
        for region, of_region in enumerate(cells):
            levels = self._levels_of(features, of_region)
            counts = [max(1, int(len(level) * self.coreset)) for level in levels]
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
        self.levels_ = []
        for j, of_level in enumerate(zip(*kept, strict=True)):
            number = np.repeat(np.arange(len(regions)), [len(part.vectors) for part in of_level])
            vectors, origin = torch.cat([p.vectors for p in of_level]), np.concatenate([p.provenance for p in of_level])
            self.levels_.append(RegionBanks(vectors, number, origin, doubled[:, j], regions, self.radius))

    def _levels_of(self, features: FeatureSet, cells: Indices) -> list[Tensor]:
        """The vectors of some cells, each level's as one matrix."""
        return [level.flatten(0, 1) for level in self._split(take(features.stored, torch.from_numpy(cells)))]

    def _take(self, features: FeatureSet, cells: Indices, levels: list[Tensor], counts: list[int]) -> list[_Kept]:
        """Greedy coresets of one region's levels."""
        points = [project(s, PROJECTION if s.shape[1] >= 2 * PROJECTION else s.shape[1], self.seed) for s in levels]
        chosen = farthest_first_of_each(points, counts)
        return [
            _Kept(level[one.indices], self._origin(features, cells, j, one.indices), one.radius)
            for j, (level, one) in enumerate(zip(levels, chosen, strict=True))
        ]

    def _too_large(self, features: FeatureSet, cells: list[Indices], reach: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Regions×levels: where the largest cluster, which reaches as far as the covering radius, has d > D_th (Eq. 1).

        On raw features d saturates, so ‖v_far − v'‖² is taken in units of the level (docs/methods/fapm.md).
        """
        if not self.adaptive:
            return np.zeros(reach.shape, bool)
        if self.spread_unit == "reach":
            units = np.median(reach**2, axis=0)
        else:
            rng = np.random.default_rng(self.seed)
            squares = [[_to_nearest_other(level, rng) for level in self._levels_of(features, of)] for of in cells]
            units = np.array([float(torch.cat(of_level).median()) for of_level in zip(*squares, strict=True)])
        return cluster_spread(reach**2 / np.where(units > 0, units, 1.0)) > self.spread

    def _origin(self, features: FeatureSet, cells: NDArray[np.int64], level: int, kept: Tensor) -> NDArray[np.int32]:
        """Image, row and column on the level's own grid of each kept vector."""
        per_side = self._per_side(level)
        cell, inside = np.divmod(kept.cpu().numpy(), per_side**2)
        origin = features.provenance(torch.from_numpy(cells[cell]))
        origin[:, 1] = origin[:, 1] * per_side + inside // per_side
        origin[:, 2] = origin[:, 2] * per_side + inside % per_side
        return origin

    def _per_side(self, level: int) -> int:
        """Vectors of a level along one side of a cell."""
        strides = self._open().backbone.strides
        return strides[-1] // strides[level] if self.layer_wise else 1

    # ---- scores ------------------------------------------------------------------------------------------------------

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        """§2.3: each level's distances to the banks of the vectors' own regions, brought together on the finest grid by
        a weighted sum; the image score is that of the levels' largest distances, each re-weighted."""
        fine, top, reweighted = self._per_side(0), 0.0, 0.0
        without = () if without_image is None else same_part(self.images_, without_image)
        found = []
        for weight, banks, level in zip(self._weights(), self.levels_, self._split(vectors), strict=True):
            distances, numbers = banks.nearest(level, grid, without)
            if inside is not None:
                distances = distances.masked_fill(~inside.flatten()[:, None], 0.0)
            with on_this_thread():
                worst = int(distances.argmax())
                cell, vector = divmod(worst, level.shape[1])
                largest = weight * float(distances.flatten()[worst])
                top += largest
                reweighted += largest * self._factor(level[cell, vector], banks.of_cell(cell, grid, without))
            found.append((weight * _on_grid(distances, grid, fine), _on_grid(numbers, grid, fine)))
        image = reweighted if self.option("image_score") == "max" else None
        factor = reweighted / top if 0 < top < math.inf else 1.0
        return PatchScores(torch.stack([d for d, _ in found]).sum(0), found[0][1], factor, image)

    def _gain(self, response: Response) -> Tensor | None:
        """Of each level its weight; that distances are added, not their squares, makes little difference."""
        if not self.layer_wise:
            return None
        weights = torch.tensor(self._weights()).square()
        return weights.repeat_interleave(torch.tensor(self._open().backbone.channels))

    def _factor(self, vector: Tensor, bank: Tensor) -> float:
        """1 − exp(d₁)/Σ exp(d_k) over the nearest vectors of the worst one, in the manner of Eq. 7 of PatchCore."""
        if self.neighbours < 2 or len(bank) < 2:
            return 1.0
        distances = torch.linalg.vector_norm(bank - vector, dim=1)
        closest = torch.topk(distances, min(self.neighbours, len(distances)), largest=False).values
        return 1 - float(torch.softmax(closest, 0)[0])

    def _origin_of(self, references: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[TrainingImage, ...], int]:
        """Of the finest level."""
        return self.levels_[0].provenance[references], self.images_, self._per_side(0)

    # ---- the model file ----------------------------------------------------------------------------------------------

    @property
    def memory_vectors(self) -> int | None:
        return sum(len(banks.vectors) for banks in self.levels_)

    def _memory_facts(self) -> dict[str, Any]:
        shares = [f"{banks.doubled.mean():.0%}" for banks in self.levels_]
        return {"doubled_regions": ", ".join(shares)}

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        for j, banks in enumerate(self.levels_):
            tensors |= {f"level.{j}.vectors": banks.vectors, f"level.{j}.region": torch.from_numpy(banks.region)}
            tensors[f"level.{j}.provenance"] = torch.from_numpy(banks.provenance)
        values = {
            "images": [image.state() for image in self.images_],
            "regions": [self.levels_[0].regions.rows, self.levels_[0].regions.columns],
            "doubled": [banks.doubled.tolist() for banks in self.levels_],
        }
        return tensors, values

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.images_ = tuple(map(TrainingImage.of, values["images"]))
        regions, self.levels_ = Regions(*values["regions"]), []
        for j, doubled in enumerate(values["doubled"]):
            vectors, region, provenance = (tensors[f"level.{j}.{name}"] for name in ("vectors", "region", "provenance"))
            origin = provenance.cpu().numpy().astype(np.int32)
            banks = RegionBanks(vectors, region.cpu().numpy(), origin, np.array(doubled), regions, self.radius)
            self.levels_.append(banks)


def cluster_spread(squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eq. 1: d = 1 − 2/(1 + exp(‖v_far − v'‖²)), in 0..1."""
    return np.tanh(squared / 2)


def _to_nearest_other(vectors: Tensor, rng: np.random.Generator) -> Tensor:
    """Squared distances of some of N×C vectors to their nearest other one."""
    some = torch.from_numpy(rng.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
    to_all = torch.cdist(vectors[some], vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    to_all[torch.arange(len(some)), some] = torch.inf
    nearest = to_all.min(1).values
    return nearest[torch.isfinite(nearest)]


def _on_grid(values: Tensor, grid: tuple[int, int], fine: int) -> Tensor:
    """P×V, V = v² values in each cell of a grid → the grid with `fine`×`fine` values in each cell."""
    v = math.isqrt(values.shape[1])
    image = values.reshape(*grid, v, v).transpose(1, 2).reshape(grid[0] * v, grid[1] * v)
    return image.repeat_interleave(fine // v, 0).repeat_interleave(fine // v, 1)
