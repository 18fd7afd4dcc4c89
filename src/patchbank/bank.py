"""The memory bank: patch features of nominal images, each with where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.search import k_nearest, nearest, squared_norms


@dataclass(frozen=True)
class TrainingImage:
    """One image the bank was drawn from: name, (height, width) in pixels, and (rows, columns) of its patch grid."""

    name: str
    size: tuple[int, int]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Bank:
    """`vectors` M×D float32; `provenance` M×3 int32: image (index into `images`), row and column of each vector."""

    vectors: Tensor
    provenance: NDArray[np.int32]
    images: tuple[TrainingImage, ...]
    covering_radius: float

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def megabytes(self) -> float:
        return self.vectors.numel() * self.vectors.element_size() / 1e6

    @cached_property
    def _squared(self) -> Tensor:
        return squared_norms(self.vectors)

    @cached_property
    def _image_of(self) -> Tensor:
        return torch.from_numpy(self.provenance[:, 0].copy()).to(self.vectors.device)

    def nearest(self, patches: Tensor, without_image: int | None = None) -> tuple[Tensor, Tensor]:
        """Distances and indices of the bank vectors nearest to Q×D patches; `without_image` leaves out the vectors of
        one training image (distance +inf where no other is left)."""
        squared = self._squared
        if without_image is not None:
            squared = squared.masked_fill(self._image_of == without_image, torch.inf)
        return nearest(patches, self.vectors, squared)

    def neighbourhood(self, index: int, size: int) -> Tensor:
        """The `size` bank vectors nearest to a bank vector, itself among them: size×D (N_b(m*) of Eq. 7)."""
        _, indices = k_nearest(self.vectors[index], self.vectors, size)
        return self.vectors[indices]
