"""Searches in operations that every graph format has, for a batch of images: what an exported scorer compares with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PAIRS = 1 << 24  # most distances held at a time, for each image of a batch
_TOGETHER = 512  # queries compared at a time; one number for all but the largest banks, so that graphs do not differ
_HUGE = 1e30


def together(vectors: int) -> int:
    """How many queries are compared with that many vectors at a time."""
    return max(16, min(_TOGETHER, PAIRS // vectors))


def norm(vectors: Tensor) -> Tensor:
    """Lengths along the last axis."""
    return vectors.square().sum(-1).sqrt()


class TracedBank:
    """M×D `vectors`; as `memory.bank.Bank`, of which nothing is left out."""

    def __init__(self, vectors: Tensor, step: int):
        self.vectors, self._step = vectors, step

    def nearest(
        self, points: Tensor, exclude: int | None = None, penalty: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """B×Q×D → distances and indices of the nearest, B×Q. `penalty`: B×M, huge for vectors that an image is not
        compared with. As `BlockedIndex`: the expanded form decides, the distance is taken from the difference."""
        squared, transposed = self.vectors.square().sum(1)[None, None], self.vectors.T
        if penalty is not None:
            squared = squared + penalty[:, None]
        distances, indices = [], []
        count = int(points.shape[1])
        for start in range(0, count, self._step):
            part = points[:, start : min(start + self._step, count)]
            index = (squared - (2 * part) @ transposed).argmin(2)
            distances.append(norm(part - self.vectors[index]))
            indices.append(index)
        return torch.cat(distances, 1), torch.cat(indices, 1)

    def neighbourhood(self, index: Tensor, size: int) -> Tensor:
        """The `size` vectors nearest to those of some indices, B → B×size×D."""
        centre = self.vectors[index]
        expanded = self.vectors.square().sum(1)[None] - 2 * centre @ self.vectors.T
        # rounding of the expanded form may misplace close contenders: more are taken, and measured in full
        contenders = min(4 * size, int(self.vectors.shape[0]))
        around = self.vectors[expanded.topk(contenders, dim=1, largest=False).indices]  # B×k×D
        chosen = norm(around - centre[:, None]).topk(min(size, contenders), dim=1, largest=False).indices
        return around.gather(1, chosen[:, :, None].expand(-1, -1, around.shape[2]))


class TracedGridBanks:
    """As `memory.region_grid.GridBanks`: G banks of up to K vectors, `vectors` G×K×C, filled up with their own first
    one; `count` G how many they really have; `cells` G×most: the cells of each region, its first one again behind the
    last; `place`: of each cell in that table; `region`: of each cell."""

    def __init__(self, vectors: Tensor, count: Tensor, cells: Tensor, place: Tensor, region: Tensor):
        self.vectors, self.count = vectors, count
        self.cells, self.place, self.region = cells, place, region

    def nearest(self, level: Tensor, grid: tuple[int, int], exclude: object = ()) -> tuple[Tensor, None]:
        """B×P×V×C vectors → distances B×P×V."""
        bank = self.vectors
        most, v, c = int(self.cells.shape[1]), int(level.shape[2]), int(level.shape[3])
        queries = level.index_select(1, self.cells.flatten()).reshape(-1, len(self.cells), most * v, c)
        squared = bank.square().sum(2)[:, None]
        index = (squared - (2 * queries) @ bank.transpose(1, 2)).argmin(3)  # B×G×Q
        offsets = torch.arange(len(self.cells))[None, :, None] * bank.shape[1]
        found = bank.flatten(0, 1)[index + offsets]
        distances = norm(queries - found).reshape(-1, len(self.cells) * most, v)
        return distances.index_select(1, self.place), None

    def closest(self, vector: Tensor, cell: Tensor, grid: tuple[int, int], size: int, exclude: object = ()) -> Tensor:
        """Distances of B×C vectors to the `size` nearest in the banks of their cells, B×size; +inf where there are no
        more."""
        region = self.region[cell]
        bank, count = self.vectors[region], self.count[region]
        distances = norm(bank - vector[:, None])
        there = torch.arange(bank.shape[1])[None] < count[:, None]
        kept = min(size, int(bank.shape[1]))
        closest = torch.where(there, distances, torch.full_like(distances, _HUGE)).topk(kept, dim=1, largest=False)
        valid = torch.arange(kept)[None] < count[:, None]
        return torch.where(valid, closest.values, torch.full_like(closest.values, torch.inf))


class TracedGallery:
    """The pixels of nominal images, M×D, and of which image each is, M, or None where all are compared (SPADE)."""

    def __init__(self, pixels: Tensor, image_of: Tensor | None, images: int, step: int):
        self._bank, self._image_of, self._images = TracedBank(pixels, step), image_of, images

    def nearest(self, queries: Tensor, compared: Tensor) -> tuple[Tensor, None]:
        """B×Q×D, and B×K images → distances B×Q to the nearest pixel of these."""
        penalty = None
        if self._image_of is not None:
            numbers = torch.arange(self._images)[None, :, None]
            among = (compared[:, None] == numbers).float().amax(2)  # B×images
            penalty = ((1 - among) * _HUGE).index_select(1, self._image_of)
        return self._bank.nearest(queries, penalty=penalty)[0], None


class TracedGaussians:
    """W of each position, in the forms of `memory.whitening`; `unpack`: where the packed triangle goes, d²."""

    def __init__(self, kind: str, factor: Tensor, dimension: int):
        self._kind, self._factor, self._d = kind, factor, dimension
        rows, columns = np.tril_indices(dimension)
        unpack = np.full((dimension, dimension), len(rows))  # of the zero behind the packed triangle
        unpack[rows, columns] = np.arange(len(rows))
        self._unpack = torch.from_numpy(unpack.ravel())  # by numpy: a tracer does not see it made

    def distances(self, centred: Tensor) -> Tensor:
        """‖W(x − μ)‖ of B×P×d differences, B×P."""
        if self._kind == "diagonal":
            return norm(centred * self._factor)
        if self._kind == "tied":
            return norm(centred @ self._factor.T)
        step = max(1, PAIRS // self._d**2)
        starts = range(0, int(centred.shape[1]), step)
        return torch.cat([self._packed(centred, start, start + step) for start in starts], 1)

    def _packed(self, centred: Tensor, start: int, stop: int) -> Tensor:
        """B×p distances at positions `start` to `stop`."""
        part, d = self._factor[start:stop], self._d
        square = torch.cat([part, part[:, :1] * 0], 1).index_select(1, self._unpack).reshape(-1, d, d)
        whitened = square @ centred[:, start:stop].permute(1, 2, 0)  # p×d×B
        return whitened.square().sum(1).sqrt().T
