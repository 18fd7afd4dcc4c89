"""What can be done to a fitted model: another threshold, a bank that grows or shrinks, and the record of it."""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Self

from patchbank.calibration import Calibration
from patchbank.detectors.method import Method
from patchbank.errors import DatasetError, OptionError
from patchbank.extraction import OnError, Progress, warn
from patchbank.images import Images, Source, gather
from patchbank.prediction import Prediction


@dataclass(kw_only=True, eq=False)
class Changes(Method):
    """A method that has been fitted."""

    calibration_: Calibration = dataclasses.field(init=False, repr=False)
    training_: dict[str, Any] = dataclasses.field(init=False, repr=False)

    @abstractmethod
    def _predictions(self, sources: Iterable[Source], on_error: OnError) -> Iterator[Prediction]: ...

    def calibrate(
        self,
        good: Images,
        defects: Images | None = None,
        *,
        cost_ratio: float | None = None,
        on_error: OnError = warn,
        progress: Progress | None = None,
    ) -> Self:
        """Learn the threshold anew from good images that the memory does not know; the memory and the map stay.

        With labelled `defects` the threshold on the image score is the one with the highest F1, or, where a missed
        defect costs as much as `cost_ratio` false alarms, with the least cost. Raises `OptionError` for images that the
        model was learned from.
        """
        sources = gather(good, on_error, of="good")
        unknown = self._unknown(sources)
        if len(unknown) < len(sources):
            raise OptionError(
                f"the model has learned from {len(sources) - len(unknown)} of these {len(sources)} images: calibrate "
                "with good images that it has not seen"
            )
        rows = []
        for p in self._predictions(sources, on_error):
            rows.append((p.path, p.score, float(np.max(p.map, initial=-np.inf, where=~np.isnan(p.map)))))
            if progress:
                progress("good", len(rows), len(sources))
        if not rows:
            raise DatasetError(f"none of the {len(sources)} images could be read")
        rate = self.calibration_.false_alarm_rate
        calibration = dataclasses.replace(Calibration.of_rows(rows, rate), how="held-out")
        if defects is not None:
            found = [p.score for p in self._predictions(gather(defects, on_error, of="defects"), on_error)]
            calibration = calibration.choose(found, cost_ratio)
        self.calibration_ = calibration
        self._note("calibrated", images=len(rows), how=calibration.chosen_by or "good images given for it")
        return self

    def add(self, images: Images, *, on_error: OnError = warn, progress: Progress | None = None) -> Self:
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

    def _known(self) -> set[str]:
        """Names of images that were learned from, as far as the model remembers them."""
        return set() if self.calibration_.how == "held-out" else set(self.calibration_.images)

    def _unknown(self, sources: list[Source]) -> list[Source]:
        """Those that were not learned from, as far as paths tell."""
        known = {os.path.normpath(os.path.join(self.folder, name)) for name in self._known()}
        return [s for s in sources if not isinstance(s.data, Path) or os.path.abspath(s.name) not in known]

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
