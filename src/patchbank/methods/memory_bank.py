"""What methods with a bank of nominal patch features share: its size, Eq. 6 and 7 of PatchCore, where its vectors come
from, and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.threads import on_this_thread
from patchbank.errors import OptionError
from patchbank.features.store import FeatureSet
from patchbank.memory.bank import Bank, TrainingImage
from patchbank.memory.search import check_search
from patchbank.methods.living_bank import LivingBank
from patchbank.methods.method import PatchScores
from patchbank.prediction import Neighbour
from patchbank.scoring.maps import reweight


@dataclass(kw_only=True, eq=False)
class MemoryBankDetector(LivingBank):
    """A bank of nominal patch features; the score is the distance to the nearest one.

    coreset: share of all patches to keep; bank_size: how many to keep, or bank_mb: how many MB; neighbours: b of Eq. 7
    (9), 0 or 1 for no re-weighting; search: how neighbours are found, see `patchbank.memory.search`; bank_dtype: "float32", or
    "float16" for half the file.
    """

    keeps_patches: ClassVar[bool] = True
    leaves_parts_out: ClassVar[bool] = True

    coreset: float | str | None = None
    bank_size: int | None = None
    bank_mb: float | None = None
    neighbours: int | None = None
    search: str = "auto"
    bank_dtype: str = "float32"

    def _check(self) -> None:
        super()._check()
        self._check_coreset()
        if sum(size is not None for size in (self._share(), self.bank_size, self.bank_mb)) > 1:
            raise OptionError("give only one of coreset, bank_size and bank_mb")
        for name in ("bank_size", "bank_mb"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise OptionError(f"{name} must be positive, not {value}")
        if self.bank_mb is not None and self.bank_mb > 1e9:
            raise OptionError(f"bank_mb must be at most 1e9, not {self.bank_mb}")
        if self.bank_dtype not in ("float32", "float16"):
            raise OptionError(f"bank_dtype must be float32 or float16, not {self.bank_dtype!r}")
        check_search(self.search, self.torch_device.type)
        if self.option("neighbours") < 0:
            raise OptionError(f"neighbours must not be negative, not {self.neighbours}")

    def _check_coreset(self) -> None:
        if self.coreset is not None and not (isinstance(self.coreset, float | int) and 0 < self.coreset <= 1):
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, not {self.coreset!r}")

    def _share(self) -> float | None:
        """The share of all patches that was asked for."""
        return self.coreset if isinstance(self.coreset, float | int) else None

    def _default_kept(self, patches: int) -> int:
        """How many to keep where nothing was asked for."""
        raise NotImplementedError

    def _vector_length(self) -> int:
        """Dimension of the bank's vectors."""
        return self._open().dimension

    def _kept(self, patches: int) -> int:
        everything = round(patches / (1 - self._reserved))
        return min(max(round(self._wanted(everything) * (1 - self._reserved)), 1), patches)

    def _wanted(self, patches: int) -> int:
        """How many of that many patches were asked for."""
        if self.bank_size is not None:
            count = self.bank_size
        elif self.bank_mb is not None:
            count = int(self.bank_mb * 1e6 / (getattr(torch, self.bank_dtype).itemsize * self._vector_length()))
        elif (share := self._share()) is not None:
            count = int(patches * share)
        else:
            count = self._default_kept(patches)
        return count

    def _make_bank(self, vectors: Tensor, features: FeatureSet, rows: Tensor, radius: float) -> Bank:
        dtype = getattr(torch, self.bank_dtype)
        return Bank(vectors.to(dtype), features.provenance(rows), tuple(features.images), radius, self.search)

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        """Eq. 6: Euclidean distance of each patch to its nearest bank vector; Eq. 7 at the worst patch."""
        distances, nearest = self.bank_.nearest(vectors, without_image)
        factor = 1.0
        if (neighbours := self.option("neighbours")) > 1:
            with on_this_thread():
                worst = int(distances.argmax())
                closest = int(nearest[worst])
                around = self.bank_.neighbourhood(closest, neighbours)
                factor = reweight(vectors[worst], self.bank_.vectors[closest], around)
        return PatchScores(distances, nearest, factor)

    def _closest(self, vectors: Tensor, patch: int, count: int, without_image: int | None) -> list[Neighbour]:
        point = self._as_kept(vectors[patch : patch + 1])
        distances = torch.cdist(point, self.bank_.vectors.float(), compute_mode="donot_use_mm_for_euclid_dist")[0]
        if without_image is not None:
            distances[self.bank_.from_part_of(without_image)] = torch.inf
        found: dict[str, Neighbour] = {}
        for reference in distances.argsort().tolist():
            name = self.bank_.images[self.bank_.provenance[reference, 0]].name
            if name not in found and torch.isfinite(distances[reference]):
                found[name] = self._neighbour(reference, float(distances[reference]))
            if len(found) == count:
                break
        return list(found.values())

    def _origin_of(self, references: NDArray[np.int64]) -> tuple[NDArray[np.int32], tuple[TrainingImage, ...], int]:
        return self.bank_.provenance[references], self.bank_.images, 1

    @property
    def memory_vectors(self) -> int | None:
        return len(self.bank_)

    @property
    def memory_mb(self) -> float:
        return self.bank_.megabytes

    def _memory_facts(self) -> dict[str, Any]:
        return {"search": self.bank_.index.name}

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"bank.vectors": self.bank_.vectors, "bank.provenance": torch.from_numpy(self.bank_.provenance)}
        images = [image.state() for image in self.bank_.images]
        return tensors, {"covering_radius": self.bank_.covering_radius, "images": images}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        images = tuple(map(TrainingImage.of, values["images"]))
        provenance = tensors["bank.provenance"].cpu().numpy().astype(np.int32)
        self.bank_ = Bank(tensors["bank.vectors"], provenance, images, values["covering_radius"], self.search)
