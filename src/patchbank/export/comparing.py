"""How each method compares, for a batch and in operations that every graph format has.

A `Comparison` is the part of a method after its features: what it does in `_prepare` and `_compare`, without provenance
and without leaving images out. Its `memory` is kept apart from its other constants, so that it may lie in the graph or
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

Memory: TypeAlias = dict[str, Tensor]

PAIRS = 1 << 24  # most distances held at a time, for each image of a batch
_TOGETHER = 512  # queries compared at a time; one number for all but the largest banks, so that graphs do not differ


@dataclass(frozen=True)
class Compared:
    """Of B images: `distances` B×h×w of the patches (None for a method without a map); the `factor` on the image score,
    B; or the `image` score itself, B."""

    distances: Tensor | None
    factor: Tensor | None = None
    image: Tensor | None = None


class Comparison(nn.Module):
    """`memory`: tensors by name; `growing`: which of their axes may have another length in another memory."""

    memory: Memory
    growing: dict[str, int]

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        """B×rows×columns×D patch features; `inside`: rows×columns, 1 in the region of interest and 0 outside."""
        raise NotImplementedError


class BankComparison(Comparison):
    """Distance to the nearest vector of a bank (Eq. 6 of PatchCore), re-weighted at the worst patch (Eq. 7); features
    are scaled (D or D×d') and shifted first, for `cosine` also normalised."""

    scale: Tensor
    shift: Tensor

    def __init__(self, bank: Tensor, scale: Tensor, shift: Tensor, neighbours: int, cosine: bool = False):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.memory, self.growing = {"bank": bank}, {"bank": 0}
        self.neighbours, self.cosine = min(neighbours, len(bank)), cosine
        self.together = together(len(bank))

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        grid, bank = (int(vectors.shape[1]), int(vectors.shape[2])), memory["bank"]
        flat = vectors.reshape(-1, grid[0] * grid[1], vectors.shape[3])
        scaled = flat * self.scale if self.scale.ndim == 1 else flat @ self.scale
        points = scaled - self.shift
        if self.cosine:
            points = points / norm(points)[:, :, None].clamp(min=1e-12)
        distances, nearest = nearest_of(points, bank, self.together)
        distances = masked(distances, inside)
        factor = None
        if self.neighbours > 1:
            worst = distances.argmax(1)
            factor = reweighted(at(points, worst), at(nearest, worst), bank, self.neighbours)
        if self.cosine:
            distances = distances.square() / 2
        return Compared(distances.reshape(-1, *grid), factor)


class GaussianComparison(Comparison):
    """Mahalanobis distance at each position (PaDiM); `kind` and the form of `factor` as in `patchbank.memory.whitening`."""

    channels: Tensor
    unpack: Tensor

    def __init__(self, kind: str, mean: Tensor, factor: Tensor, channels: Tensor):
        super().__init__()
        d = mean.shape[1]
        self.kind, self.together = kind, max(1, PAIRS // (d * d))
        self.memory, self.growing = {"mean": mean, "factor": factor}, {}
        self.register_buffer("channels", channels)
        rows, columns = torch.tril_indices(d, d)
        unpack = torch.full((d, d), d * (d + 1) // 2)  # of the zero behind the packed triangle
        unpack[rows, columns] = torch.arange(len(rows))
        self.register_buffer("unpack", unpack.flatten())

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        grid, mean, factor = (int(vectors.shape[1]), int(vectors.shape[2])), memory["mean"], memory["factor"]
        flat = vectors.reshape(-1, grid[0] * grid[1], vectors.shape[3])
        centred = flat.index_select(2, self.channels) - mean
        if self.kind == "diagonal":
            distances = norm(centred * factor)
        elif self.kind == "tied":
            distances = norm(centred @ factor.T)
        else:
            starts = range(0, grid[0] * grid[1], self.together)
            distances = torch.cat([self._packed(centred, factor, s, s + self.together) for s in starts], 1)
        return Compared(masked(distances, inside).reshape(-1, *grid))

    def _packed(self, centred: Tensor, factor: Tensor, start: int, stop: int) -> Tensor:
        """B×p distances at positions `start` to `stop`."""
        part, d = factor[start:stop], centred.shape[2]
        square = torch.cat([part, part[:, :1] * 0], 1).index_select(1, self.unpack).reshape(-1, d, d)
        whitened = square @ centred[:, start:stop].permute(1, 2, 0)  # p×d×B
        return whitened.square().sum(1).sqrt().T


class SubspaceComparison(Comparison):
    """What the principal components of a subspace leave of each patch."""

    def __init__(self, mean: Tensor, components: Tensor):
        super().__init__()
        self.memory, self.growing = {"mean": mean, "components": components}, {"components": 0}

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        centred, components = vectors - memory["mean"], memory["components"]
        left = centred - (centred @ components.T) @ components
        distances = left.square().sum(3).sqrt()
        return Compared(distances if inside is None else distances * inside)


class WholeImageComparison(Comparison):
    """The sum of the levels' Mahalanobis distances of an averaged image (Mahalanobis-AD); no map."""

    def __init__(self, mean: Tensor, factors: list[Tensor]):
        super().__init__()
        self.sizes = [len(factor) for factor in factors]
        self.memory = {"mean": mean, **{f"factor{i}": factor for i, factor in enumerate(factors)}}
        self.growing = {}

    def forward(self, vectors: Tensor, inside: Tensor | None, memory: Memory) -> Compared:
        centred, start = vectors[:, 0, 0] - memory["mean"], 0
        score = torch.zeros_like(centred[:, 0])
        for i, size in enumerate(self.sizes):
            score = score + norm(centred[:, start : start + size] @ memory[f"factor{i}"].T)
            start += size
        return Compared(None, image=score)


# ---- what several share ----------------------------------------------------------------------------------------------


def together(vectors: int) -> int:
    """How many queries are compared with that many vectors at a time."""
    return max(16, min(_TOGETHER, PAIRS // vectors))


def norm(vectors: Tensor) -> Tensor:
    """Lengths along the last axis."""
    return vectors.square().sum(-1).sqrt()


def masked(distances: Tensor, inside: Tensor | None) -> Tensor:
    """B×P distances, 0 outside the region of interest."""
    return distances if inside is None else distances * inside.reshape(1, -1)


def at(values: Tensor, index: Tensor) -> Tensor:
    """B×P×… values, and one of P for each of B → B×…"""
    if values.ndim == 2:
        return values.gather(1, index[:, None])[:, 0]
    return values.gather(1, index[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def nearest_of(queries: Tensor, bank: Tensor, step: int, penalty: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """B×Q×D, M×D → distances and indices of the nearest, B×Q, `step` queries at a time; `penalty`: B×M, huge for
    vectors that an image is not compared with. As `BlockedIndex`: the expanded form decides, the distance is taken from
    the difference."""
    squared, transposed = bank.square().sum(1)[None, None], bank.T
    if penalty is not None:
        squared = squared + penalty[:, None]
    distances, indices = [], []
    count = int(queries.shape[1])
    for start in range(0, count, step):
        part = queries[:, start : min(start + step, count)]
        index = (squared - (2 * part) @ transposed).argmin(2)
        distances.append(norm(part - bank[index]))
        indices.append(index)
    return torch.cat(distances, 1), torch.cat(indices, 1)


def reweighted(patch: Tensor, closest: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Eq. 7 of PatchCore, as `patchbank.scoring.maps.reweight`: B×D worst patches and the indices B of their nearest → B."""
    centre = bank[closest]
    expanded = bank.square().sum(1)[None] - 2 * centre @ bank.T
    # rounding of the expanded form may misplace close contenders: more are taken, and measured in full
    contenders = min(4 * neighbours, int(bank.shape[0]))
    around = bank[expanded.topk(contenders, dim=1, largest=False).indices]  # B×k×D
    chosen = norm(around - centre[:, None]).topk(neighbours, dim=1, largest=False).indices
    to_others = norm(around - patch[:, None]).gather(1, chosen)
    return 1 - torch.exp(norm(patch - centre) - torch.logsumexp(to_others, 1))
