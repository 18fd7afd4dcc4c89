"""What can be done to a fitted model: another threshold, a bank that grows or shrinks, and the record of it."""

from __future__ import annotations

import dataclasses
import itertools
import os
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from patchbank.calibration.calibration import Calibration, Row
from patchbank.data import Images, Source, gather, prefetch
from patchbank.data.content import digest_of, without_copies
from patchbank.data.groups import check_labels, labels_by, say_near_copies
from patchbank.data.values import ValueRange
from patchbank.errors import DatasetError, OptionError, notify
from patchbank.features.extractor import OnError, Progress, warn
from patchbank.features.store import FeatureSet, ImageFeatures
from patchbank.methods.method import Method
from patchbank.prediction import Prediction

_TOO_LOW = "these images score far below the training images, as other pictures of the same parts do"


@dataclass(kw_only=True, eq=False)
class Changes(Method):
    """A method that has been fitted."""

    calibration_: Calibration = dataclasses.field(init=False, repr=False)
    values_: ValueRange = dataclasses.field(init=False, repr=False, default_factory=ValueRange)
    training_: dict[str, Any] = dataclasses.field(init=False, repr=False)

    @abstractmethod
    def _predictions(self, sources: Iterable[Source], on_error: OnError) -> Iterator[Prediction]: ...

    @abstractmethod
    def _inspected(
        self, sources: Iterable[Source], on_error: OnError, *, digests: bool = False
    ) -> Iterator[tuple[ImageFeatures, Prediction]]: ...

    def _labelled(self, sources: list[Source], groups: Sequence[object] | None) -> list[Source]:
        """The sources with the labels of their parts, as far as these are given."""
        if any(source.group for source in sources):  # labelled already
            return sources
        if groups is not None:
            labels = ["" if label is None else str(label) for label in groups]
            if len(labels) != len(sources):
                raise OptionError(f"groups has {len(labels)} labels for {len(sources)} images: give one for each")
            check_labels(labels, "groups")
        elif self.group_by is not None:
            labels = labels_by(self.group_by, sources)
        else:
            return sources
        return [replace(source, group=label) for source, label in zip(sources, labels, strict=True)]

    def calibrate(
        self,
        good: Images,
        defects: Images | None = None,
        *,
        groups: Sequence[object] | None = None,
        cost_ratio: float | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the threshold anew from good images that the memory does not know; the memory and the map stay.

        The images must be a fair sample of good parts, not chosen for their scores. `groups`: a label for each that
        says which part it shows (by default by the option group_by, or where near-copies are found).

        With labelled `defects` the threshold on the image score is the one with the highest F1, or, where a missed
        defect costs as much as `cost_ratio` false alarms, with the least cost. Raises `OptionError` for images that the
        model was learned from.
        """
        sources, _ = without_copies(self._labelled(gather(good, on_error, of="good"), groups))
        unknown, known = self._unknown(sources)
        if known:
            raise OptionError(
                f"the model has learned from {len(known)} of these {len(sources)} images, such as {known[0].name}: "
                "calibrate with good images that it has not seen"
            )
        rows, seen = [], FeatureSet(None)
        for item, p in self._inspected(self._named_apart(unknown), on_error):
            seen.add(item)
            peak = float(np.max(p.map, initial=-np.inf, where=~np.isnan(p.map)))
            rows.append(Row(p.path, p.score, peak, item.source.group))
            if progress:
                progress("good", len(rows), len(unknown))
        if not rows:
            raise DatasetError(f"none of the {len(sources)} images could be read")
        if not any(row.group for row in rows) and (found := seen.find_near_copies()) is not None:
            say_near_copies(found, [row.name for row in rows])
            rows = [row._replace(group=image.group) for row, image in zip(rows, seen.images, strict=True)]
        rate = self.calibration_.false_alarm_rate
        calibration = dataclasses.replace(Calibration.of_rows(rows, rate), how="held-out")
        if calibration.scores_far_below(self.calibration_):
            calibration = dataclasses.replace(calibration, doubt=_TOO_LOW)
            notify(f"{_TOO_LOW}: calibrate with pictures of parts that the model has not seen")
        if defects is not None:
            scores = [p.score for p in self._predictions(gather(defects, on_error, of="defects"), on_error)]
            calibration = calibration.choose(scores, cost_ratio)
        self.calibration_ = calibration
        self._note("calibrated", images=len(rows), how=calibration.chosen_by or "good images given for it")
        return self

    def add(
        self,
        images: Images,
        *,
        representative: bool = False,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Take further good images into the memory, see `MemoryBankDetector`."""
        raise OptionError(self._no_bank())

    def forget(self, names: str | Sequence[str]) -> Self:
        """Take images out of the memory, see `MemoryBankDetector`."""
        raise OptionError(self._no_bank())

    def merge(self, other: Changes, bank_size: int | None = None) -> Self:
        """Take the memory of another model in, see `MemoryBankDetector`."""
        raise OptionError(self._no_bank())

    def _no_bank(self) -> str:
        return f"{self.method} has no bank that could grow or shrink: fit a new model (patchcore and lmf have one)"

    def _learned_from(self) -> list[tuple[str, str]]:
        """Name and pixel digest of each image that was learned from; in files up to version 2 the names that the
        calibration has, without digests."""
        if "learned_from" in self.training_:
            return [(name, digest) for name, digest in self.training_["learned_from"]]
        return [] if self.calibration_.how == "held-out" else [(name, "") for name in self.calibration_.images]

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the pixels of each training image, by name (`content.pixel_digest`)."""
        return {name: digest for name, digest in self._learned_from() if digest}

    def _known(self) -> set[str]:
        """Names of images that were learned from."""
        return {name for name, _ in self._learned_from()}

    def _unknown(self, sources: list[Source]) -> tuple[list[Source], list[Source]]:
        """The images that the model has not learned from, and those that it has: known by their pixels, or by their
        paths where the model has no digests."""
        digests = {digest for _, digest in self._learned_from() if digest}
        paths = {os.path.normpath(os.path.join(self.folder, n)) for n, digest in self._learned_from() if not digest}
        unknown: list[Source] = []
        known: list[Source] = []
        for source, digest in zip(sources, prefetch(partial(digest_of, values=self.values_), sources), strict=True):
            old = isinstance(source.data, Path) and os.path.abspath(source.name) in paths
            (known if digest in digests or old else unknown).append(source)
        return unknown, known

    def _named_apart(self, sources: list[Source]) -> list[Source]:
        """The sources under names that no image of the model has: absolute where relative ones mean another folder."""
        taken, named = self._known(), []
        for source in sources:
            name = source.name
            if isinstance(source.data, Path) and self.folder != os.getcwd():
                name = os.path.abspath(name)
            named.append(replace(source, name=unique(name, taken)))
            taken.add(named[-1].name)
        return named

    @property
    def folder(self) -> str:
        """What relative names of training images are relative to."""
        folder: str = self.training_.get("folder", os.getcwd())
        return folder

    def _note(self, what: str, **facts: Any) -> None:
        """An entry of the model's history."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.training_ = {**self.training_, "history": [*self.history, {"when": when, "what": what, **facts}]}

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done to the model since it was fitted, oldest first, with times in UTC."""
        history: list[dict[str, Any]] = self.training_.get("history", [])
        return history


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    numbered = (f"{name} ({i})" for i in itertools.count(2))
    return name if name not in taken else next(n for n in numbered if n not in taken)
