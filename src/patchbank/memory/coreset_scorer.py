"""A bank that a selection thins: at once or in chunks, and again without some of the images for the calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from typing_extensions import Self

from patchbank.errors import Progress, notify
from patchbank.features.storage import take
from patchbank.features.store import FeatureStore
from patchbank.memory.bank_scorer import BankScorer, BankSize
from patchbank.memory.selecting import Selecting
from patchbank.scorer import Levels

_OF_ONE_NUMBER = 256  # patches that are kept of features of one dimension


class CoresetScorer(BankScorer):
    """`select`: how the bank is thinned; `takes_held_out`: whether held-out images may join it after the
    calibration."""

    def __init__(self, levels: Levels, size: BankSize, select: Selecting, takes_held_out: bool, **of_bank: Any):
        super().__init__(levels, size, **of_bank)
        self.select, self._takes_held_out, self._reach = select, takes_held_out, 0.0

    def kept(self, patches: int) -> int:
        if self.select.sampler_name == "identity":
            return patches
        # a single number, such as a share of points, has few values, and copies of one only slow a search down
        return min(super().kept(patches), _OF_ONE_NUMBER) if self.levels.dimension == 1 else super().kept(patches)

    def plan_options(self) -> dict[str, Any]:
        return self.select.plan_options(self.levels.dimension)

    # ---- select ------------------------------------------------------------------------------------------------------

    def select_from(self, points: Tensor, features: FeatureStore, progress: Progress | None) -> None:
        """Thin the N×D patches of a store, as the bank keeps them."""
        count = self.kept(len(points))
        if self.select.streams and not isinstance(points, Tensor):  # on a cluster, whose workers are the chunks
            composed: Any = points
            found = composed.composed(count)
            notify(f"covering radius {found.radius:.3g} as measured; at most {found.bound:.3g} by its bound")
            self.bank = self.make_bank(take(points, found.indices), features, found.indices, found.radius)
            return
        sampler = self.select.sampler(len(points), points.shape[1], count)
        vectors: Tensor = sampler.run(points, self.select.reporting(progress, count))
        if vectors is features.vectors:
            vectors = vectors.clone() if isinstance(vectors, Tensor) else take(vectors, sampler.indices_)
        self.bank = self.make_bank(vectors, features, sampler.indices_, sampler.covering_radius_)

    def select_in_chunks(self, features: FeatureStore, factors: Callable[[Tensor], Tensor]) -> Tensor:
        """Thin patches that stream by, not all of which fit into memory; `factors`: N×D → the factors D that bring
        patches to the space of the bank, which are returned."""
        reducer = self.select.reducer(self.kept(features.expected), features.chunk, self.levels.dimension, factors)
        for item in features.first_walk():
            reducer.add(item.vectors.cpu())
        vectors, rows = reducer.result()
        self.bank = self.make_bank(vectors.to(self.device), features, rows, math.nan)
        found: Tensor = reducer.factors.to(self.device)
        return found

    def revisit(self, points: Tensor) -> None:
        if math.isnan(self.bank.covering_radius) and len(points):
            self._reach = max(self._reach, float(self.bank.nearest(points)[0].max()))

    def release(self) -> None:
        if self._reach:
            self.bank = self.bank.with_radius(self._reach)
        self._reach = 0.0

    # ---- calibration -------------------------------------------------------------------------------------------------

    @property
    def loo_is_biased(self) -> bool:  # type: ignore[override]
        # of a million patches, any number: whether all are kept
        return self.select.keeps_far_ones and self.kept(10**6) < 10**6

    @property
    def can_reselect(self) -> bool:  # type: ignore[override]
        straight = self.select.sampler_name == "greedy" and not self.select.projects(self.levels.dimension)
        return straight and self.loo_is_biased

    @property
    def can_add_held_out(self) -> bool:  # type: ignore[override]
        return self.loo_is_biased and self.select.sampler_name != "proxies" and self._takes_held_out

    def reselected(self, features: FeatureStore, held: Sequence[int]) -> Self:
        """The memory of the stored features without some images."""
        # the index is let go of: there is no room for it beside the selection's own, and the next search makes it anew
        self.bank = replace(self.bank)
        chosen = self.select.among(features, held, self.kept)
        points = take(features.stored, chosen.to(features.stored.device))
        return self.with_bank(self.make_bank(points, features, chosen, 0.0))
