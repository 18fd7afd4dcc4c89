"""`patchbank predict`: a model and images in; scores, verdicts and pictures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.cluster import inspecting
from patchbank.cli.console import Failures, counted, progress_bars, say
from patchbank.cli.interrupt import calm
from patchbank.cli.opening import open_model, say_if_undecided
from patchbank.cli.outputs import check_folder, result_names
from patchbank.cli.results import KeptRun, PredictionFolder, check_has_points, identity_of_run
from patchbank.cli.values import parse_share
from patchbank.errors import OptionError


def predict(
    model: o.Model,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    machine: o.Machine,
    cluster: o.Cluster,
    output_dir: Annotated[Path | None, typer.Option("-O", "--output-dir", help="Folder for the results.")] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Also write each map: a float32 TIFF of the size of the image.")
    ] = False,
    ply: Annotated[
        bool, typer.Option("--ply", help="Also write the points of each part as a PLY, coloured by the map.")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="Draw a picture for each image.")] = True,
    threshold: o.Threshold = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(
            parser=parse_share, metavar="SHARE", help="Reject at this rate of false alarms instead of the model's."
        ),
    ] = None,
    false_discovery_rate: Annotated[
        float | None,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Decide on all images together: fraction of the rejected that may be good (Benjamini-Hochberg).",
        ),
    ] = None,
    roi: o.Roi = None,
    weights: o.Weights = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows that an interrupted run wrote into the same folder.")
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Inspect images: scores and verdicts as CSV or JSON, and a picture of each."""
    if output_dir is None and not as_json:
        raise OptionError("give a folder for the results with -O OUT, or print them with --json")
    for option, is_given in (("--maps", maps), ("--ply", ply)):
        if output_dir is None and is_given:
            raise OptionError(f"{option} needs a folder to write to: give one with -O OUT")
    cluster.check()
    if output_dir is not None:
        check_folder(output_dir)
    elif resume:
        raise OptionError("--resume needs the folder of the run that was cut off: give it with -O OUT")
    if sum(value is not None for value in (threshold, false_alarm_rate, false_discovery_rate)) > 1:
        raise OptionError("give only one of --threshold, --false-alarm-rate and --false-discovery-rate")
    from patchbank.calibration.conformal import check_rate
    from patchbank.data import gather
    from patchbank.prediction import finite

    if false_discovery_rate is not None:
        check_rate(false_discovery_rate, "--false-discovery-rate")
    failures = Failures()
    sources = gather(images, failures)
    detector = open_model(model, weights, machine, roi)
    if ply:
        check_has_points(model, detector, sources)
    if false_alarm_rate is not None:
        detector.calibration_ = detector.calibration_.at_rate(false_alarm_rate)
    if false_discovery_rate is not None:
        with inspecting(detector, cluster, machine) as inspect:
            scores = [p.score for _, p in inspect(sources, lambda name, error: None)]
        threshold = detector.calibration_.batch_threshold(scores, false_discovery_rate)
    undecided = say_if_undecided(model, detector, threshold)
    count = rejected = 0
    names = result_names(images, [source.name for source in sources])
    run = KeptRun(identity_of_run(model, threshold, false_alarm_rate, roi), resume)
    results = (
        None
        if output_dir is None
        else PredictionFolder(output_dir, failures, detector.inputs_, overlays=overlays, maps=maps, ply=ply, kept=run)
    )
    if results is not None and results.kept:
        count, rejected = len(results.kept), sum(row["is_anomalous"] == "True" for row in results.kept.values())
        sources = [source for source in sources if source.name not in results.kept]
    try:
        with progress_bars() as progress, inspecting(detector, cluster, machine) as inspect:
            for source, prediction in inspect(sources, failures):  # files may have gone since
                if threshold is not None:
                    prediction = prediction.at_threshold(threshold)
                row = finite(prediction.to_dict())
                count, rejected = count + 1, rejected + prediction.is_anomalous
                if results is not None:
                    results.add(row, source, prediction, names[prediction.path])
                if as_json and not say(json.dumps(row)) and results is None:
                    return  # nobody reads it any more
                if progress:
                    progress("images", count, len(names))
    except BaseException:  # also Ctrl-C: what was found so far is worth something
        calm()
        if results is not None:
            results.finish(complete=False)
            say(f"ended after {count} of {len(names)} images; what was found so far is in {output_dir}", err=True)
        raise
    if results is not None:
        results.finish()
        if not as_json:
            decided = "none decided" if undecided else f"{rejected} rejected"
            say(f"{counted(count, 'image')} inspected, {decided}; results in {output_dir}")
    raise typer.Exit(failures.exit_code if count else 2)
