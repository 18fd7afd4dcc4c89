"""PatchCore: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2021), arXiv 2106.08265."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchbank.bank import Bank, TrainingImage
from patchbank.coresets import SAMPLERS
from patchbank.detectors.base import Detector, PatchScores
from patchbank.errors import OptionError
from patchbank.extraction import FeatureSet, Progress
from patchbank.patches import level_balance
from patchbank.prediction import Neighbour
from patchbank.scoring import reweight

DEFAULT_CORESET, DEFAULT_BANK_SIZE = 0.1, 10_000  # the smaller of the two; docs/backbones.md has what more would bring
PROJECTION = 128  # d* of Algorithm 1; worth its distortion only where it at least halves the dimension


@dataclass(kw_only=True, eq=False)
class PatchCore(Detector):
    """A memory bank of nominal patch features, thinned to a coreset; the score is the distance to the nearest one.

    coreset: share of all patches to keep, or bank_size: how many, or bank_mb: how many MB; by default 10 % of the
    patches, but no more than 10 000; sampler: "greedy", "approximate", "random" or "identity"; neighbours: b of Eq. 7,
    0 or 1 for no re-weighting; balance: scale the levels to equal variance, so that none drowns the other (not in the
    paper; `docs/backbones.md` has what it brings). Other options: `Detector`.
    """

    method: ClassVar[str] = "patchcore"

    coreset: float | None = None
    bank_size: int | None = None
    bank_mb: float | None = None
    sampler: str = "greedy"
    neighbours: int = 9
    balance: bool | None = None

    bank_: Bank = dataclasses.field(init=False, repr=False)
    balance_: Tensor = dataclasses.field(init=False, repr=False)

    def _check(self) -> None:
        super()._check()
        if self.sampler not in SAMPLERS:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        if self.coreset is not None and not 0 < self.coreset <= 1:
            raise OptionError(f"coreset must lie in (0, 1], such as 0.1 for 10 %, not {self.coreset}")
        if sum(size is not None for size in (self.coreset, self.bank_size, self.bank_mb)) > 1:
            raise OptionError("give only one of coreset, bank_size and bank_mb")
        for name in ("bank_size", "bank_mb"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise OptionError(f"{name} must be positive, not {value}")
        if self.neighbours < 0:
            raise OptionError(f"neighbours must not be negative, not {self.neighbours}")

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Algorithm 1: all nominal patches (Eq. 4), thinned by the sampler (Eq. 5)."""
        self.balance_ = torch.ones(features.vectors.shape[1], device=features.vectors.device)
        if self.option("balance"):
            self.balance_ = level_balance(features.vectors, self._open().backbone.channels, self.option("aggregation"))
        sampler = self._make_sampler(*features.vectors.shape)
        kept = 0

        def report(selected: int) -> None:
            nonlocal kept
            kept += selected
            if progress:
                progress("coreset", kept, self._bank_count(*features.vectors.shape))

        features.vectors.mul_(self.balance_)  # in place: there is no room for a second copy
        vectors = sampler.run(features.vectors, report)
        self.bank_ = Bank(
            vectors if len(vectors) < len(features.vectors) else vectors.clone(),
            features.provenance(sampler.indices_),
            tuple(features.images),
            sampler.covering_radius_,
        )

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

    def _bank_count(self, patches: int, dimension: int) -> int:
        """How many vectors the bank keeps of that many patches."""
        if self.bank_size is not None:
            count = self.bank_size
        elif self.bank_mb is not None:
            count = int(self.bank_mb * 1e6 / (4 * dimension))
        elif self.coreset is not None:
            count = int(patches * self.coreset)
        else:
            count = min(int(patches * DEFAULT_CORESET), DEFAULT_BANK_SIZE)
        return min(max(count, 1), patches)

    def _make_sampler(self, patches: int, dimension: int) -> Any:
        count = self._bank_count(patches, dimension)
        if self.sampler == "identity" or count == patches:
            return SAMPLERS["identity"]()
        options: dict[str, Any] = {"count": count, "seed": self.seed}
        if self.sampler != "random":
            options["device"] = self.torch_device
            options["dimension_to_project_features_to"] = PROJECTION if dimension >= 2 * PROJECTION else dimension
        return SAMPLERS[self.sampler](count / patches, **options)

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
        self.bank_ = Bank(tensors["bank.vectors"], provenance, images, values["covering_radius"])
