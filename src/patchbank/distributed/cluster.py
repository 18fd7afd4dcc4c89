"""Workers that fit together: how images are dealt out, and what a fit asks of them (`patchbank.fitting.Cluster`)."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from patchbank._system.files import reason, replacing, spelled
from patchbank.calibration.monitor import FitMonitor
from patchbank.calibration.schemes import Readable
from patchbank.data import Sample
from patchbank.distributed.crew import Crew
from patchbank.distributed.rows import Selections
from patchbank.distributed.shard import Call
from patchbank.distributed.store import ShardedStore
from patchbank.errors import DatasetError, ModelFileError, OnError, OptionError, notify
from patchbank.features.extractor import Extractor, numbered
from patchbank.features.image import Noted, PatchFeatures
from patchbank.features.planning import Plan
from patchbank.features.store import FeatureStore
from patchbank.memory.moments import LEAF
from patchbank.scorer import Scorer
from patchbank.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from patchbank.detector import Detector

T = TypeVar("T")
_AT_A_TIME = 8  # images of one call
_SAVE_EVERY = 2.0  # seconds


@dataclass
class KeptSelections:
    """Selections that are not complete, on the driver's disk: the numbers of the selected rows, one file for each
    selection of a fit."""

    checkpoints: Checkpoints
    content: str = ""
    number: int = 0

    def begin(self, count: int) -> tuple[NDArray[np.int64], Callable[[NDArray[np.int64]], None] | None]:
        """See `rows.Kept`.

        Raises:
            ModelFileError: what is kept is damaged.
        """
        path = self.checkpoints.path(f"{self.content} selection {self.number} of {count}")
        self.number += 1
        saved = time.monotonic()

        def save(indices: NDArray[np.int64]) -> None:
            nonlocal saved
            if time.monotonic() - saved < _SAVE_EVERY:
                return
            saved = time.monotonic()
            try:
                with replacing(path) as temporary, spelled(temporary) as name:
                    save_file({"indices": indices}, name)
            except (OSError, SafetensorError) as error:
                notify(f"{path}: cannot be written ({reason(error)}): the fit goes on, and could not be resumed")

        if not self.checkpoints.resume or not path.exists():
            return np.empty(0, np.int64), save
        try:
            with spelled(path) as name, safe_open(name, framework="np") as file:
                indices = np.asarray(file.get_tensor("indices"), dtype=np.int64)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ModelFileError(
                f"{path}: is no intact checkpoint of this selection: remove it, or leave out --resume"
            ) from error
        self.checkpoints.found += 1
        return indices, save


@dataclass
class ClusterFit:
    """A fit that several workers share. See `patchbank.fitting.Cluster`.

    Attributes:
        crew: the workers.
        budget: bytes of memory of each worker; None for its part of what is free on its machine.
        neighbours: how many workers are on the machine of each worker.
        selections: what the selections of the fit sent and received.
    """

    crew: Crew
    neighbours: Sequence[int]
    budget: int | None = None
    selections: Selections = field(default_factory=Selections)
    _opened: tuple[Any, Any] | None = None
    _extractor: Extractor | None = None

    def begin(self, detector: Detector, extractor: Extractor, checkpoints: Checkpoints | None) -> None:
        """Make the workers ready. Raises `OptionError` for a detector that cannot be fitted in shards."""
        check(detector, extractor)
        blank = copy.copy(detector)
        blank.fitted, blank.feature_cache, blank._opened = None, None, None
        self.budget = detector.memory_budget
        self._extractor = extractor
        self._opened = self.crew.share(blank), self.crew.share(extractor.inputs)
        self.selections = Selections(KeptSelections(checkpoints)) if checkpoints else Selections()
        self._open()

    def _open(self) -> None:
        self.crew.forget_all()
        assert self._opened is not None
        self.crew.tell("open", [self._opened] * len(self.crew))

    def features(self, scorer: Scorer, readable: Readable, monitor: FitMonitor) -> FeatureStore:
        """Features of images, dealt out in their order."""
        assert self._extractor is not None
        with monitor.clock("features"):
            sources, patches = [source for source, _ in readable], [count for _, count in readable]
            numbers, width = numbered(sources), self._extractor.dimension
            parts = deal(patches, numbers, len(self.crew), scorer.folds_images)
            self._open()
            where = self._allocate(parts, patches, width)
            monitor.tell(Plan("cluster", 0, self._plan_words(patches, width, parts, where)))
            noted = self._collect(sources, numbers, parts, monitor)
            store = ShardedStore.of(self.crew, noted, width, self.selections)
            store.expected, store.images = sum(patches), len(sources)
            if isinstance(self.selections.kept, KeptSelections):
                self.selections.kept.content = store.content
            if monitor.finds_groups:
                store.find_near_copies()
        return store

    def _allocate(self, parts: Sequence[slice], patches: Sequence[int], width: int) -> list[str]:
        rows = [sum(patches[part]) for part in parts]
        firsts = np.cumsum([0, *rows])
        args = [(rows[w], width, int(firsts[w]), self.budget, self.neighbours[w]) for w in range(len(parts))]
        return self.crew.tell("allocate", args)

    def _plan_words(self, patches: Sequence[int], width: int, parts: Sequence[slice], where: Sequence[str]) -> str:
        share = max(4 * width * sum(patches[part]) for part in parts) / 1e6
        disk = f", {where.count('disk')} of them on their disk" if "disk" in where else ""
        return (
            f"{len(patches)} images, {sum(patches)} patches × {width}: at most {share:.0f} MB with each of "
            f"{len(parts)} workers{disk}"
        )

    def _collect(
        self, sources: list[Sample], numbers: list[int], parts: Sequence[slice], monitor: FitMonitor
    ) -> list[list[Noted]]:
        queues, done = [], 0
        for part in parts:
            starts = range(part.start, part.stop, _AT_A_TIME)
            some = [slice(at, min(at + _AT_A_TIME, part.stop)) for at in starts]
            queues.append([[Call("collect", (sources[each], numbers[each]), True)] for each in some])
        noted: list[list[Noted]] = [[] for _ in parts]
        failed: list[list[tuple[str, Exception]]] = [[] for _ in parts]
        for worker, _, (found, failures) in self.crew.spread(queues):
            noted[worker] += found
            failed[worker] += failures
            done += len(found) + len(failures)
            if monitor.progress:
                monitor.progress("features", min(done, len(sources)), len(sources))
        for name, error in (failure for of_worker in failed for failure in of_worker):
            monitor.on_error(name, error)
        if not any(noted):
            raise DatasetError(f"none of the {len(sources)} images could be read")
        return noted

    def each(
        self, sources: list[Sample], function: Callable[[PatchFeatures], T], on_error: OnError, digests: bool = True
    ) -> Iterator[T]:
        """function(features) of each image that can be read, in order; the features stay with the workers."""
        shared = self.crew.share(function)
        chunks = [sources[at : at + _AT_A_TIME] for at in range(0, len(sources), _AT_A_TIME)]
        size = len(self.crew)
        queues = [
            [[Call("each", (chunk, shared, digests))] for chunk in chunks[worker::size]] for worker in range(size)
        ]
        found, following = {}, 0
        for worker, number, result in self.crew.spread(queues):
            found[number * size + worker] = result
            while following in found:
                results, failures = found.pop(following)
                following += 1
                for name, error in failures:
                    on_error(name, error)
                yield from results


def deal(patches: Sequence[int], numbers: Sequence[int], workers: int, whole_leaves: bool) -> list[slice]:
    """Images in their order for each worker, as many patches for each; an image and its turned copies stay together,
    and with `whole_leaves` so do those of one leaf of `FeatureStore.fold`."""
    leaf = LEAF if whole_leaves else 1
    ends = np.cumsum(patches)
    cuts = [0]
    for worker in range(1, workers):
        cut = int(np.searchsorted(ends, ends[-1] * worker / workers))
        while cut < len(patches) and cut > 0 and numbers[cut] // leaf == numbers[cut - 1] // leaf:
            cut += 1
        cuts.append(max(cut, cuts[-1]))
    cuts.append(len(patches))
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def check(detector: Detector, extractor: Extractor) -> None:
    """Raise `OptionError` for a detector that several workers cannot fit."""
    if not vars(detector.scorer_class).get("learns_in_shards", False):
        raise OptionError(f"{detector.method} cannot be fitted on a cluster: leave out --ray")
    if extractor.apart:
        raise OptionError("channels that are fused apart cannot be fitted on a cluster: use --fusion concat")
    if getattr(detector, "sampler", None) == "proxies":
        raise OptionError("sampler=proxies cannot be fitted on a cluster: use greedy, approximate or random")
