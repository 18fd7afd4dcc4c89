"""The memory bank: patch features of nominal images, each with where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.passing import FieldsOnly
from patchbank.errors import OptionError
from patchbank.memory.coreset.farthest_first import farthest_first
from patchbank.memory.coreset.selection import Selection
from patchbank.memory.search import Index, make_index
from patchbank.sample import SampleRef, parts_of


@dataclass(frozen=True)
class Bank(FieldsOnly):
    """`vectors` M×D, float32 or float16; `provenance` M×3 int32: image (index into `refs`), row and column of each
    vector; `search`: how neighbours are found, one of `patchbank.memory.search.SEARCHES`."""

    vectors: Tensor
    provenance: NDArray[np.int32]
    refs: tuple[SampleRef, ...]
    covering_radius: float
    search: str = "auto"

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def megabytes(self) -> float:
        return self.vectors.numel() * self.vectors.element_size() / 1e6

    def with_radius(self, radius: float) -> Bank:
        """The same bank, its covering radius known now."""
        bank = replace(self, covering_radius=radius)
        bank.__dict__["index"] = self.index  # not to be made again
        return bank

    @cached_property
    def index(self) -> Index:
        """The vectors, prepared for searching."""
        # float() gives the same tensor, unless the bank is float16
        return make_index(self.vectors.float(), self.search)

    @cached_property
    def _part_of_image(self) -> NDArray[np.int64]:
        return np.asarray(parts_of(self.refs), dtype=np.int64)

    @cached_property
    def part_of(self) -> Tensor:
        """For each vector the number of the first image of the part that it comes from."""
        return torch.from_numpy(self._part_of_image[self.provenance[:, 0]]).to(self.vectors.device)

    def from_part_of(self, image: int) -> Tensor:
        """Which vectors come from the part that image number `image` shows: M bool."""
        return self.part_of == int(self._part_of_image[image])

    def nearest(self, patches: Tensor, without_image: int | None = None) -> tuple[Tensor, Tensor]:
        """Distances and indices of the bank vectors nearest to Q×D patches; `without_image` leaves out the vectors of
        the part that one training image shows (distance +inf where no other is left)."""
        excluded = None if without_image is None else self.from_part_of(without_image)
        return self.index.nearest(patches, excluded)

    def neighbourhood(self, index: Tensor | int, size: int) -> Tensor:
        """The `size` bank vectors nearest to a bank vector, itself among them: size×D (N_b(m*) of Eq. 7)."""
        return self.index.neighbourhood(self.vectors[index].float(), size)

    # ---- banks that live ---------------------------------------------------------------------------------------------

    def joined(self, vectors: Tensor, provenance: NDArray[np.int32], refs: Sequence[SampleRef]) -> Bank:
        """With K×D further vectors; their provenance counts `refs` from 0. The covering radius stays to be told."""
        moved = provenance + np.array([len(self.refs), 0, 0], dtype=np.int32)
        return replace(self.joined_listed(vectors, moved), refs=(*self.refs, *refs))

    def joined_listed(self, vectors: Tensor, provenance: NDArray[np.int32]) -> Bank:
        """With K×D further vectors of images that are listed already, which their provenance counts from 0."""
        return replace(
            self,
            vectors=torch.cat([self.vectors, vectors.to(self.vectors)]),
            provenance=np.concatenate([self.provenance, provenance]),
        )

    def far_from(self, patches: Tensor, radius: float, most: int | None = None) -> Selection:
        """Which of N×D patches the bank must take in for all of them to lie within `radius` of it: the farthest, then
        the farthest from the bank with that one, and so on, but no more than `most`."""
        distances, _ = self.index.nearest(patches)
        candidates = torch.nonzero(distances > radius)[:, 0]  # what is covered now stays covered
        if not len(candidates):
            return Selection(candidates.cpu(), 0.0)
        points, squared = patches[candidates].cpu().contiguous(), distances[candidates].double().square().cpu()
        # a radius of 0 would mean no radius: duplicates stay out
        count = len(points) if most is None else min(most, len(points))
        if not count:
            return Selection(candidates.cpu()[:0], float(distances.max()))
        chosen = farthest_first(points, count, squared, radius=max(radius, 1e-9))
        return Selection(candidates.cpu()[chosen.indices], chosen.radius)

    def without(self, images: Sequence[int]) -> Bank:
        """Without the vectors of some images. The covering radius is a bound then: what a vector covered lies no
        farther from the nearest that is left than the radius and the way from one to the other."""
        gone = np.isin(self.provenance[:, 0], list(images))
        if gone.all():
            raise OptionError("these images are all that the bank has: fit a new model instead")
        lost, kept = torch.from_numpy(np.flatnonzero(gone)), torch.from_numpy(np.flatnonzero(~gone))
        number = np.cumsum([i not in set(images) for i in range(len(self.refs))]) - 1
        provenance = self.provenance[~gone].copy()
        provenance[:, 0] = number[provenance[:, 0]]
        left = Bank(
            self.vectors[kept], provenance, tuple(ref for i, ref in enumerate(self.refs) if i not in set(images)),
            self.covering_radius, self.search,
        )  # fmt: skip
        if len(lost):
            way = float(left.index.nearest(self.vectors[lost].float())[0].max())
            left = left.with_radius(self.covering_radius + way)
        return left
