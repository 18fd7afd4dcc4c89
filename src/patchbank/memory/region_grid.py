"""The image as a grid of regions, each with a bank of its own (FAPM §2.1): grids may differ, regions are relative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.passing import FieldsOnly
from patchbank.errors import OptionError
from patchbank.memory.search import nearest
from patchbank.memory.search.batched import BatchedBanks
from patchbank.memory.traced import TracedGridBanks

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class RegionGrid:
    """`rows`×`columns` regions, numbered row by row."""

    rows: int
    columns: int

    def __len__(self) -> int:
        return self.rows * self.columns

    @lru_cache(maxsize=64)  # noqa: B019 (frozen and small)
    def of_cells(self, grid: tuple[int, int]) -> Indices:
        """The region of each cell of a grid (rows, columns)."""
        row, column = (np.arange(n) * parts // n for n, parts in zip(grid, (self.rows, self.columns), strict=True))
        return np.asarray((row[:, None] * self.columns + column).ravel())

    @lru_cache(maxsize=64)  # noqa: B019
    def cells(self, grid: tuple[int, int]) -> Tensor:
        """The cells of each region of a grid: regions×most, −1 behind the last one."""
        region = self.of_cells(grid)
        sizes = np.bincount(region, minlength=len(self))
        table = np.full((len(self), sizes.max()), -1)
        for number in range(len(self)):
            table[number, : sizes[number]] = np.flatnonzero(region == number)
        return torch.from_numpy(table)

    def around(self, region: int, radius: int) -> list[int]:
        """A region and those at most `radius` away."""
        row, column = divmod(region, self.columns)
        rows = range(max(row - radius, 0), min(row + radius + 1, self.rows))
        columns = range(max(column - radius, 0), min(column + radius + 1, self.columns))
        return [r * self.columns + c for r in rows for c in columns]


@dataclass(frozen=True)
class GridBanks(FieldsOnly):
    """One level's banks: `vectors` M×C, the `region` of each (M), `provenance` M×3 (image, row and column on the
    level's grid), and which regions were sampled at the `doubled` ratio; a search also looks `radius` regions away."""

    vectors: Tensor
    region: Indices
    provenance: NDArray[np.int32]
    doubled: NDArray[np.bool_]
    regions: RegionGrid
    radius: int = 0

    def nearest(
        self, level: Tensor, grid: tuple[int, int], without_images: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """P×V×C: V vectors in each cell of a grid → distances to the nearest in their region's bank, and its number,
        P×V. Where no vector is left in it, as may be with few images, all regions are searched; distance +inf where
        none is left at all."""
        distances = torch.full(level.shape[:2], torch.inf, device=level.device)
        numbers = torch.zeros(level.shape[:2], dtype=torch.int64, device=level.device)
        excluded = None
        if without_images:
            excluded = torch.from_numpy(np.isin(self.provenance[:, 0], without_images)).to(level.device)
        for regions, banks in self._batches:
            cells = self.regions.cells(grid)[regions].to(level.device)
            there = cells >= 0
            found = banks.nearest(level[cells].flatten(1, 2), excluded)
            for result, values in zip((distances, numbers), found, strict=True):
                result[cells[there]] = values.reshape(*cells.shape, level.shape[1])[there]
        lost = torch.isinf(distances)
        if lost.any():
            left = torch.arange(len(self.vectors), device=level.device)
            left = left if excluded is None else left[~excluded]
            if len(left):
                distances[lost], where = nearest(level[lost], self.vectors[left])
                numbers[lost] = left[where]
        return distances, numbers

    def closest(
        self, vector: Tensor, cell: Tensor, grid: tuple[int, int], size: int, without_images: Sequence[int] = ()
    ) -> Tensor:
        """Distances of a vector C to the `size` nearest that a cell of the grid is compared with, nearest first; fewer
        where there are no more."""
        bank = self._of_cell(int(cell), grid, without_images)
        distances = torch.linalg.vector_norm(bank - vector, dim=1)
        return torch.topk(distances, min(size, len(distances)), largest=False).values

    def _of_cell(self, cell: int, grid: tuple[int, int], without_images: Sequence[int] = ()) -> Tensor:
        """All vectors that one cell of a grid is compared with."""
        region = int(self.regions.of_cells(grid)[cell])
        for regions, banks in self._batches:
            for row in (regions == region).nonzero()[:, 0].tolist():
                there = torch.isfinite(banks.squared[row])
                if without_images:
                    numbers = banks.numbers[row].cpu().numpy()
                    gone = np.isin(self.provenance[numbers, 0], without_images)
                    there &= torch.from_numpy(~gone).to(there.device)
                return banks.vectors[row, there]
        return self.vectors[:0]

    @cached_property
    def _batches(self) -> list[tuple[Tensor, BatchedBanks]]:
        """Regions and their banks, in one batch for each ratio, so that little is padded."""
        batches = []
        for ratio in (False, True):
            regions = np.flatnonzero(self.doubled == ratio)
            members = [
                torch.from_numpy(np.flatnonzero(np.isin(self.region, self.regions.around(int(r), self.radius))))
                for r in regions
            ]
            if members:
                batches.append((torch.from_numpy(regions), BatchedBanks.of(self.vectors, members)))
        return batches

    # ---- several models, exports -------------------------------------------------------------------------------------

    def joined(self, other: GridBanks, images: int, gone: Sequence[int]) -> GridBanks:
        """With the vectors of another model's banks, whose images count from `images` on; without some of its images.
        Raises `OptionError` where it has other regions."""
        if other.regions != self.regions:
            raise OptionError(
                f"the models cannot be merged: one has {self.regions.rows}×{self.regions.columns} regions, the other "
                f"{other.regions.rows}×{other.regions.columns}"
            )
        kept = np.flatnonzero(~np.isin(other.provenance[:, 0], list(gone)))
        provenance = other.provenance[kept].copy()
        number = np.cumsum(~np.isin(np.arange(int(other.provenance[:, 0].max()) + 1), list(gone))) - 1
        provenance[:, 0] = number[provenance[:, 0]] + images
        return GridBanks(
            torch.cat([self.vectors, other.vectors[torch.from_numpy(kept)]]),
            np.concatenate([self.region, other.region[kept]]),
            np.concatenate([self.provenance, provenance]),
            self.doubled | other.doubled,
            self.regions,
            self.radius,
        )

    def padded(self) -> tuple[Tensor, Tensor]:
        """The bank of each region, G×K×C, filled up with its own first vector, and how many it really has, G; one that
        kept nothing is compared with all."""
        members = [
            np.flatnonzero(np.isin(self.region, self.regions.around(region, self.radius)))
            for region in range(len(self.regions))
        ]
        members = [rows if len(rows) else np.arange(len(self.vectors)) for rows in members]
        most = max(map(len, members))
        filled = np.stack([np.concatenate([rows, np.repeat(rows[:1], most - len(rows))]) for rows in members])
        vectors = self.vectors.cpu().float()[torch.from_numpy(filled)]
        return vectors, torch.tensor([len(rows) for rows in members], dtype=torch.float32)

    def traced(self, vectors: Tensor, count: Tensor, grid: tuple[int, int]) -> TracedGridBanks:
        """Over `padded` banks, for images of that grid."""
        table = self.regions.cells(grid)
        cells = torch.where(table >= 0, table, table[:, :1])
        there = (table >= 0).flatten().nonzero()[:, 0]
        place = there[table.flatten()[there].argsort()]
        return TracedGridBanks(vectors, count, cells, place, torch.from_numpy(self.regions.of_cells(grid)))
