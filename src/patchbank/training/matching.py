"""Adaptive patch matching: the distance of a cell of a picture to the most similar one of good pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.memory.coreset.farthest_first import farthest_first_of_each
from patchbank.memory.region_grid import RegionGrid
from patchbank.memory.traced import TracedBank, together
from patchbank.training.network import Standard
from patchbank.training.pictures import GoodPictures

REGIONS = RegionGrid(4, 4)
_MOST_CELLS = 60_000  # that the bank is selected from
LEAST_SCALE = 0.01  # of what is standardised, all of which is of the order of 1
_RARE = 0.2  # of the scale of its kind: what hardly varies over good parts counts as if it varied as much


class AdaptiveBank(nn.Module):
    """A bank of `size` vectors, which are selected in each region of the pictures apart. `kinds`: how many values of
    each kind describe a cell, D in all."""

    vectors: Tensor

    def __init__(self, size: int, kinds: Sequence[int]):
        super().__init__()
        self._kinds = tuple(kinds)
        self.standard = Standard(sum(kinds))
        self.register_buffer("vectors", torch.zeros(size, sum(kinds)))

    def reset(self, generator: torch.Generator) -> None:
        """Fill it with random vectors, until it learns others."""
        self.vectors.copy_(torch.randn(self.vectors.shape, generator=generator))

    def forward(self, described: Tensor, penalty: Tensor | None = None) -> Tensor:
        """Distances of cells to the nearest vectors, standardised.

        Args:
            described: B×D×r×c.
            penalty: B×size, huge for vectors that a picture is not compared with.

        Returns:
            B×1×r×c.
        """
        cells = self.standard(described.flatten(2).transpose(1, 2))
        found = TracedBank(self.vectors, together(len(self.vectors))).nearest(cells, penalty=penalty)[0]
        return found.reshape(-1, 1, int(described.shape[2]), int(described.shape[3]))

    @torch.no_grad()
    def learn_from(self, pictures: GoodPictures, describe: Callable[[Tensor], Tensor], seed: int) -> Tensor:
        """Learn from the cells of good pictures that are inspected: at most 60 000 of them, drawn at random.

        Args:
            pictures: the good pictures.
            describe: 1×C×H×W → 1×D×r×c.
            seed: of the draw.

        Returns:
            `size` numbers: the picture that each vector comes from.
        """
        generator = torch.Generator().manual_seed(seed)
        most = max(_MOST_CELLS // pictures.images, 1)
        cells, regions, numbers = [], [], []
        for number in range(pictures.images):
            one = torch.tensor([number])
            found = describe(pictures.pictures(one))[0]
            grid = (int(found.shape[1]), int(found.shape[2]))
            inside = pictures.inspected(one)
            shown = torch.ones(grid) if inside is None else F.adaptive_max_pool2d(inside.float(), grid)
            rows = torch.nonzero(shown.flatten())[:, 0].cpu()
            rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
            cells.append(found.flatten(1).T[rows.to(found.device)])
            regions.append(torch.from_numpy(REGIONS.of_cells(grid))[rows])
            numbers.append(torch.full_like(rows, number))
        described = torch.cat(cells)
        learn_scales(self.standard, described, self._kinds)
        chosen = self.learn(self.standard(described), torch.cat(regions).to(described.device))
        return torch.cat(numbers)[chosen.cpu()]

    def learn(self, cells: Tensor, regions: Tensor) -> Tensor:
        """Select the vectors: in each region by k-centre greedy, more of them where its cells differ more.

        Where there are fewer cells than the bank has room for, the first one fills it up.

        Args:
            cells: N×D of good pictures, standardised.
            regions: N numbers of the region of each.

        Returns:
            `size` numbers of the cells that were selected.
        """
        size = len(self.vectors)
        members = [torch.nonzero(regions == number)[:, 0] for number in range(len(REGIONS))]
        members = [rows for rows in members if len(rows)]
        sets = [cells[rows].contiguous() for rows in members]
        counts = shares(torch.stack([spread(each) for each in sets]), [len(rows) for rows in members], size)
        chosen = farthest_first_of_each(sets, counts)
        rows = torch.cat([rows[each.indices.to(rows.device)] for rows, each in zip(members, chosen, strict=True)])
        rows = torch.cat([rows, rows[:1].expand(size - len(rows))])
        self.vectors.copy_(cells[rows])
        return rows


@torch.no_grad()
def learn_scales(standard: Standard, values: Tensor, kinds: Sequence[int]) -> None:
    """Standardise values of several kinds, N×D in all, so that each kind weighs the same in squared distances."""
    standard.learn(values)
    for scale in torch.split(standard.scale, list(kinds)):
        usual = scale.square().mean().sqrt() * _RARE
        scale.copy_(scale.clamp(min=max(float(usual), LEAST_SCALE)) * len(scale) ** 0.5)


def spread(cells: Tensor) -> Tensor:
    """Root of the mean squared distance of N×D cells from their mean."""
    return (cells - cells.mean(0)).square().sum(1).mean().sqrt()


def shares(spreads: Tensor, most: list[int], total: int) -> list[int]:
    """How many vectors each region keeps: in proportion to its spread, at least 1, at most what it has.

    Args:
        spreads: R of the regions.
        most: cells of each region.
        total: vectors of all regions together.
    """
    weights = spreads.double().cpu().clamp(min=1e-9)
    counts = [1] * len(most)
    while (left := min(total, sum(most)) - sum(counts)) > 0:
        open_ = torch.tensor([count < limit for count, limit in zip(counts, most, strict=True)])
        wanted = left * weights * open_ / (weights * open_).sum()
        if int(wanted.floor().sum()) == 0:  # fewer are left than regions: those with the largest shares
            wanted = torch.zeros_like(wanted).index_fill(0, wanted.topk(min(left, int(open_.sum()))).indices, 1.0)
        counts = [min(c + int(w), limit) for c, w, limit in zip(counts, wanted.floor().tolist(), most, strict=True)]
    return counts
