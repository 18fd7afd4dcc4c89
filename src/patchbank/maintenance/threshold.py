"""Another threshold for a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from patchbank.calibration.calibration import Calibration, Row
from patchbank.data import Images, gather
from patchbank.data.content import without_copies
from patchbank.data.groups import labelled, say_near_copies
from patchbank.errors import DatasetError, OnError, OptionError, Progress, notify
from patchbank.features.store import FeatureStore
from patchbank.maintenance.record import named_apart, noted, tell_apart

if TYPE_CHECKING:
    from patchbank.detector import Detector
    from patchbank.fitting import Fitted

_TOO_LOW = "these images score far below the training images, as other pictures of the same parts do"


def calibrate(
    detector: Detector,
    good: Images,
    defects: Images | None,
    groups: Sequence[object] | None,
    cost_ratio: float | None,
    on_error: OnError,
    progress: Progress | None,
) -> Fitted:
    """See `Detector.calibrate`."""
    fitted = detector.require_fitted()
    given = labelled(detector.gather(good, on_error, of="good"), groups, detector.group_by)
    sources, _ = without_copies(given, fitted.inputs.channels)
    unknown, known = tell_apart(fitted, detector.folder, sources)
    if known:
        raise OptionError(
            f"the model has learned from {len(known)} of these {len(sources)} images, such as {known[0].name}: "
            "calibrate with good images that it has not seen"
        )
    rows, seen = list[Row](), FeatureStore()
    for item, p in detector.inspected(named_apart(fitted, detector.folder, unknown), on_error):
        seen.add(item)
        peak = float(np.max(p.map, initial=-np.inf, where=~np.isnan(p.map)))
        rows.append(Row(p.path, p.score, peak, item.source.group))
        if progress:
            progress("good", len(rows), len(unknown))
    if not rows:
        raise DatasetError(f"none of the {len(sources)} images could be read")
    if not any(row.group for row in rows) and (found := seen.find_near_copies()) is not None:
        say_near_copies(found, [row.name for row in rows])
        rows = [row._replace(group=ref.group) for row, ref in zip(rows, seen.refs, strict=True)]
    calibration = replace(Calibration.of_rows(rows, fitted.calibration.false_alarm_rate), how="held-out")
    if calibration.scores_far_below(fitted.calibration):
        calibration = replace(calibration, doubt=_TOO_LOW)
        notify(f"{_TOO_LOW}: calibrate with pictures of parts that the model has not seen")
    if defects is not None:
        scores = [p.score for p in detector.predictions(gather(defects, on_error, of="defects"), on_error)]
        calibration = calibration.choose(scores, cost_ratio)
    how = calibration.chosen_by or "good images given for it"
    training = noted(fitted.training, "calibrated", images=len(rows), how=how)
    return replace(fitted, calibration=calibration, training=training)
