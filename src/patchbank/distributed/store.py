"""The features of a fit that lie with the workers, as a `FeatureStore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from patchbank._system.tree import Tree
from patchbank.data import View
from patchbank.distributed.crew import Crew
from patchbank.distributed.matrix import content_of
from patchbank.distributed.rows import Selections, ShardedRows
from patchbank.distributed.shard import FEATURES, Call
from patchbank.features.area import Area
from patchbank.features.image import Noted, PatchFeatures, Visit
from patchbank.features.store import FeatureStore

Result = TypeVar("Result")
_AT_A_TIME = 8  # images that a worker is asked about at once: what is lost with it


@dataclass(eq=False)
class ShardedStore(FeatureStore):
    """Features that stay where they were computed. `image_starts`: the first image of each worker, and how many there
    are."""

    crew: Crew = field(kw_only=True)
    image_starts: list[int] = field(kw_only=True)

    @classmethod
    def of(cls, crew: Crew, noted: Sequence[Sequence[Noted]], width: int, selections: Selections) -> ShardedStore:
        """Of the images that each worker has features of."""
        images = list(accumulate(map(len, noted), initial=0))
        starts = list(accumulate((sum(one.patches for one in some) for some in noted), initial=0))
        rows = cast(Any, ShardedRows(crew, FEATURES, starts, width, selections))
        crew.tell("place", [(starts[w], images[w], content_of(some)) for w, some in enumerate(noted)])
        store = cls(rows, crew=crew, image_starts=images)
        for one in (one for some in noted for one in some):
            store.note(one)
        return store

    def visit(
        self,
        function: Callable[[Visit], Result],
        area: Callable[[View], Area | None],
        images: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """See `FeatureStore`; each worker takes its own images."""
        wanted = list(range(len(self.refs)) if images is None else images)
        shared = self.crew.share(function)
        mine: list[list[int]] = [[] for _ in range(len(self.crew))]
        for i, worker in zip(wanted, np.searchsorted(self.image_starts[1:], wanted, side="right"), strict=True):
            mine[worker].append(i)
        chunks = [[some[at : at + _AT_A_TIME] for at in range(0, len(some), _AT_A_TIME)] for some in mine]
        queues = [[[Call("visit", (shared, chunk))] for chunk in of_worker] for of_worker in chunks]
        found: dict[int, Result] = {}
        order = iter(wanted)
        following = next(order, -1)
        for worker, number, results in self.crew.spread(queues):
            found.update(zip(chunks[worker][number], results, strict=True))
            while following in found:
                yield following, found.pop(following)
                following = next(order, -1)

    def fold(
        self,
        function: Callable[[Iterator[PatchFeatures]], Result],
        merge: Callable[[Result, Result], Result],
        leaf: int,
    ) -> Result:
        """See `FeatureStore`; workers have whole leaves."""
        shared = self.crew.share(function)
        tree = Tree(merge)
        for parts in self.crew.ask("fold", [(shared, merge, leaf)] * len(self.crew)):
            for level, number, value in parts:
                tree.add(number, value, level)
        return tree.total()

    def of_image(self, i: int) -> Tensor:
        """P×D of one image, fetched."""
        assert self.vectors is not None
        return self.stored_rows.take(torch.arange(self.starts[i], self.starts[i + 1]))

    @property
    def stored_rows(self) -> ShardedRows:
        """N×D."""
        return cast(ShardedRows, self.vectors)

    def walk(self) -> Iterator[Tensor]:
        """Fetches all features, image by image."""
        return map(self.of_image, range(len(self.refs)))
