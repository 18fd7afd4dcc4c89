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
from patchbank.cli.cluster import cluster_of
from patchbank.cli.console import (
    Failures,
    counted,
    detail,
    is_verbose,
    note,
    progress_bars,
    say,
    show_plan,
    threshold_words,
)
from patchbank.cli.detectors import at_quality, check_untouched, chosen_by, make_detector
from patchbank.cli.interrupt import calm
from patchbank.cli.learning import Learning
from patchbank.cli.opening import engine_words
from patchbank.cli.outputs import check_apart, check_file, written_or_rescued

if TYPE_CHECKING:
    from patchbank.detector import Detector


def fit(
    good: o.Good,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write, such as parts.patchbank.")],
    *,
    method: o.Method = "patchcore",
    quality: o.Quality = None,
    backbone: o.BackboneName = None,
    learning: Learning,
    machine: o.Machine,
    data: o.Data,
    cluster: o.Cluster,
    drop_suspicious: Annotated[
        bool, typer.Option("--drop-suspicious", help="Leave out images that stand out (see `patchbank audit`).")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose image size, smoothing and position scale by defects drawn on some good images.",
        ),
    ] = False,
    max_seconds: o.MaxSeconds = None,
    resume: o.Resume = False,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Learn from good images and write a model file."""
    check_file(output, MODEL, "--output")
    cluster.check()
    name = at_quality(method, quality)
    assignments = learning.assignments

    def make(**changed: Any) -> Detector:
        return make_detector(name, assignments, **(given | changed))

    given: dict[str, Any] = {
        **learning.options(),
        **machine.options(),
        "backbone": backbone,
        "seed": seed,
        "memory_budget": learning.memory_budget,
        "max_minutes": None if max_seconds is None else max_seconds / 60,
    }
    if tune:
        check_untouched("--tune", given, assignments)
    if name != method:
        check_untouched(f"--quality {quality}", given, None, chosen_by(name))
    detector = make()
    from patchbank.cli.info import describe
    from patchbank.data.datasets import open_dataset
    from patchbank.io.model_file import read

    failures = Failures()
    dataset = open_dataset(good, seed=seed, on_error=failures, **data.options()).with_shots(learning.shots, seed)
    train = list(dataset.train)
    check_apart(output, [*train, *(sample.path for sample in dataset.test)])
    if drop_suspicious:
        train = _without_suspicious(detector, train)
    if tune:
        detector = _tuned(make, train, seed, failures)
    kept = output.with_name(f"{output.name}.training")
    with progress_bars() as progress, _kept_training(kept), cluster_of(cluster, machine) as workers:
        detector.fit(
            train, on_error=failures, progress=progress, on_plan=show_plan, checkpoints=kept, resume=resume,
            cluster=workers,
        )  # fmt: skip
    written_or_rescued(detector.save, output)
    if is_verbose():
        detail(engine_words(detector))
        seconds = detector.training_["fit_seconds"]
        detail(", ".join(f"{stage} {taken:.1f} s" for stage, taken in seconds.items() if stage != "total"))
    summary = {"dataset": str(dataset.root), "layout": dataset.layout, **describe(output, read(output))}
    summary["passed_over"] = dataset.train_found.to_list()
    if as_json:
        say(json.dumps(summary))
    else:
        say(f"learned from {counted(summary['images'], 'image')} of {dataset.root} ({dataset.layout} layout)")
        say(_memory_words(summary))
        say(threshold_words(detector.calibration_))
        say(_resolution_words(detector, suggests="image_size" not in chosen_by(name)))
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
    note(f"tuned: {tuned.reason}")
    return make(**tuned.options)


def _without_suspicious(detector: Detector, train: list[Path]) -> list[Path]:
    """The images that do not stand out; the others are named."""
    from patchbank.audit import audit

    with progress_bars() as progress:
        found = audit(
            train, copy.copy(detector), duplicates=False, on_error=lambda name, error: None, progress=progress
        )
    for suspect in found.suspicious:
        note(f"left out {suspect.image}: {suspect.deviation:.1f} deviations above the median")
    names = {suspect.image for suspect in found.suspicious}
    return [path for path in train if str(path) not in names]


def _resolution_words(detector: Detector, suggests: bool) -> str:
    """The smallest defect that the model can be expected to find; `suggests`: and what would find smaller ones, where
    the image size is the user's to choose."""
    from patchbank.features.resolution import resolution_of

    first = detector.parts()[-1]  # of an ensemble: the member that sees most
    height, width = first.training_["usual_size"]
    enlarges = first.option("enlarge") and first.inputs_.channels == ("rgb",)
    return resolution_of(first.extractor.geometry, (height, width), enlarges).sentence(suggests)


def _memory_words(summary: dict[str, Any]) -> str:
    if summary["bank_vectors"] is None:
        trained = f" in {summary['trained']}" if summary["trained"] else ""
        return f"{summary['method']}: {summary['bank_mb']:.1f} MB learned{trained}"
    words = f"bank of {summary['bank_vectors']} patches, {summary['bank_mb']:.1f} MB"
    radius = summary["covering_radius"]
    return words if radius is None else f"{words}, covering radius {radius:.3g}"
