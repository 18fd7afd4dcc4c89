"""The comparisons of the methods whose levels keep their own resolution: FAPM and SPADE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from patchbank.export.comparing import Compared, Comparison, Memory, at, nearest_of, norm, together
from patchbank.memory.region_grid import RegionBanks


class RegionComparison(Comparison):
    """Distances to the bank of each vector's own region, level by level (FAPM §2.3); every bank is filled up to the
    length of the longest with its own first vector, `count` is how many it really has."""

    def __init__(
        self,
        levels: Sequence[RegionBanks],
        weights: Sequence[float],
        grid: tuple[int, int],
        split: tuple[Sequence[int], Sequence[int]] | None,
        neighbours: int,
        by_maximum: bool,
    ):
        super().__init__()
        self.weights, self.grid, self.split, self.neighbours = tuple(weights), grid, split, neighbours
        self.by_maximum, self.memory, self.growing = by_maximum, {}, {}
        regions = levels[0].regions
        self.cells: Tensor  # regions×most: the cells of each region, its first one again behind the last
        self.place: Tensor  # of each cell in that table
        self.region: Tensor  # of each cell
        table = regions.cells(grid)
        self.register_buffer("cells", torch.where(table >= 0, table, table[:, :1]))
        there = (table >= 0).flatten().nonzero()[:, 0]
        self.register_buffer("place", there[table.flatten()[there].argsort()])
        self.register_buffer("region", torch.from_numpy(regions.of_cells(grid)))
        for j, banks in enumerate(levels):
            members = [
                np.flatnonzero(np.isin(banks.region, regions.around(region, banks.radius)))
                for region in range(len(regions))
            ]
            # a region that kept nothing is compared with all
            members = [rows if len(rows) else np.arange(len(banks.vectors)) for rows in members]
            most = max(map(len, members))
            filled = np.stack([np.concatenate([rows, np.repeat(rows[:1], most - len(rows))]) for rows in members])
            self.memory[f"bank{j}"] = banks.vectors.cpu().float()[torch.from_numpy(filled)]
            self.memory[f"count{j}"] = torch.tensor([len(rows) for rows in members], dtype=torch.float32)
            self.growing[f"bank{j}"] = 1

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        cells = vectors.flatten(1, 2)
        levels = _split(cells, self.split) if self.split else [cells[:, :, None]]
        fine = math.isqrt(int(levels[0].shape[2]))
        total = top = reweighted = None
        for j, (weight, level) in enumerate(zip(self.weights, levels, strict=True)):
            bank, count = memory[f"bank{j}"], memory[f"count{j}"]
            distances = self._nearest(level, bank)  # B×P×V
            if inside is not None:
                distances = distances * inside.reshape(1, -1, 1)
            flat = distances.flatten(1)
            worst = flat.argmax(1)
            largest = weight * at(flat, worst)
            region = self.region[worst // int(level.shape[2])]
            factor = self._factor(at(level.flatten(1, 2), worst), bank[region], count[region])
            on_grid = weight * _on_grid(distances, self.grid, fine)
            total = on_grid if total is None else total + on_grid
            top = largest if top is None else top + largest
            reweighted = largest * factor if reweighted is None else reweighted + largest * factor
        assert top is not None
        assert reweighted is not None
        if self.by_maximum:
            return Compared(total, image=reweighted)
        return Compared(total, torch.where(top > 0, reweighted / top.clamp(min=1e-30), torch.ones_like(top)))

    def _nearest(self, level: Tensor, bank: Tensor) -> Tensor:
        """B×P×V×C vectors, G×K×C → distances B×P×V."""
        most, v, c = int(self.cells.shape[1]), int(level.shape[2]), int(level.shape[3])
        queries = level.index_select(1, self.cells.flatten()).reshape(-1, len(self.cells), most * v, c)
        squared = bank.square().sum(2)[:, None]
        index = (squared - (2 * queries) @ bank.transpose(1, 2)).argmin(3)  # B×G×Q
        offsets = torch.arange(len(self.cells))[None, :, None] * bank.shape[1]
        found = bank.flatten(0, 1)[index + offsets]
        distances = norm(queries - found).reshape(-1, len(self.cells) * most, v)
        return distances.index_select(1, self.place)

    def _factor(self, vector: Tensor, bank: Tensor, count: Tensor) -> Tensor:
        """As `FAPM._factor`, for B×D vectors, B×K×D banks and how many each has, B."""
        kept = min(self.neighbours, int(bank.shape[1]))
        if kept < 2:
            return torch.ones_like(count)
        distances = norm(bank - vector[:, None])
        there = torch.arange(bank.shape[1])[None] < count[:, None]
        far = torch.where(there, distances, torch.full_like(distances, 1e30))
        closest = far.topk(kept, dim=1, largest=False).values
        valid = torch.arange(kept)[None] < count[:, None]
        shifted = torch.where(valid, closest - closest[:, :1], torch.full_like(closest, -torch.inf))
        factor = 1 - torch.softmax(shifted, 1)[:, 0]
        return torch.where(count < 2, torch.ones_like(factor), factor)


class PyramidComparison(Comparison):
    """The K most similar nominal images by their average, and the distance of each pixel to theirs (SPADE)."""

    def __init__(
        self,
        pooled: Tensor,
        pixels: Tensor,
        image_of: Tensor,
        images_compared: int,
        split: tuple[Sequence[int], Sequence[int]],
    ):
        super().__init__()
        self.compared, self.split = min(images_compared, len(pooled)), split
        self.memory, self.growing = {"pooled": pooled, "pixels": pixels}, {"pixels": 0}
        if self.compared < len(pooled):
            self.memory["image_of"], self.growing["image_of"] = image_of, 0
        self.together = together(len(pixels))

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        grid = (int(vectors.shape[1]), int(vectors.shape[2]))
        cells = vectors.flatten(1, 2)
        deepest = cells[:, :, -self.split[0][-1] :]
        if inside is None:
            average = deepest.mean(1)
        else:
            average = (deepest * inside.reshape(1, -1, 1)).sum(1) / inside.sum()
        to_images = norm(memory["pooled"][None] - average[:, None])
        nearest = to_images.topk(self.compared, dim=1, largest=False)
        queries, fine = pyramid_pixels(cells, grid, self.split)
        penalty = None
        if "image_of" in memory:
            numbers = torch.arange(len(self.memory["pooled"]))[None, :, None]
            among = (nearest.indices[:, None] == numbers).float().amax(2)  # B×images
            penalty = ((1 - among) * 1e30).index_select(1, memory["image_of"])
        distances, _ = nearest_of(queries, memory["pixels"], self.together, penalty)
        return Compared(distances.reshape(-1, *fine), image=nearest.values.mean(1))


def pyramid_pixels(
    cells: Tensor, grid: tuple[int, int], split: tuple[Sequence[int], Sequence[int]]
) -> tuple[Tensor, tuple[int, int]]:
    """As `SPADE._pixels`, for a batch: B×P×D cells → vectors of all levels but the deepest, on the finest grid."""
    strides, maps = split[1], []
    levels = _split(cells, split)
    for level, stride in zip(levels[:-1] or levels, strides, strict=False):
        v, c = strides[-1] // stride, int(level.shape[3])
        image = level.reshape(-1, grid[0], grid[1], v, v, c).permute(0, 5, 1, 3, 2, 4)
        maps.append(image.reshape(-1, c, grid[0] * v, grid[1] * v))
    side = strides[-1] // strides[0]
    fine = (grid[0] * side, grid[1] * side)
    same = [maps[0], *(F.interpolate(m, fine, mode="bilinear") for m in maps[1:])]
    return torch.cat(same, 1).flatten(2).transpose(1, 2), fine


def _split(cells: Tensor, split: tuple[Sequence[int], Sequence[int]]) -> list[Tensor]:
    """As `Cells.split`, for a batch: B×P×D → for each level B×P×V×C."""
    levels, start = [], 0
    for c, stride in zip(*split, strict=True):
        v = (split[1][-1] // stride) ** 2
        part = cells[:, :, start : start + c * v]
        levels.append(part.reshape(-1, int(cells.shape[1]), c, v).transpose(2, 3))
        start += c * v
    return levels


def _on_grid(values: Tensor, grid: tuple[int, int], fine: int) -> Tensor:
    """As in FAPM, for a batch: B×P×V, V = v² values in each cell → B×(rows·fine)×(columns·fine)."""
    v = math.isqrt(int(values.shape[2]))
    image = values.reshape(-1, grid[0], grid[1], v, v).transpose(2, 3).reshape(-1, 1, grid[0] * v, grid[1] * v)
    return F.interpolate(image, scale_factor=float(fine // v), mode="nearest")[:, 0]
