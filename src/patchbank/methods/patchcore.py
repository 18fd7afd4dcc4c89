"""PatchCore: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2021), arXiv 2106.08265."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from patchbank.calibration.calibration import Calibration, Row, folds_of
from patchbank.data import Source, turned_by
from patchbank.errors import OptionError
from patchbank.features.aggregation import level_balance
from patchbank.features.backbones import numbers_layers
from patchbank.features.displacement import Response
from patchbank.features.extractor import OnError, Progress
from patchbank.features.foreground import foreground_mask
from patchbank.features.planning import Plan
from patchbank.features.storage import in_blocks
from patchbank.features.store import FeatureSet
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.merge_reduce import MergeReduce
from patchbank.memory.coreset.proxies import vector_bytes
from patchbank.methods.memory_bank import MemoryBankDetector
from patchbank.methods.method import PatchScores

DEFAULT_CORESET, DEFAULT_BANK_SIZE = 0.1, 10_000  # the smaller of the two; docs/backbones.md has what more would bring
STREAM = "stream"  # as the value of `coreset`
PROJECTION = 128  # d* of Algorithm 1; worth its distortion only where it at least halves the dimension


# the defaults of AnomalyDINO, with distance="cosine"; of a vision transformer's levels, the last
COSINE = {"image_size": 448, "patch_size": 1, "image_score": "top", "sigma": 4.0, "neighbours": 0, "balance": False}


@dataclass(kw_only=True, eq=False)
class PatchCore(MemoryBankDetector):
    """A memory bank of nominal patch features, thinned to a coreset; the score is the distance to the nearest one.

    coreset: share of all patches to keep (by default 10 %, but no more than 10 000 patches), or "stream" to select
    chunk by chunk where not all patches fit into memory; sampler: "greedy", "approximate", "random", "identity", or
    "proxies", vectors learned after Eq. 8, each said to come from the patch nearest to it; coreset_radius: stop as soon
    as every patch is that close to a kept one; balance: scale the levels to equal variance, so that none drowns the
    other (not in the paper; `docs/backbones.md` has what it brings).

    For few images and a vision transformer, as AnomalyDINO (arXiv 2405.14529): distance: "euclidean", or "cosine" of
    normalised features, which also changes the defaults to those of `COSINE` and keeps all patches; augment:
    "rotations" learns each image at eight angles; foreground: masks out the background of the image that is scored by
    its first principal component (with neighbours=0). Other options: `MemoryBankDetector` and `Options`.
    """

    method: ClassVar[str] = "patchcore"
    summary: ClassVar[str] = "distance of each patch to its nearest in a coreset of all nominal patches"
    cost: ClassVar[str] = "55 ms an image, 6 MB, 20 s to learn"

    coreset_radius: float | None = None
    sampler: str = "greedy"
    balance: bool | None = None
    distance: str = "euclidean"
    augment: str | None = None
    foreground: bool = False

    balance_: Tensor = dataclasses.field(init=False, repr=False)

    def _check(self) -> None:
        super()._check()
        if self.sampler not in SAMPLERS:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        if self.distance not in ("euclidean", "cosine"):
            raise OptionError(f"distance must be euclidean or cosine, not {self.distance!r}")
        if self.augment not in (None, "rotations"):
            raise OptionError(f"augment must be rotations or none, not {self.augment!r}")
        if self.distance == "cosine" and self.coreset == STREAM:
            raise OptionError(f"distance=cosine is for few images: coreset={STREAM!r} does not go with it")
        if self.foreground and self.option("neighbours") > 1:
            raise OptionError("foreground does not go with the re-weighting of Eq. 7: set neighbours=0")
        if self.foreground and self.roi is not None:
            raise OptionError("foreground does not go with a region of interest: give one of them")
        if self.align and (self.augment or self.foreground):
            raise OptionError("align lays every part the same way: leave out augment and foreground")
        if self.sampler == "identity" and (self.coreset, self.bank_size, self.bank_mb) != (None, None, None):
            raise OptionError("sampler='identity' keeps all patches: leave out coreset, bank_size and bank_mb")
        if self.sampler == "proxies" and (self.coreset == STREAM or self.distance == "cosine"):
            raise OptionError(
                f"sampler='proxies' needs all patches at once, and lengths: not coreset={STREAM!r} or cosine"
            )
        if self.coreset_radius is not None and not 0 < self.coreset_radius <= 1e9:
            raise OptionError(f"coreset_radius must be positive, at most 1e9, not {self.coreset_radius}")
        if self.coreset_radius is not None and self.sampler not in ("greedy", "approximate"):
            raise OptionError(f"coreset_radius needs the sampler greedy or approximate, not {self.sampler}")

    def option(self, name: str) -> Any:
        """As of all methods; with the cosine distance, defaults are those of `COSINE`."""
        if self.distance == "cosine" and name in COSINE and getattr(self, name) is None:
            return COSINE[name]
        return super().option(name)

    def _default_levels(self) -> tuple[int, ...] | None:
        if self.distance == "cosine" and numbers_layers(self.backbone):
            return (-1,)
        return super()._default_levels()

    def _views(self, sources: list[Source]) -> list[Source]:
        return turned_by(sources) if self.augment else sources

    def _check_coreset(self) -> None:
        if isinstance(self.coreset, str) and self.coreset != STREAM:
            raise OptionError(
                f"coreset must lie in (0, 1], such as 0.1 for 10 %, or be {STREAM!r}, not {self.coreset!r}"
            )
        if self.coreset != STREAM:
            super()._check_coreset()

    def _plan_options(self) -> dict[str, Any]:
        projects = self.sampler in ("greedy", "approximate") and self._projects(self._open().dimension)
        copied = self._open().dimension if self.distance == "cosine" else 0
        learned = vector_bytes(self._open().dimension) if self.sampler == "proxies" else 0
        return {
            "stream": self.coreset == STREAM, "projected": (PROJECTION if projects else 0) + copied, "learned": learned,
        }  # fmt: skip

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
        features.selected = vectors.to(self.torch_device), rows
        features.again = lambda: self._again(used, features, on_error)
        return features

    def _fit_memory(self, features: FeatureSet, progress: Progress | None) -> None:
        """Algorithm 1: all nominal patches (Eq. 4), thinned by the sampler (Eq. 5)."""
        if features.selected is not None:  # while they streamed by
            kept_vectors, rows = features.selected
            self.bank_ = self._make_bank(kept_vectors, features, rows, float("nan"))
            return
        assert features.vectors is not None
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
        # for the cosine there is: lengths are wanted again to tell the background
        points = features.vectors if self.distance == "euclidean" else F.normalize(features.vectors, dim=1)
        vectors = sampler.run(points, report)
        if vectors is features.vectors:
            vectors = vectors.clone()
        self.bank_ = self._make_bank(vectors, features, sampler.indices_, sampler.covering_radius_)

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        if features.vectors is not None:
            return super()._leave_one_out(features, progress)
        # the second walk over streamed features also tells how well the bank covers them
        radius, walk = 0.0, features.again
        assert walk is not None

        def measured() -> Iterator[Tensor]:
            nonlocal radius
            for vectors in walk():
                if len(vectors):
                    radius = max(radius, float(self.bank_.nearest(vectors)[0].max()))
                yield vectors

        features.again = measured
        calibration = super()._leave_one_out(features, progress)
        self.bank_ = self.bank_.with_radius(radius)
        return calibration

    def _level_balance(self, features: Tensor) -> Tensor:
        if not self.option("balance"):
            return torch.ones(features.shape[1], device=features.device)
        return level_balance(features, self._open().backbone.channels, self.option("aggregation"))

    def _prepare(self, vectors: Tensor) -> Tensor:
        return vectors * self.balance_

    def _gain(self, response: Response) -> Tensor:
        return self.balance_.square()

    def _compare(
        self, vectors: Tensor, grid: tuple[int, int], inside: Tensor | None, without_image: int | None
    ) -> PatchScores:
        """Euclidean, or 1 − cos; the background of an image is not compared."""
        scores = super()._compare(self._as_kept(vectors), grid, inside, without_image)
        if self.distance == "cosine":
            scores = replace(scores, distances=scores.distances.square() / 2)
        if self.foreground:
            mask = foreground_mask(vectors / self.balance_, grid).flatten()
            if mask.any():  # where nothing stands out, all is compared
                scores = replace(scores, distances=scores.distances.masked_fill(~mask, 0.0))
        return scores

    def _as_kept(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.distance == "cosine" else vectors

    def _to_mine(self, other: Self) -> Tensor:
        if self.distance == "cosine" and not torch.equal(self.balance_, other.balance_):
            raise OptionError("the models cannot be merged: normalised features of other scales")
        return self.balance_ / other.balance_

    def _kept(self, patches: int) -> int:
        return patches if self.sampler == "identity" else super()._kept(patches)

    def _leaves_holes(self) -> bool:
        # of a million patches, any number: whether all are kept
        return self.sampler not in ("random", "identity") and self.coreset != STREAM and self._kept(10**6) < 10**6

    def _selects_again(self) -> bool:
        # from the features as they are stored: not normalised, not projected
        straight = self.distance == "euclidean" and not self._projects(self._open().dimension)
        return straight and self.sampler == "greedy" and self._leaves_holes()

    def _score_without_some(self, features: FeatureSet) -> Calibration:
        images = features.images
        held = folds_of([bool(image.angle) for image in images], self.seed, [image.group for image in images])[0]
        # its index is let go of: there is no room for it beside the selection's own, and the next search makes it anew
        self.bank_ = bank = replace(self.bank_)
        points, others = features.stored, len(features)
        anchor = row_norms(points)
        for i in held:
            anchor[features.starts[i] : features.starts[i + 1]] = -torch.inf  # never chosen
            others -= features.starts[i + 1] - features.starts[i]
        chosen = farthest_first(points, self._kept(others), anchor, radius=self.coreset_radius or 0.0).indices
        self.bank_ = self._make_bank(points[chosen.to(points.device)], features, chosen, 0.0)
        rows = []
        for i in held:
            if not (image := images[i]).angle:
                scored = self._score(features.of_image(i), image.grid, features.views[i])
                rows.append(Row(image.name, scored.score, scored.peak, image.group))
        self.bank_ = bank
        return Calibration.of_rows(rows, self.false_alarm_rate)

    def _absorbs(self) -> bool:
        return self._leaves_holes() and self.sampler != "proxies" and self.geometry != "paper"

    def _default_kept(self, patches: int) -> int:
        if self.distance == "cosine":
            return patches
        return min(int(patches * DEFAULT_CORESET), DEFAULT_BANK_SIZE)

    def _projects(self, dimension: int) -> bool:
        return dimension >= 2 * PROJECTION

    def _make_sampler(self, patches: int, dimension: int, count: int, share: float = 1.0) -> Any:
        if self.sampler == "identity" or (count == patches and not self.coreset_radius):
            return SAMPLERS["identity"]()
        options: dict[str, Any] = {"count": count, "seed": self.seed}
        if self.sampler != "random":
            options["device"] = self.torch_device
        if self.sampler in ("greedy", "approximate"):
            options["radius"] = share * (self.coreset_radius or 0.0)
            options["dimension_to_project_features_to"] = PROJECTION if self._projects(dimension) else dimension
        return SAMPLERS[self.sampler](min(count / patches, 0.999), **options)

    def _memory_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._memory_state()
        return tensors | {"balance": self.balance_}, values

    def _restore_memory(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super()._restore_memory(tensors, values)
        self.balance_ = tensors["balance"]
