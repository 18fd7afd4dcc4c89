"""`patchbank calibrate`: another threshold for a model, from good images and, if there are any, labelled defects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.changing import InPlace, Output, check_destination, save_changed
from patchbank.cli.console import Failures, progress_bars, threshold_words
from patchbank.cli.opening import open_model
from patchbank.errors import OptionError


def calibrate(
    model: o.Model,
    good: Annotated[Path, typer.Argument(help="Good images that the model has not learned from.")],
    machine: o.Machine,
    defects: Annotated[
        Path | None, typer.Option(help="A folder of defective images: choose the threshold between good and defective.")
    ] = None,
    output: Output = None,
    in_place: InPlace = False,
    false_alarm_rate: o.FalseAlarmRate = None,
    group_by: o.GroupBy = None,
    cost_ratio: Annotated[
        float | None, typer.Option(help="Cost of a missed defect, in false alarms [default: maximise F1].")
    ] = None,
    weights: o.Weights = None,
) -> None:
    """Set the threshold of a model from other good images; the memory and the map stay as they are."""
    check_destination(model, output, in_place, good, *filter(None, [defects]))
    if cost_ratio is not None and defects is None:
        raise OptionError("--cost-ratio prices missed defects: give a folder of defective images with --defects")
    if false_alarm_rate is not None and defects is not None:
        raise OptionError("--false-alarm-rate sets the threshold by good images alone: leave out --defects")

    detector = open_model(model, weights, machine)
    if group_by is not None:
        detector.group_by = group_by
    before = detector.calibration_.threshold
    if false_alarm_rate is not None:
        detector.calibration_ = detector.calibration_.at_rate(false_alarm_rate)
    failures = Failures()
    with progress_bars() as progress:
        detector.calibrate(good, defects, cost_ratio=cost_ratio, on_error=failures, progress=progress)
    said = f"{threshold_words(detector.calibration_)}; it was {before:.4g}"
    save_changed(detector, model, output, in_place, said)
    raise typer.Exit(failures.exit_code)
