"""Which sampler thins a bank, with its options: at once, in chunks, or without some of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patchbank.errors import OptionError, Progress
from patchbank.features.storage import fill
from patchbank.features.store import FeatureStore
from patchbank.memory.coreset import SAMPLERS
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.merge_reduce import MergeReduce
from patchbank.memory.coreset.proxies import vector_bytes

PROJECTION = 128  # d* of Algorithm 1 of PatchCore; worth its distortion only where it at least halves the dimension
_BY_DISTANCE = ("greedy", "approximate")


@dataclass(frozen=True)
class Selecting:
    """`sampler_name`: one of `SAMPLERS`; `radius`: stop as soon as every patch is that close to a kept one; `streams`:
    in chunks; `copied`: whether the selection works on a copy of the features."""

    sampler_name: str
    radius: float | None
    seed: int
    device: torch.device
    streams: bool = False
    copied: bool = False

    def check(self) -> None:
        """Raise `OptionError` for what cannot be used; the names are those of the options."""
        if self.sampler_name not in SAMPLERS:
            raise OptionError(f"sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler_name!r}")
        if self.sampler_name == "proxies" and self.streams:
            raise OptionError(
                "sampler='proxies' needs all patches at once, and lengths: not coreset='stream' or cosine"
            )
        if self.radius is not None and not 0 < self.radius <= 1e9:
            raise OptionError(f"coreset_radius must be positive, at most 1e9, not {self.radius}")
        if self.radius is not None and self.sampler_name not in _BY_DISTANCE:
            raise OptionError(f"coreset_radius needs the sampler greedy or approximate, not {self.sampler_name}")

    @property
    def keeps_far_ones(self) -> bool:
        """Whether it keeps one patch for many, so that nothing like it is left where that one is taken away."""
        return self.sampler_name not in ("random", "identity") and not self.streams

    def projects(self, dimension: int) -> bool:
        """Whether distances are taken after a random projection."""
        return dimension >= 2 * PROJECTION

    def plan_options(self, dimension: int) -> dict[str, Any]:
        """As `Scorer.plan_options`."""
        projects = self.sampler_name in _BY_DISTANCE and self.projects(dimension)
        return {
            "stream": self.streams,
            "projected": (PROJECTION if projects else 0) + (dimension if self.copied else 0),
            "learned": vector_bytes(dimension) if self.sampler_name == "proxies" else 0,
        }

    def sampler(self, patches: int, dimension: int, count: int, share: float = 1.0) -> Any:
        """A sampler that keeps `count` of N patches; `share` of the radius."""
        if self.sampler_name == "identity" or (count == patches and not self.radius):
            return SAMPLERS["identity"]()
        options: dict[str, Any] = {"count": count, "seed": self.seed}
        if self.sampler_name != "random":
            options["device"] = self.device
        if self.sampler_name in _BY_DISTANCE:
            options["radius"] = share * (self.radius or 0.0)
            options["dimension_to_project_features_to"] = PROJECTION if self.projects(dimension) else dimension
        return SAMPLERS[self.sampler_name](min(count / patches, 0.999), **options)

    def reporting(self, progress: Progress | None, count: int) -> Callable[[int], None]:
        """What hears from a sampler how many patches were selected since it was called last."""
        kept = 0

        def report(selected: int) -> None:
            nonlocal kept
            kept += selected
            if progress:
                progress("coreset", kept, count)

        return report

    def reducer(self, count: int, chunk: int, dimension: int, balance: Callable[[Tensor], Tensor]) -> MergeReduce:
        """Selects `count` of the patches that stream by, in chunks; in two stages, each within half of the radius."""

        def select(vectors: Tensor) -> Tensor:
            sampler = self.sampler(len(vectors), vectors.shape[1], min(count, len(vectors)), share=0.5)
            sampler.run(vectors)
            indices: Tensor = sampler.indices_
            return indices

        return MergeReduce(select, chunk, dimension, balance)

    def among(self, features: FeatureStore, left_out: Sequence[int], kept: Callable[[int], int]) -> Tensor:
        """Rows of stored features that a greedy selection keeps of all images but some; `kept`: of N patches."""
        points, others = features.stored, len(features)
        anchor = row_norms(points)
        rows = [slice(features.starts[i], features.starts[i + 1]) for i in left_out]
        fill(anchor, rows, -torch.inf)  # never chosen
        others -= sum(part.stop - part.start for part in rows)
        return farthest_first(points, kept(others), anchor, radius=self.radius or 0.0).indices
