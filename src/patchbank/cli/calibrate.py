"""`patchbank calibrate`: another threshold for a model, from good images and, if there are any, labelled defects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.changing import InPlace, Output, check_destination, save_changed
from patchbank.cli.console import Failures, progress_bars, threshold_words
from patchbank.errors import OptionError


def calibrate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    good: Annotated[Path, typer.Argument(help="Good images that the model has not learned from.")],
    defects: Annotated[
        Path | None, typer.Argument(help="Defective images: the threshold is then chosen between them and the good.")
    ] = None,
    output: Output = None,
    in_place: InPlace = False,
    false_alarm_rate: o.FalseAlarmRate = None,
    group_by: o.GroupBy = None,
    cost_ratio: Annotated[
        float | None, typer.Option(help="What a missed defect costs, in false alarms [default: the highest F1].")
    ] = None,
    weights: o.Weights = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
) -> None:
    """Set the threshold of a model from other good images; the memory and the map stay as they are."""
    check_destination(model, output, in_place, good, *filter(None, [defects]))
    if cost_ratio is not None and defects is None:
        raise OptionError("--cost-ratio prices missed defects: give a folder of defective images as well")
    if false_alarm_rate is not None and defects is not None:
        raise OptionError("--false-alarm-rate sets the threshold by good images alone: leave out the defective ones")
    from patchbank.loading import load

    detector = load(model, weights=weights, device=device, runtime=runtime, threads=threads)
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
