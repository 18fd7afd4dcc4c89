"""`patchbank predict`: a model and images in; scores, verdicts and pictures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars
from patchbank.errors import OptionError
from patchbank.files import replacing, write_csv

if TYPE_CHECKING:
    from patchbank.images import ValueRange
    from patchbank.prediction import Prediction

COLUMNS = ("path", "score", "p_value", "threshold", "is_anomalous", "regions")


def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results.")] = None,
    maps: Annotated[bool, typer.Option("--maps", help="Also write each map, float32 TIFF in input pixels.")] = False,
    overlays: Annotated[bool, typer.Option(help="Draw a picture for each image.")] = True,
    threshold: Annotated[float | None, typer.Option(help="Reject above this score instead.")] = None,
    false_alarm_rate: Annotated[float | None, typer.Option(help="Reject at this rate instead of the model's.")] = None,
    false_discovery_rate: Annotated[
        float | None,
        typer.Option(help="Decide on all images together: so many of the rejected may be good (Benjamini-Hochberg)."),
    ] = None,
    roi: o.Roi = None,
    weights: o.Weights = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
    as_json: o.Json = False,
) -> None:
    """Inspect images: scores and verdicts as CSV or JSON, and a picture of each."""
    if output is None and not as_json:
        raise OptionError("give a folder for the results with -o OUT, or print them with --json")
    if output is None and maps:
        raise OptionError("--maps needs a folder to write to: give one with -o OUT")
    if output is not None and output.is_file():
        raise OptionError(f"{output}: is a file; -o takes a folder for the results")
    if sum(value is not None for value in (threshold, false_alarm_rate, false_discovery_rate)) > 1:
        raise OptionError("give only one of --threshold, --false-alarm-rate and --false-discovery-rate")
    from patchbank.conformal import check_rate
    from patchbank.images import gather
    from patchbank.modelfile import load
    from patchbank.prediction import finite

    if false_discovery_rate is not None:
        check_rate(false_discovery_rate, "--false-discovery-rate")
    failures = Failures()
    sources = gather(images, failures)
    detector = load(model, weights=weights, device=device, runtime=runtime, threads=threads)
    if roi is not None:
        detector.restrict(roi)
    if false_alarm_rate is not None:
        detector.calibration_ = detector.calibration_.at_rate(false_alarm_rate)
    paths = [Path(source.name) for source in sources]
    if false_discovery_rate is not None:
        scores = [p.score for p in detector.predict_many(paths, on_error=lambda name, error: None)]
        threshold = detector.calibration_.batch_threshold(scores, false_discovery_rate)
    names = output_names(images, [source.name for source in sources])
    rows: list[dict[str, Any]] = []
    with progress_bars() as progress:
        for prediction in detector.predict_many(paths, on_error=failures):
            if threshold is not None:
                prediction = prediction.at_threshold(threshold)
            row = finite(prediction.to_dict())
            rows.append(row)
            if as_json:
                typer.echo(json.dumps(row))
            if output is not None:
                _write_pictures(output, names[prediction.path], prediction, overlays, maps, detector.values_)
            if progress:
                progress("images", len(rows), len(sources))
    if output is not None:
        table = ({**row, "regions": json.dumps(row["regions"])} for row in rows)
        write_csv(output / "predictions.csv", COLUMNS, table)
        failures.write(output / "errors.csv")
        if not as_json:
            rejected = sum(row["is_anomalous"] for row in rows)
            typer.echo(f"{len(rows)} images inspected, {rejected} rejected; results in {output}")
    raise typer.Exit(failures.exit_code if rows else 2)


def output_names(roots: list[Path], paths: list[str]) -> dict[str, Path]:
    """Where each image's results go: its path below the folder that was given; a number is added to names taken
    already."""
    folders = [root for root in roots if root.is_dir()]
    names: dict[str, Path] = {}
    taken: set[Path] = set()
    for path in map(Path, paths):
        folder = next((f for f in folders if path.is_relative_to(f)), path.parent)
        name = path.relative_to(folder)
        unique, number = name, 2
        while unique in taken:
            unique, number = name.with_name(f"{name.name}-{number}"), number + 1
        taken.add(unique)
        names[str(path)] = unique
    return names


def _write_pictures(
    output: Path, name: Path, prediction: Prediction, overlays: bool, maps: bool, values: ValueRange
) -> None:
    from PIL import Image

    if overlays:
        from patchbank.images import Source, read_image
        from patchbank.report.pictures import overlay, save_png

        rgb = read_image(Source(prediction.path, Path(prediction.path)), values)
        picture = overlay(rgb.astype("uint8", copy=False), prediction)
        with replacing(output / "overlays" / name.with_name(f"{name.name}.png")) as temporary:
            save_png(picture, temporary)
    if maps:
        with replacing(output / "maps" / name.with_name(f"{name.name}.tiff")) as temporary:
            Image.fromarray(prediction.map).save(temporary, format="TIFF")
