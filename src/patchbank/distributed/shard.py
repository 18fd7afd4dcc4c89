"""What one worker holds of a fit: the features of its images, and what is made of them row by row.

Nothing here knows of Ray. A worker that was lost is brought back by the same calls in the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.ram import private_bytes, trim_heap
from patchbank._system.tree import Tree
from patchbank.data import Sample
from patchbank.distributed.matrix import LINE, aligned, content_of, needs_disk
from patchbank.errors import DatasetError, ImageError, PatchbankWarning
from patchbank.features.image import Noted, PatchFeatures, Visit
from patchbank.features.storage import is_mapped, release, take
from patchbank.memory.coreset.farthest_first import farthest_first, row_norms
from patchbank.memory.coreset.shard import Candidates, ShardTraversal

FEATURES = "features"  # the name of the matrix that `collect` fills
_UNTIDY = 2**24  # bytes of blocks after which gaps in the heap are given back: they would grow to copies of a share

Failure = tuple[str, Exception]


@dataclass(frozen=True)
class Call:
    """A method of `Shard` with its arguments. `kept`: whether it changes the shard, so that a worker that takes its
    place must make it too; `tag`: what is forgotten together."""

    method: str
    args: tuple[Any, ...] = ()
    kept: bool = False
    tag: str = ""


class Shard:
    """The part of a fit that one worker has: rows `first` and following, images `first_image` and following."""

    def __init__(self) -> None:
        self.first = self.first_image = self.rows = self.untidy = 0
        self.matrices: dict[str, Tensor] = {}
        self.firsts: dict[str, int] = {}  # of matrices that have other rows
        self.noted: list[Noted] = []
        self.detector: Any = None
        self.extractor: Any = None
        self.traversal: ShardTraversal | None = None

    def run(self, calls: Sequence[Call]) -> tuple[Any, list[str]]:
        """The result of the last call, and what users should know of the calls."""
        result = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PatchbankWarning)
            for call in calls:
                result = self._within(getattr(self, call.method), call.args)
        return result, [str(found.message) for found in caught if issubclass(found.category, PatchbankWarning)]

    def _within(self, method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with self.detector.context.active() if self.detector else nullcontext():
            return method(*args)

    # ---- prediction --------------------------------------------------------------------------------------------------

    def load(self, detector: Any) -> None:
        """Take a fitted detector."""
        self.__init__()  # type: ignore[misc]
        self.detector = detector

    def inspect(self, sources: list[Sample]) -> tuple[list[tuple[int, Any]], list[Failure]]:
        """The place among the sources and the prediction of each that can be read, and those that failed."""
        failures, place = list[Failure](), {id(source): i for i, source in enumerate(sources)}
        found = self.detector.inspected(sources, lambda name, error: failures.append((name, error)))
        return [(place[id(item.source)], prediction) for item, prediction in found], failures

    # ---- features ----------------------------------------------------------------------------------------------------

    def open(self, detector: Any, inputs: Any) -> None:
        """Make the stages before the memory. `detector`: not fitted."""
        self.__init__()  # type: ignore[misc]
        self.detector, self.extractor = detector, detector.make_extractor(inputs)

    def allocate(self, rows: int, width: int, first: int, budget: int | None, neighbours: int) -> str:
        """Room for features, in memory or past its budget on disk; where they are. `first`: the global number of the
        first row, as far as it is known; `budget`: bytes of this process, None for its part of what is free;
        `neighbours`: workers on this machine, itself among them."""
        on_disk = needs_disk(rows, width, budget, neighbours)
        self.rows, self.noted = 0, []
        self.matrices = {FEATURES: aligned(rows, width, first, on_disk)}
        return "disk" if on_disk else "memory"

    def hold(self, matrix: Tensor, first: int) -> None:
        """Rows that were computed elsewhere, instead of `allocate` and `collect`."""
        self.first, self.rows = first, len(matrix)
        self.matrices = {FEATURES: aligned(len(matrix), matrix.shape[1], first, False)}
        self.matrices[FEATURES].copy_(matrix)

    def private(self) -> int:
        """Bytes of memory that this process alone takes: Ray's object store, which all workers map, not counted."""
        return private_bytes()

    def collect(self, sources: list[Sample], numbers: list[int]) -> tuple[list[Noted], list[Failure]]:
        """Features of the next images; what is known of each, and those that failed."""
        found, failures, features = [], list[Failure](), self.matrices[FEATURES]
        number_of = dict(zip(map(id, sources), numbers, strict=True))
        for item in self.extractor.stream(sources, lambda name, error: failures.append((name, error)), digests=True):
            stop = self.rows + len(item.vectors)
            if stop > len(features):
                name = item.source.name
                failures.append((name, ImageError(f"{name}: changed while it was learned from")))
                continue
            features[self.rows : stop] = item.vectors
            release(features, only_many=True)
            self.rows = stop
            found.append(Noted.of(replace(item, number=number_of[id(item.source)])))
        self.noted += found
        return found, failures

    def place(self, first: int, first_image: int, content: str) -> None:
        """Hear which rows and images these are, now that all are there. `content`: names and digests of the images.

        Raises:
            DatasetError: they are other ones than the first time.
        """
        if content_of(self.noted) != content:
            names = f"{self.noted[0].ref.name} and the images after it" if self.noted else "images"
            raise DatasetError(f"{names}: changed during the fit, when a worker read them again: fit once more")
        features = self.matrices[FEATURES][: self.rows]
        self.first, self.first_image = first, first_image
        if len(features) and features.data_ptr() % (4 * LINE) != 4 * (first * features.shape[1] % LINE):
            moved = aligned(self.rows, features.shape[1], first, is_mapped(features))
            moved.copy_(features)
            features = moved
        self.matrices[FEATURES] = features

    # ---- rows --------------------------------------------------------------------------------------------------------

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Some rows, by their global numbers."""
        return take(self.matrices[name], rows - self._first(name))

    def subset(self, name: str, new: str, rows: Tensor, function: Callable[[Tensor], Tensor], first: int) -> None:
        """Make another matrix of some rows; `first`: the global number of its first row."""
        made = function(take(self.matrices[name], rows - self._first(name)))
        self.matrices[new] = aligned(len(made), made.shape[1], first, False)
        self.matrices[new].copy_(made)
        self.firsts[new] = first

    def _first(self, name: str) -> int:
        return self.firsts.get(name, self.first)

    def scale(self, name: str, factors: Tensor) -> None:
        """Multiply all rows in place."""
        for part in torch.split(self.matrices[name], 65536):
            part.mul_(factors)
            release(self.matrices[name])

    def fill(self, name: str, parts: Sequence[slice], value: float) -> None:
        """Set global rows to one value, as far as they are here."""
        matrix = self.matrices[name]
        for part in parts:
            start, stop = (min(max(row - self._first(name), 0), len(matrix)) for row in (part.start, part.stop))
            matrix[start:stop] = value

    def _blocks(self, name: str, rows: int, tail: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The blocks of the whole matrix that begin here, each with its first row; `tail`: the rows that the last of
        them has in other shards."""
        matrix, first = self.matrices[name], self._first(name)
        end = first + len(matrix)
        for start in range(-(-first // rows) * rows, end, rows):
            block = matrix[start - first : start - first + rows]
            if start + rows > end and len(tail):
                whole = aligned(len(block) + len(tail), matrix.shape[1], start, False)
                whole[: len(block)], whole[len(block) :] = block, tail
                block = whole
            yield start, block
            release(matrix)
            self.untidy += block.numel() * block.element_size()
            if self.untidy >= _UNTIDY:
                trim_heap()
                self.untidy = 0

    def map_blocks(self, name: str, function: Callable[[Tensor], Any], rows: int, tail: Tensor) -> list[Any]:
        """function(block) of each block that begins here."""
        return [function(block) for _, block in self._blocks(name, rows, tail)]

    def map_rows(
        self, name: str, new: str, function: Callable[[Tensor], Tensor], rows: int, tail: Tensor, width: int, dtype: Any
    ) -> Tensor:
        """Make another matrix of the blocks that begin here; the rows of it that belong to the shards after this."""
        count, first, over = len(self.matrices[name]), self._first(name), []
        on_disk = is_mapped(self.matrices[name])
        if width and dtype == torch.float32:
            made = aligned(count, width, first, on_disk)
        else:
            made = torch.empty((count, width) if width else (count,), dtype=dtype)
        for start, block in self._blocks(name, rows, tail):
            at, values = start - first, function(block)
            here = min(len(values), count - at)
            made[at : at + here] = values[:here]
            over.append(values[here:])
            release(made, only_many=True)
        self.matrices[new], self.firsts[new] = made, first
        return torch.cat(over) if over else made[:0].clone()

    def put(self, name: str, values: Tensor) -> None:
        """The first rows of a matrix, made by the shard before this."""
        self.matrices[name][: len(values)] = values

    def drop(self, name: str) -> None:
        """Let go of a matrix."""
        self.matrices.pop(name, None)
        self.firsts.pop(name, None)

    # ---- selection ---------------------------------------------------------------------------------------------------

    def traverse(self, points: str, anchor: str, scale: float) -> None:
        """Begin a farthest-first traversal of points that are multiplied with a power of two."""
        scaled, squared = self.matrices[points], (self.matrices[anchor] * scale**2).numpy()
        scaled = scaled if scale == 1 else scaled * scale
        self.traversal = ShardTraversal(scaled.contiguous(), squared, self._first(points))

    def add(self, centres: NDArray[np.float32], indices: NDArray[np.int64]) -> None:
        """See `ShardTraversal`."""
        cast(ShardTraversal, self.traversal).add(centres, indices)

    def candidates(self, most: int) -> Candidates:
        """See `ShardTraversal`."""
        return cast(ShardTraversal, self.traversal).candidates(most)

    def radius(self) -> float:
        """See `ShardTraversal`."""
        return cast(ShardTraversal, self.traversal).radius()

    def end_traversal(self) -> None:
        """Let go of the traversal."""
        self.traversal = None

    def own_coreset(self, name: str, count: int) -> tuple[Tensor, Tensor, float]:
        """The farthest-first coreset of these rows alone: global row numbers, rows, and its covering radius."""
        points = self.matrices[name]
        if not len(points):
            return torch.empty(0, dtype=torch.int64), points.clone(), 0.0
        selection = farthest_first(points, min(count, len(points)), row_norms(points))
        return selection.indices + self._first(name), take(points, selection.indices), selection.radius

    # ---- images ------------------------------------------------------------------------------------------------------

    def visit(self, function: Callable[[Visit], Any], images: Sequence[int]) -> list[Any]:
        """function(visit) of some images, by their global numbers."""
        results, starts = [], np.cumsum([0, *(noted.patches for noted in self.noted)])
        for i in images:
            noted = self.noted[i - self.first_image]
            start = int(starts[i - self.first_image])
            vectors = self.matrices[FEATURES][start : start + noted.patches]
            area = self.extractor.area(noted.view)
            results.append(function(Visit(i, noted.ref, noted.view, noted.inspected, vectors, area)))
            release(self.matrices[FEATURES])
        return results

    def fold(
        self, function: Callable[[Iterator[PatchFeatures]], Any], merge: Callable[[Any, Any], Any], leaf: int
    ) -> list[tuple[int, int, Any]]:
        """The parts of the tree of `FeatureStore.fold` that are made of these images alone."""
        tree = Tree(merge)
        for number, items in groupby(self._items(), key=lambda item: item.number // leaf):
            tree.add(number, function(items))
        return tree.parts

    def _items(self) -> Iterator[PatchFeatures]:
        start = 0
        for noted in self.noted:
            vectors, start = self.matrices[FEATURES][start : start + noted.patches], start + noted.patches
            source = Sample(noted.ref.name, {}, noted.ref.angle, noted.ref.group)
            yield PatchFeatures(source, noted.view, noted.ref.grid, vectors, {}, number=noted.number)
            release(self.matrices[FEATURES])

    def each(
        self, sources: list[Sample], function: Callable[[PatchFeatures], Any], digests: bool
    ) -> tuple[list[Any], list[Failure]]:
        """function(features) of images that are not kept, and those that failed."""
        failures = list[Failure]()
        items = self.extractor.stream(sources, lambda name, error: failures.append((name, error)), digests=digests)
        return [function(replace(item, vectors=item.vectors.cpu())) for item in items], failures
