"""Where the scores of good images come from that a detector is calibrated with (docs/calibration.md)."""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from patchbank.calibration.calibration import (
    CORRECTED,
    FOLDS,
    LEAST_CORRECTED,
    MANY_PICTURES,
    WELL_RESOLVED,
    Calibration,
    Row,
    folds_of,
)
from patchbank.data import Source, View
from patchbank.data.groups import say_near_copies
from patchbank.features.extractor import Extractor, Progress
from patchbank.features.store import FeatureSet
from patchbank.memory.bank import TrainingImage
from patchbank.methods.changes import Changes
from patchbank.methods.method import Scored
from patchbank.methods.work import Work


@dataclass(kw_only=True, eq=False)
class Calibrating(Changes):
    """A method that can be scored on images of the fit."""

    @abstractmethod
    def _open(self) -> Extractor: ...

    @abstractmethod
    def _learn(self, readable: list[tuple[Source, int]], work: Work) -> FeatureSet: ...

    @abstractmethod
    def _score(
        self, vectors: Tensor, grid: tuple[int, int], view: View, without_image: int | None = None
    ) -> Scored: ...

    def _learn_and_calibrate(
        self, readable: list[tuple[Source, int]], work: Work
    ) -> tuple[FeatureSet, list[TrainingImage], Calibration]:
        """The features and the calibration of a fit, and the images that were held out of it. Where near-copies are
        found only when the features are there, and the folds tore them apart, all of it is done again."""
        groups = [source.group for source, _ in readable]
        turned = [bool(source.angle) for source, _ in readable]
        folds = folds_of(turned, self.seed, groups)
        parts = len({group or i for i, group in enumerate(groups) if not turned[i]})
        way = self._way(parts, turned.count(False))
        fitted_anew = {"k-fold": folds, CORRECTED: [] if self._selects_again() else folds[:1]}.get(way, [])
        apart = self._score_apart(readable, fitted_anew, work)
        held_out = set(folds[0]) if way == "held-out" else set()
        self._reserved = 1 / FOLDS if held_out and self._absorbs() else 0.0
        features = self._learn([item for i, item in enumerate(readable) if i not in held_out], work)
        if (found := features.near_copies) is not None:
            say_near_copies(found, [image.name for image in features.images if not image.angle])
            new = self._way(found.groups, len(found.labels))
            if held_out or fitted_anew or new == "k-fold":
                for item in self._open().stream([readable[i][0] for i in sorted(held_out)], work.inside().on_error):
                    features.add(item)
                features.find_near_copies()
                work.finds_groups = False
                return self._learn_and_calibrate(features.labelled(readable), work)
            way = new
        held = FeatureSet(None)
        with work.clock("calibration"):
            if way == "k-fold":
                calibration = apart
            elif way == "held-out":
                sources = [readable[i][0] for i in folds[0]]
                calibration, held = self._score_good(sources, work)
                if self._absorbs():
                    self._absorb(sources, work)
            else:
                calibration = self._leave_one_out(features, work.progress)
                if way == CORRECTED:
                    again = self._selects_again()
                    calibration = calibration.corrected(self._score_without_some(features) if again else apart)
        return features, held.images, dataclasses.replace(calibration, how=way)

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """Each training image scored against the memory without its own patches."""
        rows = []
        for i, (image, view, vectors) in enumerate(zip(features.images, features.views, features.walk(), strict=True)):
            if image.angle or not len(vectors):
                continue  # left out with the image it was made of; or gone since it was learned from
            scored = self._score(vectors, image.grid, view, without_image=i)
            rows.append(Row(image.name, scored.score, scored.peak, image.group))
            if progress:
                progress("calibration", i + 1, len(features.images))
        return Calibration.of_rows(rows, self.false_alarm_rate)

    def _score_good(self, sources: list[Source], work: Work) -> tuple[Calibration, FeatureSet]:
        """Good images that the memory does not know; and which they are, without their features."""
        rows, scored_images = [], FeatureSet(None)
        given = [source for source in sources if not source.angle]
        for item in self._open().stream(given, work.on_error, digests=True):
            scored_images.add(item)
            scored = self._score(self._prepare(item.vectors), item.grid, item.view)
            rows.append(Row(item.source.name, scored.score, scored.peak, item.source.group))
            if work.progress:
                work.progress("calibration", len(rows), len(given))
        return Calibration.of_rows(rows, self.false_alarm_rate), scored_images

    def _score_apart(self, readable: list[tuple[Source, int]], parts: list[list[int]], work: Work) -> Calibration:
        """Parts of the images, each scored by a detector that learned from the others."""
        found = Calibration.of_rows([], self.false_alarm_rate)
        for part in parts:
            others = copy.copy(self)
            with work.clock("calibration"):
                others._learn([item for i, item in enumerate(readable) if i not in set(part)], work.inside())
                found = found.joined(others._score_good([readable[i][0] for i in part], work.inside())[0])
            others._tidy()
        return found

    def _score_without_some(self, features: FeatureSet) -> Calibration:
        """A fifth of the images scored against a memory of the others (`_selects_again`)."""
        raise NotImplementedError

    def _way(self, parts: int, images: int | None = None) -> str:
        """How images of that many parts are calibrated: what was asked for, or what suits their number
        (docs/calibration.md). `images`: more than parts where some have several, by default one of each."""
        images = parts if images is None else images
        enough = parts >= FOLDS * WELL_RESOLVED / self.false_alarm_rate
        if parts < 2:
            return "leave-one-out"
        if parts < images and not self.leaves_parts_out and self.calibration != "held-out":
            return "k-fold"  # its leave-one-out would keep the other images of the part
        if self.calibration not in ("auto", CORRECTED):
            return self.calibration
        if self.calibration == "auto" and enough and self._absorbs():
            return "held-out"
        if self.calibration == "auto" and parts <= MANY_PICTURES * images:
            return "leave-one-out"  # the correction overshoots where twins fill the bank
        return CORRECTED if self._leaves_holes() and parts >= LEAST_CORRECTED else "leave-one-out"
