"""What methods with a bank of nominal patches share: its size, its files, and how it grows, shrinks and is merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from patchbank.errors import OptionError
from patchbank.features.store import FeatureStore, Noted, PatchFeatures
from patchbank.memory.bank import Bank
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.search import check_search
from patchbank.memory.traced import TracedBank, together
from patchbank.sample import SampleRef
from patchbank.scorer import Grid, Levels, Memory, Origin, Scorer


@dataclass(frozen=True)
class BankSize:
    """How many patches a bank keeps: a `share` of all, a `count`, or as many as fit into some `megabytes`; at most one
    of them. `dtype`: "float32" or "float16"."""

    share: float | None = None
    count: int | None = None
    megabytes: float | None = None
    dtype: str = "float32"

    def check(self) -> None:
        """Raise `OptionError` for what cannot be used; the names are those of the options."""
        if self.share is not None and not (isinstance(self.share, float | int) and 0 < self.share <= 1):
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, not {self.share!r}")
        if sum(size is not None for size in (self.share, self.count, self.megabytes)) > 1:
            raise OptionError("give only one of coreset, bank_size and bank_mb")
        for name, value in (("bank_size", self.count), ("bank_mb", self.megabytes)):
            if value is not None and value <= 0:
                raise OptionError(f"{name} must be positive, not {value}")
        if self.megabytes is not None and self.megabytes > 1e9:
            raise OptionError(f"bank_mb must be at most 1e9, not {self.megabytes}")
        if self.dtype not in ("float32", "float16"):
            raise OptionError(f"bank_dtype must be float32 or float16, not {self.dtype!r}")

    def of(self, patches: int, dimension: int) -> int | None:
        """How many of N patches, of that dimension in the bank; None where nothing was asked for."""
        if self.count is not None:
            return self.count
        if self.megabytes is not None:
            return int(self.megabytes * 1e6 / (self.torch_dtype.itemsize * dimension))
        return None if self.share is None else int(patches * self.share)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the bank's vectors."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def check_bank_search(search: str, device: torch.device, neighbours: int) -> None:
    """Raise `OptionError` for a search or a number of neighbours that cannot be used."""
    check_search(search, device.type)
    if neighbours < 0:
        raise OptionError(f"neighbours must not be negative, not {neighbours}")


class BankScorer(Scorer):
    """A bank of nominal patches. `neighbours`: b of Eq. 7 of PatchCore, 0 or 1 for no re-weighting; `search`: how
    neighbours are found, see `memory.search`."""

    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True
    bank: Any  # a Bank; traced, a TracedBank

    def __init__(self, levels: Levels, size: BankSize, neighbours: int, search: str, device: torch.device, seed: int):
        super().__init__(levels)
        self.size, self.neighbours, self.search = size, neighbours, search
        self.device, self.seed = device, seed

    # ---- size --------------------------------------------------------------------------------------------------------

    @property
    def vector_length(self) -> int:
        """Dimension of the bank's vectors."""
        return self.levels.dimension

    def default_kept(self, patches: int) -> int:
        """How many of N patches to keep where nothing was asked for."""
        raise NotImplementedError

    def kept(self, patches: int) -> int:
        everything = round(patches / (1 - self.reserved))
        return min(max(round(self.wanted(everything) * (1 - self.reserved)), 1), patches)

    def wanted(self, patches: int) -> int:
        """How many of N patches were asked for."""
        asked = self.size.of(patches, self.vector_length)
        return self.default_kept(patches) if asked is None else asked

    def make_bank(self, vectors: Tensor, features: FeatureStore, rows: Tensor, radius: float) -> Bank:
        """Of vectors that were selected: the rows of a store."""
        provenance, refs = features.provenance(rows), tuple(features.refs)
        return Bank(vectors.to(self.size.torch_dtype), provenance, refs, radius, self.search)

    # ---- what it knows -----------------------------------------------------------------------------------------------

    def to_bank_space(self, points: Tensor) -> Tensor:
        """P×D prepared patches as the bank keeps them."""
        return points

    def closest(self, points: Tensor, patch: int, count: int, exclude: int | None) -> list[tuple[int, float]]:
        point = self.to_bank_space(points[patch : patch + 1])
        distances = torch.cdist(point, self.bank.vectors.float(), compute_mode="donot_use_mm_for_euclid_dist")[0]
        if exclude is not None:
            distances[self.bank.from_part_of(exclude)] = torch.inf
        found: dict[str, tuple[int, float]] = {}
        for reference in distances.argsort().tolist():
            name = self.bank.refs[self.bank.provenance[reference, 0]].name
            if name not in found and torch.isfinite(distances[reference]):
                found[name] = reference, float(self.distance_of(distances[reference]))
            if len(found) == count:
                break
        return list(found.values())

    def distance_of(self, euclidean: Tensor) -> Tensor:
        """The method's own distance, from that of the bank's vectors."""
        return euclidean

    def origin_of(self, references: NDArray[np.int64]) -> Origin:
        return self.bank.provenance[references], self.bank.refs, 1

    @property
    def refs(self) -> tuple[SampleRef, ...]:
        refs: tuple[SampleRef, ...] = self.bank.refs
        return refs

    @property
    def memory_vectors(self) -> int | None:
        return len(self.bank)

    @property
    def memory_mb(self) -> float:
        megabytes: float = self.bank.megabytes
        return megabytes

    def facts(self) -> dict[str, Any]:
        return {"search": self.bank.index.name}

    # ---- it grows and shrinks ----------------------------------------------------------------------------------------

    def with_bank(self, bank: Bank) -> Self:
        """The same scorer over another bank."""
        scorer = self.copied()
        scorer.bank = bank
        return scorer

    def grown(self, points: Tensor, features: FeatureStore, patches_so_far: int) -> Self:
        """With those of the N×D prepared patches of a store that enter."""
        points = self.to_bank_space(points)
        chosen = self._entering(points, patches_so_far)
        vectors = points[chosen.to(points.device)]
        return self.with_bank(self.bank.joined(vectors, features.provenance(chosen), features.refs))

    def reach(self, points: Tensor) -> list[float]:
        """The largest distance of prepared patches to the bank."""
        return [float(self.bank.nearest(self.to_bank_space(points))[0].max())]

    def nearer(self, points: Tensor, radii: Sequence[float], place: Callable[[Tensor], NDArray[np.int32]]) -> Self:
        """See `scorer.Updatable`."""
        points = self.to_bank_space(points)
        chosen = self.bank.far_from(points, radii[0]).indices
        return self.with_bank(self.bank.joined_listed(points[chosen.to(points.device)], place(chosen)))

    def _entering(self, points: Tensor, patches_so_far: int) -> Tensor:
        """Which of N×D new patches enter the bank: those farther from it than its covering radius, farthest first.
        Where that is not known, as large a share of them as of the others, at random."""
        radius = self.bank.covering_radius
        if math.isfinite(radius):
            chosen: Tensor = self.bank.far_from(points, radius).indices
            return chosen
        share = len(self.bank) / max(patches_so_far, len(self.bank))
        count = max(1, round(share * len(points)))
        drawn = np.random.default_rng(self.seed).choice(len(points), count, replace=False)
        return torch.from_numpy(np.sort(drawn))

    def take_in(self, items: Iterable[PatchFeatures]) -> None:
        """Held-out images, after the calibration: a larger bank is nearer to everything, so the threshold of the
        smaller one holds for it."""
        self.take_in_far(map(self.far_patches, items))

    def far_patches(self, item: PatchFeatures) -> tuple[Noted, Tensor, Tensor]:
        """Of a held-out image the patches that the bank does not cover: their numbers, and the patches in its space."""
        points = self.to_bank_space(self.prepare(item.vectors))
        far = torch.nonzero(self.bank.nearest(points)[0] > self.bank.covering_radius)[:, 0]
        return Noted.of(item), far.cpu(), points[far]

    def take_in_far(self, found: Iterable[tuple[Noted, Tensor, Tensor]]) -> None:
        """As `take_in`, of patches that were found elsewhere."""
        bank, features, kept, at = self.bank, FeatureStore(), [], []
        for noted, far, points in found:
            kept.append(points)
            at.append(far + len(features))
            features.note(noted)
        if not kept:  # all went away since they were scored
            return
        points, rows = torch.cat(kept), torch.cat(at)
        room = round(len(bank) / (1 - self.reserved)) - len(bank)
        selected = bank.far_from(points, bank.covering_radius, room)
        chosen = selected.indices
        self.bank = replace(
            bank.joined(points[chosen.to(points.device)], features.provenance(rows[chosen]), features.refs),
            covering_radius=max(bank.covering_radius, selected.radius),
        )

    def without(self, images: Sequence[int]) -> Self:
        """Without the vectors of some images."""
        return self.with_bank(self.bank.without(images))

    def rescale_from(self, other: Any) -> Tensor:
        """Factors D that bring the vectors of another bank to the scale of this one's. Raises `OptionError`."""
        raise NotImplementedError

    def merge(self, others: Sequence[Any], skipped: Sequence[set[str]], names: Sequence[Mapping[str, str]]) -> Self:
        """With the banks of others. `skipped`: names of images of each that this one knows already; `names`: what the
        rest is called here, and their groups."""
        bank = self.bank
        for other, twice, named in zip(others, skipped, names, strict=True):
            scale, new = self.rescale_from(other), other.bank
            if twice:
                new = new.without([i for i, ref in enumerate(new.refs) if ref.name in twice])
            vectors = self.to_bank_space(new.vectors.float() * scale)
            radius = float(np.maximum(bank.covering_radius, other.bank.covering_radius * float(scale.max())))  # or NaN
            refs = [ref.renamed(named) for ref in new.refs]
            bank = replace(bank.joined(vectors, new.provenance, refs), covering_radius=radius)
        return self.with_bank(bank)

    def thinned(self, count: int) -> Self:
        """Thinned to that many vectors, farthest first."""
        points = self.bank.vectors.float()
        share = count / len(points)
        sampler = SAMPLERS["greedy"](share, self.device, points.shape[1], count=count, seed=self.seed)
        sampler.run(points)
        kept = sampler.indices_
        bank = replace(
            self.bank,
            vectors=self.bank.vectors[kept],
            provenance=self.bank.provenance[kept.cpu().numpy()],
            covering_radius=self.bank.covering_radius + sampler.covering_radius_,
        )
        return self.with_bank(bank)

    # ---- files, exports ----------------------------------------------------------------------------------------------

    def state(self) -> tuple[Memory, dict[str, Any]]:
        tensors = {"bank.vectors": self.bank.vectors, "bank.provenance": torch.from_numpy(self.bank.provenance)}
        images = [ref.state() for ref in self.bank.refs]
        return tensors, {"covering_radius": self.bank.covering_radius, "images": images}

    def restore(self, tensors: Memory, values: dict[str, Any]) -> Self:
        refs = tuple(map(SampleRef.of, values["images"]))
        provenance = tensors["bank.provenance"].cpu().numpy().astype(np.int32)
        self.bank = Bank(tensors["bank.vectors"], provenance, refs, values["covering_radius"], self.search)
        return self

    def export_memory(self, grid: Grid) -> tuple[Memory, dict[str, int]]:
        return {"bank": self.bank.vectors.detach().cpu().float().clone()}, {"bank": 0}

    def traced(self, memory: Memory, grid: Grid) -> Self:
        return self.with_bank(TracedBank(memory["bank"], together(int(self.bank.vectors.shape[0]))))  # type: ignore[arg-type]
