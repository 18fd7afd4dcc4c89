"""Patch features of many images, with where each comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.tree import Tree
from patchbank.data import Sample, View
from patchbank.data.groups import FOUND, NearCopies, find_near_copies
from patchbank.features.area import Area
from patchbank.features.image import Noted, PatchFeatures, Visit, describe
from patchbank.features.storage import allocate, release
from patchbank.sample import SampleRef

__all__ = ["FeatureStore", "Noted", "PatchFeatures", "Visit", "describe"]
Result = TypeVar("Result")


@dataclass(eq=False)
class FeatureStore:
    """Patch features of many images. Image i has the rows starts[i] to starts[i + 1].

    They are stored, in `vectors` N×D or in `parts`, or every walk over the images computes them: the first by `learn`,
    which notes the images on its way, later ones by `again`.

    Attributes:
        vectors: N×D, None where they are not stored, or in parts.
        parts: of samples with several channels, N×D_c for each; a scorer that takes them apart works on them in place.
        prepared: whether the scorer has prepared the stored vectors in place.
        refs, views, inspected, numbers: of each image, as in `PatchFeatures`.
        descriptors: of the images that were not turned.
        near_copies: what `find_near_copies` found.
        expected, images: N, and how many images, as forecast.
        chunk: how many rows may be held at a time, where not all may.
    """

    vectors: Tensor | None = None
    parts: list[Tensor] = field(default_factory=list)
    prepared: bool = False
    refs: list[SampleRef] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    inspected: list[NDArray[np.bool_] | None] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    descriptors: list[NDArray[np.float16]] = field(default_factory=list)
    near_copies: NearCopies | None = None
    expected: int = 0
    images: int = 0
    chunk: int = 0
    numbers: list[int] = field(default_factory=list)
    learn: Callable[[], Iterator[PatchFeatures]] | None = None
    again: Callable[[], Iterator[Tensor]] | None = None

    @classmethod
    def allocated(cls, rows: int, widths: Sequence[int], device: torch.device, on_disk: bool) -> FeatureStore:
        """Room for that many rows, of that many dimensions for each channel; on disk in a temporary file each."""
        parts = [allocate(rows, width, device, on_disk) for width in widths]
        return cls(parts[0]) if len(parts) == 1 else cls(parts=parts)

    def take(self, item: PatchFeatures) -> None:
        """Store one image in rows that were allocated."""
        start, end, left = len(self), len(self) + len(item.vectors), 0
        for part in self._all_parts:
            part[start:end] = item.vectors[:, left : left + part.shape[1]]
            left += part.shape[1]
        self.release_pages()
        self.add(item)

    def cut(self) -> None:
        """Let go of rows that stayed empty."""
        if self.vectors is not None:
            self.vectors = self.vectors[: len(self)]
        self.parts = [part[: len(self)] for part in self.parts]

    def part(self, number: int) -> FeatureStore:
        """The features of one channel, of the same images."""
        noted = (self.refs, self.views, self.inspected, self.starts)
        return _Part(
            self.parts[number], [], False, *noted, expected=len(self), images=len(self.refs), numbers=self.numbers
        )

    @property
    def _all_parts(self) -> list[Tensor]:
        return self.parts if self.vectors is None else [self.vectors]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def content(self) -> str:
        """Which images they are of, by their names and the digests of their pixels."""
        return " ".join(f"{ref.name}={ref.digest}" for ref in self.refs)

    @property
    def stored(self) -> Tensor:
        """N×D, where the features were stored."""
        if self.vectors is None:
            raise RuntimeError("the features of this fit were not stored")
        return self.vectors

    def first_walk(self) -> Iterator[PatchFeatures]:
        """The images of a store that does not keep features, noted while they go by."""
        assert self.learn is not None
        for item in self.learn():
            self.add(item)
            yield item

    def walk(self) -> Iterator[Tensor]:
        """P×D of each image in turn; 0×D where it went away since it was learned from."""
        if not self._all_parts:
            assert self.again is not None
            yield from self.again()
            return
        for i in range(len(self.refs)):
            yield self.of_image(i)
            for part in self._all_parts:
                release(part)

    def of_image(self, i: int) -> Tensor:
        """P×D: the patches of image i."""
        rows = slice(self.starts[i], self.starts[i + 1])
        return torch.cat([part[rows] for part in self.parts], 1) if self.parts else self.stored[rows]

    def release_pages(self) -> None:
        """Give back the memory that pages of files take in this process, where they are many."""
        for part in self._all_parts:
            release(part, only_many=True)

    def add(self, item: PatchFeatures) -> None:
        """Note an image whose features come next."""
        self.note(Noted.of(item))

    def note(self, noted: Noted) -> None:
        """As `add`, where the features are elsewhere."""
        self.refs.append(noted.ref)
        if noted.descriptor is not None:
            self.descriptors.append(noted.descriptor)
        self.views.append(noted.view)
        self.inspected.append(noted.inspected)
        self.starts.append(self.starts[-1] + noted.patches)
        self.numbers.append(noted.number)

    # ---- what is done with each image, where its features are --------------------------------------------------------

    def visit(
        self,
        function: Callable[[Visit], Result],
        area: Callable[[View], Area | None],
        images: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """function(visit) of all images, or of some, in order, each with its number; `area`: what of a view is
        inspected."""
        some = enumerate(self.walk()) if images is None else ((i, self.of_image(i)) for i in images)
        for i, vectors in some:
            view = self.views[i]
            yield i, function(Visit(i, self.refs[i], view, self.inspected[i], vectors, area(view)))

    def fold(
        self,
        function: Callable[[Iterator[PatchFeatures]], Result],
        merge: Callable[[Result, Result], Result],
        leaf: int,
    ) -> Result:
        """Learn from images that are walked over once: function(images) of each `leaf` that follow each other by their
        numbers, merged in a tree of fixed shape."""
        tree = Tree(merge)
        for number, items in groupby(self.first_walk(), key=lambda item: item.number // leaf):
            tree.add(number, function(items))
        return tree.total()

    def selected(self, sources: Sequence[Sample]) -> FeatureStore:
        """The stored features of some of the images, under the labels that their sources have now: a copy, or of all
        images in their order the same tensors."""
        places = {(ref.name, ref.angle): i for i, ref in enumerate(self.refs)}
        labels = {places[key]: source.group for source in sources if (key := (source.name, source.angle)) in places}
        refs = [replace(self.refs[i], group=group) for i, group in labels.items()]
        noted: dict[str, Any] = {
            "refs": refs, "views": [self.views[i] for i in labels], "inspected": [self.inspected[i] for i in labels],
            "starts": np.cumsum([0, *(self.starts[i + 1] - self.starts[i] for i in labels)]).tolist(),
        }  # fmt: skip
        parts = self._all_parts
        if list(labels) != list(range(len(self.refs))):
            parts = [torch.cat([part[self.starts[i] : self.starts[i + 1]] for i in labels]) for part in parts]
        return FeatureStore(parts[0], **noted) if self.vectors is not None else FeatureStore(parts=parts, **noted)

    # ---- groups ------------------------------------------------------------------------------------------------------

    def find_near_copies(self) -> NearCopies | None:
        """Look for images that show one part, and label these after the first of them."""
        self.near_copies = found = find_near_copies(self.descriptors)
        if found is not None:
            upright = [ref.name for ref in self.refs if not ref.angle]
            first: dict[int, str] = {}
            for label, name in zip(found.labels, upright, strict=True):
                first.setdefault(label, name)
            sizes, number = Counter(found.labels), -1
            for i, ref in enumerate(self.refs):
                number += not ref.angle  # a turned image has the label of the one before it
                label = found.labels[number]
                self.refs[i] = replace(ref, group=f"{FOUND}{first[label]}" if sizes[label] > 1 else "")
        return found

    def labelled(self, readable: Sequence[tuple[Sample, int]]) -> list[tuple[Sample, int]]:
        """Sources of a fit with the labels that were found."""
        groups = {ref.name: ref.group for ref in self.refs}
        return [(replace(source, group=groups.get(source.name, "")), count) for source, count in readable]

    # ---- provenance --------------------------------------------------------------------------------------------------

    def provenance(self, rows: Tensor) -> NDArray[np.int32]:
        """M row numbers → M×3: image, grid row, grid column."""
        numbers = rows.cpu().numpy()
        starts = np.asarray(self.starts)
        image = np.searchsorted(starts, numbers, side="right") - 1
        cells = numbers - starts[image]
        for i in np.unique(image):
            if (inspected := self.inspected[i]) is not None and self._is_compact(i):
                cells[image == i] = np.flatnonzero(inspected)[cells[image == i]]
        columns = np.asarray([ref.grid[1] for ref in self.refs])[image]
        row, column = np.divmod(cells, columns)
        return np.stack([image, row, column], axis=1).astype(np.int32)

    def _is_compact(self, i: int) -> bool:
        rows, columns = self.refs[i].grid
        return self.starts[i + 1] - self.starts[i] < rows * columns


class _Part(FeatureStore):
    """The features of one channel. Its images are noted already."""

    def first_walk(self) -> Iterator[PatchFeatures]:
        for i, (ref, view) in enumerate(zip(self.refs, self.views, strict=True)):
            source, number = Sample(ref.name, {}, ref.angle, ref.group), self.numbers[i] if self.numbers else -1
            yield PatchFeatures(source, view, ref.grid, self.of_image(i), {}, number=number)
