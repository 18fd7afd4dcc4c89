"""Where the scores of good images come from that a detector is calibrated with (docs/calibration.md)."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from patchbank.calibration import CORRECTED, FOLDS, LEAST_CORRECTED, WELL_RESOLVED, Calibration
from patchbank.detectors.changes import Changes
from patchbank.detectors.method import Scored
from patchbank.detectors.work import Work
from patchbank.extraction import Extractor, Progress
from patchbank.features import FeatureSet
from patchbank.images import Source, View


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

    def _leave_one_out(self, features: FeatureSet, progress: Progress | None) -> Calibration:
        """Each training image scored against the memory without its own patches."""
        rows = []
        for i, (image, view, vectors) in enumerate(zip(features.images, features.views, features.walk(), strict=True)):
            if image.angle or not len(vectors):
                continue  # left out with the image it was made of; or gone since it was learned from
            scored = self._score(vectors, image.grid, view, without_image=i)
            rows.append((image.name, scored.score, scored.peak))
            if progress:
                progress("calibration", i + 1, len(features.images))
        return Calibration.of_rows(rows, self.false_alarm_rate)

    def _score_good(self, sources: list[Source], work: Work) -> Calibration:
        """Good images that the memory does not know."""
        rows = []
        given = [source for source in sources if not source.angle]
        for item in self._open().stream(given, work.on_error):
            scored = self._score(self._prepare(item.vectors), item.grid, item.view)
            rows.append((item.source.name, scored.score, scored.peak))
            if work.progress:
                work.progress("calibration", len(rows), len(given))
        return Calibration.of_rows(rows, self.false_alarm_rate)

    def _score_apart(self, readable: list[tuple[Source, int]], parts: list[list[int]], work: Work) -> Calibration:
        """Parts of the images, each scored by a detector that learned from the others."""
        found = Calibration.of_rows([], self.false_alarm_rate)
        for part in parts:
            others = copy.copy(self)
            with work.clock("calibration"):
                others._learn([item for i, item in enumerate(readable) if i not in set(part)], work.inside())
                found = found.joined(others._score_good([readable[i][0] for i in part], work.inside()))
            others._tidy()
        return found

    def _score_without_some(self, features: FeatureSet) -> Calibration:
        """A fifth of the images scored against a memory of the others (`_selects_again`)."""
        raise NotImplementedError

    def _way(self, images: int) -> str:
        """How that many images are calibrated: what was asked for, or what suits their number (docs/calibration.md)."""
        enough = images >= FOLDS * WELL_RESOLVED / self.false_alarm_rate
        if images < 2 or self.calibration not in ("auto", CORRECTED):
            return self.calibration if images >= 2 and self.calibration != "auto" else "leave-one-out"
        if self.calibration == "auto" and enough and self._absorbs():
            return "held-out"
        return CORRECTED if self._leaves_holes() and images >= LEAST_CORRECTED else "leave-one-out"
