"""Mean and scatter of features in one pass: what Gaussian methods and principal components need of nominal images."""

from __future__ import annotations

import torch
from torch import Tensor

LEAF = 64  # images whose moments are taken one after the other; a multiple of what methods add at once
KINDS = ("full", "diagonal", "tied")


class Moments:
    """Of D-vectors at each of P positions, after any number of observations.

    `mean` P×D; `scatter`, the sum of (x − mean)(x − mean)ᵀ: P×D×D (`full`), its diagonal P×D (`diagonal`), or summed
    over positions D×D (`tied`). Several observations are merged at once (Chan, Golub and LeVeque, "Algorithms for
    computing the sample variance", 1983), which keeps float32 as exact as two passes.
    """

    def __init__(
        self,
        positions: int,
        dimension: int,
        kind: str = "full",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = {"full": (positions, dimension, dimension), "diagonal": (positions, dimension)}
        self.kind, self.count = kind, 0
        self.mean = torch.zeros(positions, dimension, device=device, dtype=dtype)
        self.scatter = torch.zeros(shape.get(kind, (dimension, dimension)), device=device, dtype=dtype)

    def add(self, vectors: Tensor) -> None:
        """B×P×D: B observations of every position."""
        vectors = vectors.to(self.mean.dtype)
        total = self.count + len(vectors)
        mean = vectors.mean(0)
        shift = mean - self.mean
        # the shift of the mean counts like one more observation
        rows = torch.cat([vectors - mean, shift[None] * (self.count * len(vectors) / total) ** 0.5])
        self._add_rows(rows)
        self.mean += shift * (len(vectors) / total)
        self.count = total

    def merge(self, other: Moments) -> Moments:
        """Those of the observations of both."""
        if not other.count:
            return self
        total = self.count + other.count
        positions, dimension = self.mean.shape
        merged = Moments(positions, dimension, self.kind, self.mean.device, self.mean.dtype)
        shift = other.mean - self.mean
        merged.mean = self.mean + shift * (other.count / total)
        merged.scatter = self.scatter + other.scatter
        merged._add_rows(shift[None] * (self.count * other.count / total) ** 0.5)
        merged.count = total
        return merged

    def _add_rows(self, rows: Tensor) -> None:
        if self.kind == "full":
            by_position = rows.transpose(0, 1)
            self.scatter.baddbmm_(by_position.transpose(1, 2), by_position)
        elif self.kind == "diagonal":
            self.scatter += rows.square().sum(0)
        else:
            flat = rows.flatten(0, 1)
            self.scatter.addmm_(flat.T, flat)
