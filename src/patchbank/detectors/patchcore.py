"""PatchCore: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2021), arXiv 2106.08265."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchbank.bank import Bank, TrainingImage
from patchbank.calibration import Calibration
from patchbank.coresets import SAMPLERS
from patchbank.coresets.merge_reduce import MergeReduce
from patchbank.detectors.base import Detector, PatchScores
from patchbank.errors import DatasetError, OptionError
from patchbank.extraction import FeatureSet, OnError, Progress
from patchbank.images import Source
from patchbank.patches import level_balance
from patchbank.planning import Plan
from patchbank.prediction import Neighbour
from patchbank.scoring import reweight
from patchbank.search import check_search
from patchbank.storage import in_blocks

DEFAULT_CORESET, DEFAULT_BANK_SIZE = 0.1, 10_000  # the smaller of the two; docs/backbones.md has what more would bring
STREAM = "stream"  # as the value of `coreset`
PROJECTION = 128  # d* of Algorithm 1; worth its distortion only where it at least halves the dimension


@dataclass(kw_only=True, eq=False)
class PatchCore(Detector):
    """A memory bank of nominal patch features, thinned to a coreset; the score is the distance to the nearest one.

    coreset: share of all patches to keep, or "stream" to select chunk by chunk where not all patches fit into memory;
    bank_size: how many to keep, or bank_mb: how many MB; by default 10 % of the patches, but no more than 10 000;
    sampler: "greedy", "approximate", "random" or "identity"; neighbours: b of Eq. 7, 0 or 1 for no re-weighting;
    balance: scale the levels to equal variance, so that none drowns the other (not in the paper; `docs/backbones.md`
    has what it brings); coreset_radius: stop as soon as every patch is that close to a kept one; search: how
    neighbours are found, see `patchbank.search`; bank_dtype: "float32", or "float16" for half the file. Other options:
    `Options`.
    """

    method: ClassVar[str] = "patchcore"

    coreset: float | str | None = None
    bank_size: int | None = None
    bank_mb: float | None = None
    coreset_radius: float | None = None
    sampler: str = "greedy"
    neighbours: int = 9
    search: str = "auto"
    bank_dtype: str = "float32"
    balance: bool | None = None

    bank_: Bank = dataclasses.field(init=False, repr=False)
    balance_: Tensor = dataclasses.field(init=False, repr=False)

    def _check(self) -> None:
        super()._check()
        if self.sampler not in SAMPLERS:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        share = None if self.coreset == STREAM else self.coreset
        if share is not None and not (isinstance(share, float | int) and 0 < share <= 1):
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, or be {STREAM!r}, not {share!r}")
        if sum(size is not None for size in (share, self.bank_size, self.bank_mb)) > 1:
            raise OptionError("give only one of coreset, bank_size and bank_mb")
        if self.sampler == "identity" and (self.coreset, self.bank_size, self.bank_mb) != (None, None, None):
            raise OptionError("sampler='identity' keeps all patches: leave out coreset, bank_size and bank_mb")
        for name in ("bank_size", "bank_mb"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise OptionError(f"{name} must be positive, not {value}")
        if self.coreset_radius is not None and self.coreset_radius <= 0:
            raise OptionError(f"coreset_radius must be positive, not {self.coreset_radius}")
        if self.coreset_radius is not None and self.sampler not in ("greedy", "approximate"):
            raise OptionError(f"coreset_radius needs the sampler greedy or approximate, not {self.sampler}")
        if self.bank_dtype not in ("float32", "float16"):
            raise OptionError(f"bank_dtype must be float32 or float16, not {self.bank_dtype!r}")
        check_search(self.search, self.torch_device.type)
        if self.neighbours < 0:
            raise OptionError(f"neighbours must not be negative, not {self.neighbours}")

    def _plan_options(self) -> dict[str, Any]:
        projects = self.sampler != "random" and self._projects(self._open().dimension)
        return {"stream": self.coreset == STREAM, "projected": PROJECTION if projects else 0}

    def _gather(
        self, sources: list[Source], patches: int, plan: Plan, on_error: OnError, progress: Progress | None
    ) -> FeatureSet:
        if plan.where != "stream":
            return super()._gather(sources, patches, plan, on_error, progress)
        extractor, count = self._open(), self._kept(patches)
        features = FeatureSet(None)

        def select(vectors: Tensor) -> Tensor:
            # two stages, each within half of the radius
            sampler = self._make_sampler(len(vectors), vectors.shape[1], min(count, len(vectors)), share=0.5)
            sampler.run(vectors)
            indices: Tensor = sampler.indices_
            return indices

        reducer = MergeReduce(select, plan.chunk, extractor.dimension, self._level_balance)
        used: list[Source] = []
        for item in extractor.learn(sources, on_error, progress):
            reducer.add(item.vectors.cpu())
            features.add(item)
            used.append(item.source)
        vectors, rows = reducer.result()
        self.balance_ = reducer.factors.to(self.torch_device)
        self.bank_ = self._make_bank(vectors.to(self.torch_device), features, rows, float("nan"))
        features.again = lambda: self._again(used, features)
        return features

    def _again(self, sources: list[Source], features: FeatureSet) -> Iterator[Tensor]:
        """The second walk over streamed images, which must find what the first one did."""

        def give_up(name: str, error: Exception) -> None:
            raise DatasetError(f"{name}: could be read at first, but not a second time ({error})")

        for i, item in enumerate(self._open().stream(sources, give_up)):
            if item.grid != features.images[i].grid:
                raise DatasetError(f"{item.source.name}: changed while it was learned from")
            yield self._prepare(item.vectors)

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Algorithm 1: all nominal patches (Eq. 4), thinned by the sampler (Eq. 5)."""
        if features.vectors is None:
            return  # selected while they streamed by
        self.balance_ = self._level_balance(features.vectors)
        patches, dimension = features.vectors.shape
        sampler = self._make_sampler(patches, dimension, self._kept(patches))
        kept = 0

        def report(selected: int) -> None:
            nonlocal kept
            kept += selected
            if progress:
                progress("coreset", kept, self._kept(patches))

        for _, block in in_blocks(features.vectors):
            block.mul_(self.balance_)  # in place: there is no room for a second copy
        vectors = sampler.run(features.vectors, report)
        if vectors is features.vectors:
            vectors = vectors.clone()
        self.bank_ = self._make_bank(vectors, features, sampler.indices_, sampler.covering_radius_)

    def _calibrate(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        if features.vectors is not None:
            return super()._calibrate(features, progress)
        # the second walk over streamed features also tells how well the bank covers them
        radius, walk = 0.0, features.again
        assert walk is not None

        def measured() -> Iterator[Tensor]:
            nonlocal radius
            for vectors in walk():
                radius = max(radius, float(self.bank_.nearest(vectors)[0].max()))
                yield vectors

        features.again = measured
        calibration = super()._calibrate(features, progress)
        self.bank_ = self.bank_.with_radius(radius)
        return calibration

    def _level_balance(self, features: Tensor) -> Tensor:
        if not self.option("balance"):
            return torch.ones(features.shape[1], device=features.device)
        return level_balance(features, self._open().backbone.channels, self.option("aggregation"))

    def _make_bank(self, vectors: Tensor, features: FeatureSet, rows: Tensor, radius: float) -> Bank:
        dtype = getattr(torch, self.bank_dtype)
        return Bank(vectors.to(dtype), features.provenance(rows), tuple(features.images), radius, self.search)

    def _prepare(self, vectors: Tensor) -> Tensor:
        return vectors * self.balance_

    def _compare(self, vectors: Tensor, without_image: int | None) -> tuple[Tensor, Tensor]:
        """Eq. 6: Euclidean distance of each patch to its nearest bank vector."""
        return self.bank_.nearest(vectors, without_image)

    def _weight(self, vectors: Tensor, scores: PatchScores) -> float:
        """Eq. 7 at the worst patch."""
        if self.neighbours < 2:
            return 1.0
        worst = int(scores.distances.argmax())
        nearest = int(scores.nearest.flatten()[worst])
        return reweight(vectors[worst], self.bank_.vectors[nearest], self.bank_.neighbourhood(nearest, self.neighbours))

    def _neighbour(self, reference: int, distance: float) -> Neighbour:
        image, row, column = (int(v) for v in self.bank_.provenance[reference])
        source = self.bank_.images[image]
        view = self._open().geometry.view(*source.size)
        return Neighbour(source.name, row, column, view.patch_box(row, column, source.grid), distance)

    def _kept(self, patches: int) -> int:
        if self.sampler == "identity":
            return patches
        if self.bank_size is not None:
            count = self.bank_size
        elif self.bank_mb is not None:
            count = int(self.bank_mb * 1e6 / (getattr(torch, self.bank_dtype).itemsize * self._open().dimension))
        elif isinstance(self.coreset, float | int):
            count = int(patches * self.coreset)
        else:
            count = min(int(patches * DEFAULT_CORESET), DEFAULT_BANK_SIZE)
        return min(max(count, 1), patches)

    def _projects(self, dimension: int) -> bool:
        return dimension >= 2 * PROJECTION

    def _make_sampler(self, patches: int, dimension: int, count: int, share: float = 1.0) -> Any:
        if self.sampler == "identity" or count == patches:
            return SAMPLERS["identity"]()
        options: dict[str, Any] = {"count": count, "seed": self.seed}
        if self.sampler != "random":
            options["device"] = self.torch_device
            options["radius"] = share * (self.coreset_radius or 0.0)
            options["dimension_to_project_features_to"] = PROJECTION if self._projects(dimension) else dimension
        return SAMPLERS[self.sampler](count / patches, **options)

    def _memory_facts(self) -> dict[str, Any]:
        return {"search": self.bank_.index.name}

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {
            "bank.vectors": self.bank_.vectors,
            "bank.provenance": torch.from_numpy(self.bank_.provenance),
            "balance": self.balance_,
        }
        images = [[i.name, *i.size, *i.grid] for i in self.bank_.images]
        return tensors, {"covering_radius": self.bank_.covering_radius, "images": images}

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        images = tuple(TrainingImage(n, (h, w), (r, c)) for n, h, w, r, c in values["images"])
        provenance = tensors["bank.provenance"].cpu().numpy().astype(np.int32)
        self.balance_ = tensors["balance"]
        self.bank_ = Bank(tensors["bank.vectors"], provenance, images, values["covering_radius"], self.search)
