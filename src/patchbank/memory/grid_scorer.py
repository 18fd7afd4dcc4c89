"""What a memory of one bank for each region and level knows, beside how it learns and scores (FAPM)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.memory.region_grid import GridBanks, RegionGrid
from patchbank.sample import SampleRef
from patchbank.scorer import Grid, Levels, Memory, Origin, Scorer


class GridScorer(Scorer):
    """`radius`: how many regions away a search looks; `sides`: vectors of each level along one side of a cell."""

    keeps_grid: ClassVar[bool] = True
    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True
    banks: list[Any]  # a GridBanks for each level; traced, a TracedGridBanks

    def __init__(self, levels: Levels, radius: int, sides: Sequence[int]):
        super().__init__(levels)
        self._radius, self._sides = radius, tuple(sides)
        self._refs: tuple[SampleRef, ...] = ()

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        """Of the finest level."""
        return self.banks[0].provenance[references], self._refs, self._sides[0]

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        return self._refs

    @property
    def memory_vectors(self) -> int | None:
        return sum(len(banks.vectors) for banks in self.banks)

    def facts(self) -> dict[str, Any]:
        return {"doubled_regions": ", ".join(f"{banks.doubled.mean():.0%}" for banks in self.banks)}

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """The banks of each region and level together."""
        merged = self.copied()
        for other, twice, named in zip(others, skipped, names, strict=True):
            gone = [i for i, ref in enumerate(other._refs) if ref.name in twice]
            refs = [ref.renamed(named) for ref in other._refs if ref.name not in twice]
            pairs = zip(merged.banks, other.banks, strict=True)
            merged.banks = [mine.joined(theirs, len(merged._refs), gone) for mine, theirs in pairs]
            merged._refs = (*merged._refs, *refs)
        return merged

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors: Memory = {}
        for j, banks in enumerate(self.banks):
            tensors |= {f"level.{j}.vectors": banks.vectors, f"level.{j}.region": torch.from_numpy(banks.region)}
            tensors[f"level.{j}.provenance"] = torch.from_numpy(banks.provenance)
        values = {
            "images": [ref.state() for ref in self._refs],
            "regions": [self.banks[0].regions.rows, self.banks[0].regions.columns],
            "doubled": [banks.doubled.tolist() for banks in self.banks],
        }
        return tensors, values

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        self._refs = tuple(map(SampleRef.of, values["images"]))
        regions, self.banks = RegionGrid(*values["regions"]), []
        for j, doubled in enumerate(values["doubled"]):
            vectors, region, provenance = (tensors[f"level.{j}.{name}"] for name in ("vectors", "region", "provenance"))
            origin, number = provenance.cpu().numpy().astype(np.int32), region.cpu().numpy()
            self.banks.append(GridBanks(vectors, number, origin, np.array(doubled), regions, self._radius))
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        memory: Memory = {}
        for j, banks in enumerate(self.banks):
            memory[f"bank{j}"], memory[f"count{j}"] = banks.padded()
        return memory, {f"bank{j}": 1 for j in range(len(self.banks))}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        scorer = self.copied()
        scorer.banks = [
            banks.traced(memory[f"bank{j}"], memory[f"count{j}"], grid) for j, banks in enumerate(self.banks)
        ]
        return scorer


def only(distances: Tensor, inspected: Tensor | None) -> Tensor:
    """…×P×V distances, 0 in cells that are not inspected."""
    if inspected is None:
        return distances
    if inspected.dtype == torch.bool:
        return distances.masked_fill(~inspected.flatten()[:, None], 0.0)
    return distances * inspected.reshape(1, -1, 1)


def on_grid(values: Tensor, grid: Grid, fine: int) -> Tensor:
    """…×P×V, V = v² values in each cell of a grid → …, with `fine`×`fine` values in each cell."""
    v = math.isqrt(int(values.shape[-1]))
    image = values.reshape(-1, grid[0], grid[1], v, v).transpose(2, 3).reshape(-1, 1, grid[0] * v, grid[1] * v)
    if values.ndim == 2:
        one = image[0, 0]
        return one.repeat_interleave(fine // v, 0).repeat_interleave(fine // v, 1)
    return F.interpolate(image, scale_factor=float(fine // v), mode="nearest")[:, 0]
