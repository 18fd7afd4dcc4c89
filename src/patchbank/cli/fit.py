"""`patchbank fit`: good images in, a model file out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.changing import MODEL
from patchbank.cli.console import Failures, progress_bars, say, show_plan, threshold_words
from patchbank.cli.interrupt import calm
from patchbank.cli.outputs import check_apart, check_file, written_or_rescued
from patchbank.cli.ray import Ray, Workers, check_workers, cluster_of

if TYPE_CHECKING:
    from patchbank.detector import Detector


def fit(
    good: Annotated[Path, typer.Argument(help="A folder of good images, or a dataset (its training split).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write, such as parts.patchbank.")],
    method: o.Method = "patchcore",
    quality: o.Quality = None,
    backbone: o.BackboneName = None,
    weights: o.Weights = None,
    levels: o.Levels = None,
    image_size: o.ImageSize = None,
    geometry: o.GeometryKind = None,
    coreset: o.Coreset = None,
    bank_size: o.BankSize = None,
    bank_mb: o.BankMb = None,
    false_alarm_rate: o.FalseAlarmRate = None,
    group_by: o.GroupBy = None,
    roi: o.Roi = None,
    align: o.Align = False,
    tile: o.Tile = None,
    overlap: o.Overlap = None,
    full_scale: o.FullScale = None,
    channels: o.Channels = None,
    fusion: o.Fusion = None,
    depth_unit: o.DepthUnit = None,
    depth_axis: o.DepthAxis = None,
    invalid: o.Invalid = None,
    camera: o.Camera = None,
    drop_suspicious: Annotated[
        bool, typer.Option("--drop-suspicious", help="Leave out images that stand out, see `patchbank audit`.")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose image size, smoothing and position scale by defects drawn on some good images.",
        ),
    ] = False,
    max_minutes: o.MaxMinutes = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a training of weights, or a fit with --ray, that was interrupted."),
    ] = False,
    shots: o.Shots = None,
    seed: o.Seed = 0,
    assignments: o.Set = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
    memory_budget: o.MemoryBudget = None,
    layout: o.Layout = "auto",
    split: o.Split = None,
    train_list: o.TrainList = "train",
    ray: Ray = None,
    workers: Workers = None,
    as_json: o.Json = False,
) -> None:
    """Learn from good images and write a model file."""
    check_file(output, MODEL, "--output")
    check_workers(ray, workers)
    name = o.at_quality(method, quality)

    def make(**changed: Any) -> Detector:
        return o.make_detector(name, assignments, **(given | changed))

    given: dict[str, Any] = {
        "backbone": backbone,
        "weights": weights,
        "levels": levels,
        "image_size": image_size,
        "geometry": geometry,
        "coreset": coreset,
        "bank_size": bank_size,
        "bank_mb": bank_mb,
        "false_alarm_rate": false_alarm_rate,
        "group_by": group_by,
        "roi": roi and str(roi),
        "align": align or None,
        "tile": tile,
        "overlap": overlap,
        "value_range": o.range_up_to(full_scale),
        "channels": channels,
        "fusion": fusion,
        "depth": o.depth_format(depth_unit, depth_axis, invalid, camera),
        "seed": seed,
        "device": device,
        "runtime": runtime,
        "threads": threads,
        "memory_budget": memory_budget,
        "max_minutes": max_minutes,
    }
    if tune:
        o.check_untouched("--tune", given, assignments)
    if name != method:
        o.check_untouched(f"--quality {quality}", {"image_size": image_size}, None)
    detector = make()
    from patchbank.cli.info import describe
    from patchbank.data.datasets import open_dataset
    from patchbank.io.model_file import read

    failures = Failures()
    dataset = open_dataset(
        good, layout=layout, seed=seed, split=split, train_list=train_list, on_error=failures
    ).with_shots(shots, seed)
    train = list(dataset.train)
    check_apart(output, [*train, *(sample.path for sample in dataset.test)])
    if drop_suspicious:
        train = _without_suspicious(detector, train)
    if tune:
        detector = _tuned(make, train, seed, failures)
    kept = output.with_name(f"{output.name}.training")
    with progress_bars() as progress, _kept_training(kept), cluster_of(ray, workers, threads) as cluster:
        detector.fit(
            train, on_error=failures, progress=progress, on_plan=show_plan, checkpoints=kept, resume=resume,
            cluster=cluster,
        )  # fmt: skip
    written_or_rescued(detector.save, output)
    summary = {"dataset": str(dataset.root), "layout": dataset.layout, **describe(output, read(output))}
    summary["passed_over"] = dataset.train_found.to_list()
    if as_json:
        say(json.dumps(summary))
    else:
        say(f"learned from {summary['images']} images of {dataset.root} ({dataset.layout} layout)")
        say(_memory_words(summary))
        say(threshold_words(detector.calibration_))
        say(_resolution_words(detector))
        if summary["weights"].startswith("random"):
            say("the backbone's weights are random: good for trying things out, not for finding defects")
        say(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB) in {summary['fit_seconds']['total']:.1f} s")
    raise typer.Exit(failures.exit_code)


@contextmanager
def _kept_training(folder: Path) -> Iterator[None]:
    """Say where the training is kept that was interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        calm()
        if folder.is_dir():
            say(f"the training so far is kept in {folder}: the same command with --resume goes on", err=True)
        raise


def _tuned(make: Callable[..., Detector], train: list[Path], seed: int, failures: Failures) -> Detector:
    """The detector with the options that suit these images; says which and why."""
    from patchbank.data import gather
    from patchbank.evaluation.tuning import tune

    with progress_bars() as progress:
        tuned = tune(make, gather(train, failures, of="good"), seed, lambda name, error: None, progress)
    say(f"tuned: {tuned.reason}", err=True)
    return make(**tuned.options)


def _without_suspicious(detector: Detector, train: list[Path]) -> list[Path]:
    """The images that do not stand out; the others are named."""
    from patchbank.audit import audit

    with progress_bars() as progress:
        found = audit(
            train, copy.copy(detector), duplicates=False, on_error=lambda name, error: None, progress=progress
        )
    for suspect in found.suspicious:
        say(f"left out {suspect.image}: {suspect.deviation:.1f} deviations above the median", err=True)
    names = {suspect.image for suspect in found.suspicious}
    return [path for path in train if str(path) not in names]


def _resolution_words(detector: Detector) -> str:
    """The smallest defect that the model can be expected to find."""
    from patchbank.features.resolution import resolution_of

    first = detector.parts()[-1]  # of an ensemble: the member that sees most
    height, width = first.training_["usual_size"]
    enlarges = first.inputs_.channels == ("rgb",)
    return resolution_of(first.extractor.geometry, (height, width), enlarges).sentence()


def _memory_words(summary: dict[str, Any]) -> str:
    if summary["bank_vectors"] is None:
        trained = f" in {summary['trained']}" if summary["trained"] else ""
        return f"{summary['method']}: {summary['bank_mb']:.1f} MB learned{trained}"
    words = f"bank of {summary['bank_vectors']} patches, {summary['bank_mb']:.1f} MB"
    radius = summary["covering_radius"]
    return words if radius is None else f"{words}, covering radius {radius:.3g}"
