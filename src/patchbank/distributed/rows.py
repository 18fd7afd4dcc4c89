"""A matrix whose rows lie with the workers, as `features.storage.Rows`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.distributed.crew import Crew
from patchbank.distributed.shard import Call
from patchbank.memory.coreset.farthest_first import farthest_first, largest_value, row_norms, safe_scale
from patchbank.memory.coreset.samplers import covering_radius
from patchbank.memory.coreset.shard import Candidates
from patchbank.memory.coreset.sharded import Begun, Traffic, select_from_shards

_TRAVERSAL = "traversal"
_SPARE = 0.5  # what each worker selects beyond the number that is kept in the end


class Kept(Protocol):
    """Where selections are kept that are not complete."""

    def begin(self, count: int) -> tuple[NDArray[np.int64], Callable[[NDArray[np.int64]], None] | None]:
        """What the next selection, of `count` points, has selected in an earlier run; and what saves its progress."""
        ...


class Nowhere:
    """Nothing is kept."""

    def begin(self, count: int) -> tuple[NDArray[np.int64], Callable[[NDArray[np.int64]], None] | None]:
        """See `Kept`."""
        return np.empty(0, np.int64), None


@dataclass(frozen=True)
class Composed:
    """A coreset of coresets: the rows, the covering radius as measured, and what it cannot exceed."""

    indices: Tensor
    radius: float
    bound: float


@dataclass
class Selections:
    """What the selections of a fit share. `traffic`: what each sent and received."""

    kept: Kept = field(default_factory=Nowhere)
    traffic: list[Traffic] = field(default_factory=list)


@dataclass(eq=False)
class ShardedRows:
    """See `features.storage.Rows`. `starts`: the first row of each worker, and N; `width`: D, 0 for a vector."""

    crew: Crew
    name: str
    starts: list[int]
    width: int
    selections: Selections
    made: list[int] = field(default_factory=lambda: [0])  # how many matrices were made of the first one
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D), or (N,)."""
        return (self.starts[-1], self.width) if self.width else (self.starts[-1],)

    def __len__(self) -> int:
        return self.starts[-1]

    def _ranges(self) -> list[tuple[int, int]]:
        return list(zip(self.starts[:-1], self.starts[1:], strict=True))

    # ---- blocks ------------------------------------------------------------------------------------------------------

    def map_blocks(self, function: Callable[[Tensor], Any], rows: int) -> Iterator[tuple[slice, Any]]:
        """Results of a function of each block of rows, in order: the blocks, and the bits, of one matrix."""
        shared = self.crew.share(function)
        calls = [(self.name, shared, rows, tail) for tail in self._tails(rows)]
        found = self.crew.ask("map_blocks", calls)
        results = (result for of_worker in found for result in of_worker)
        for start, result in zip(range(0, len(self), rows), results, strict=True):
            yield slice(start, min(start + rows, len(self))), result

    def map_rows(self, function: Callable[[Tensor], Tensor], rows: int, width: int, dtype: torch.dtype) -> ShardedRows:
        """A matrix (width 0: a vector) of the results of a function of each block of rows, where the rows are."""
        self.made[0] += 1
        new = ShardedRows(
            self.crew, f"{self.name}.{self.made[0]}", self.starts, width, self.selections, self.made
        )  # fmt: skip
        shared = self.crew.share(function)
        calls = [(self.name, new.name, shared, rows, tail, width, dtype) for tail in self._tails(rows)]
        over = self.crew.tell("map_rows", calls, new.name)
        self.crew.tell("put", [None if not len(head) else (new.name, head) for head in self._heads(over)], new.name)
        return new

    def _tails(self, rows: int) -> list[Tensor]:
        """For each worker the rows that its last block has in others."""
        wanted = []
        for start, stop in self._ranges():
            begins = -(-start // rows) * rows < stop  # whether a block does, here
            wanted.append((stop, min(-(-stop // rows) * rows, len(self)) if begins else stop))
        rows_of = [torch.arange(start, stop) for start, stop in wanted]
        return list(torch.split(self.take(torch.cat(rows_of)), [len(each) for each in rows_of]))

    def _heads(self, over: list[Tensor]) -> list[Tensor]:
        """For each worker its first rows, of what the workers before it made."""
        heads = [over[0][:0]] * len(over)
        for worker, values in enumerate(over):
            for other in range(worker + 1, len(over)):
                start, stop = self.starts[other], self.starts[other + 1]
                if len(values):
                    heads[other], values = values[: stop - start], values[stop - start :]
        return heads

    # ---- rows --------------------------------------------------------------------------------------------------------

    def take(self, rows: Tensor) -> Tensor:
        """Some rows, in their order."""
        numbers = rows.cpu()
        owner = torch.searchsorted(torch.tensor(self.starts[1:]), numbers, right=True)
        taken = torch.empty((len(numbers), self.width) if self.width else (len(numbers),))
        where = [(owner == worker).nonzero()[:, 0] for worker in range(len(self.crew))]
        found = self.crew.ask("take", [(self.name, numbers[at]) if len(at) else None for at in where])
        for at, values in zip(where, found, strict=True):
            if len(at):
                taken[at] = values.to(taken.dtype)
        return taken

    def scale(self, factors: Tensor) -> None:
        """Multiply all rows with D factors, in place."""
        self.crew.tell("scale", [(self.name, factors.cpu())] * len(self.crew))

    def fill(self, parts: Sequence[slice], value: float) -> None:
        """Set some parts of a vector to one value."""
        mine = [
            [part for part in parts if part.start < stop and part.stop > start] for start, stop in self._ranges()
        ]  # fmt: skip
        self.crew.tell("fill", [(self.name, some, value) if some else None for some in mine], self.name)

    def subset(self, rows: Tensor, function: Callable[[Tensor], Tensor], each: int, width: int) -> ShardedRows:
        """A matrix of function(some rows), `each` rows for one, where the rows are."""
        owners = torch.searchsorted(rows, torch.tensor(self.starts)).tolist()
        starts = [each * owner for owner in owners]
        self.made[0] += 1
        new = ShardedRows(
            self.crew, f"{self.name}.{self.made[0]}", starts, width, self.selections, self.made
        )  # fmt: skip
        shared = self.crew.share(function)
        calls = [
            (self.name, new.name, rows[a:b].clone(), shared, starts[worker])
            for worker, (a, b) in enumerate(itertools.pairwise(owners))
        ]
        self.crew.tell("subset", calls, new.name)
        return new

    def drop(self) -> None:
        """Let go of a matrix that was made of another."""
        self.crew.forget(self.name)
        self.crew.ask("drop", [(self.name,)] * len(self.crew))

    # ---- selection ---------------------------------------------------------------------------------------------------

    def farthest_first(
        self, count: int, anchor: ShardedRows, progress: Callable[[int], None] | None, radius: float
    ) -> tuple[Tensor, float]:
        """As `memory.coreset.farthest_first`: the same rows in the same order."""
        scale = safe_scale(max(largest for _, largest in self.map_blocks(largest_value, 65536)))
        self.crew.tell("traverse", [(self.name, anchor.name, scale)] * len(self.crew), _TRAVERSAL)
        indices, save = self.selections.kept.begin(count)
        vectors = (self.take(torch.from_numpy(indices)) * scale).numpy()
        begun = Begun(indices, vectors, save)
        self.selections.traffic.append(begun.traffic)
        selection = select_from_shards(
            _Traversals(self.crew), count, self.width, progress=progress, radius=radius * scale, begun=begun
        )
        self.crew.forget(_TRAVERSAL)
        self.crew.ask("end_traversal", [()] * len(self.crew))
        return selection.indices, selection.radius / scale

    def composed(self, count: int) -> Composed:
        """A coreset of the coresets of the workers, in two messages: not the rows that one machine selects."""
        own = self.crew.ask("own_coreset", [(self.name, math.ceil(count * (1 + _SPARE)))] * len(self.crew))
        indices, vectors = (torch.cat([found[part] for found in own]) for part in (0, 1))
        of_union = farthest_first(vectors, min(count, len(vectors)), row_norms(vectors))
        chosen = indices[of_union.indices]
        bound = max(radius for _, _, radius in own) + of_union.radius
        return Composed(chosen, covering_radius(cast(Tensor, self), chosen), bound)


@dataclass(frozen=True)
class _Traversals:
    """See `memory.coreset.sharded.Traversals`."""

    crew: Crew

    def __len__(self) -> int:
        return len(self.crew)

    def advance(self, centres: NDArray[np.float32], indices: NDArray[np.int64], most: int) -> Sequence[Candidates]:
        shared = self.crew.share(centres)
        return self.crew.ask_after(
            Call("add", (shared, indices), True, _TRAVERSAL), Call("candidates", (most,))
        )  # fmt: skip

    def radius(self) -> float:
        return float(max(self.crew.ask("radius", [()] * len(self.crew))))
