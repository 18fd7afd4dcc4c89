"""`patchbank evaluate`: a model and a labelled dataset in, metrics and a report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank._system.files import write_text
from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars, say
from patchbank.cli.numbers import LARGEST_SEED
from patchbank.cli.outputs import check_folder

if TYPE_CHECKING:
    from patchbank.evaluation.results import Evaluation


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    dataset: Annotated[Path, typer.Argument(help="A dataset with test images.")],
    output: o.Out,
    layout: o.Layout = "auto",
    split: o.Split = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the split, where the layout draws one.")] = 0,
    roi: o.Roi = None,
    weights: o.Weights = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
    pixel_memory: Annotated[
        str | None,
        typer.Option(
            help="Most memory for the scores of pixels, such as 4GB; beyond it the pixel metrics come from bins, with "
            "their error; half of what is free where not given.",
            rich_help_panel="Machine",
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Measure a model on labelled images: metrics.json, scores.csv and report.html (docs/reference/metrics.md)."""
    check_folder(output)
    from patchbank.data.datasets import open_dataset
    from patchbank.evaluation.evaluate import evaluate as run
    from patchbank.loading import load

    memory = o.parse_bytes(pixel_memory, "--pixel-memory") if pixel_memory is not None else None
    detector = load(model, weights=weights, device=device, runtime=runtime, threads=threads)
    if roi is not None:
        detector.restrict(roi)
    opened = open_dataset(dataset, layout=layout, split=split, seed=seed)
    failures = Failures()
    with progress_bars() as progress:
        evaluation = run(detector, opened, model_file=model, on_error=failures, progress=progress, pixel_memory=memory)
    write_evaluation(evaluation, output)
    if as_json:
        say(json.dumps(evaluation.metrics))
    else:
        say(summary(evaluation))
        say(f"report: {output / 'report.html'}")
    raise typer.Exit(failures.exit_code)


def write_evaluation(evaluation: Evaluation, output: Path) -> None:
    """metrics.json, scores.csv, pixels.npz and report.html in a folder; metrics.json is the last: with it, all are
    there."""
    from patchbank.evaluation.scores import write_scores
    from patchbank.report.html import write_report

    for name in ("metrics.json", "report.html"):  # of an earlier run: an interruption must not leave them
        (output / name).unlink(missing_ok=True)
    write_scores(evaluation, output)
    write_report(evaluation, output / "report.html")
    write_text(output / "metrics.json", json.dumps(evaluation.metrics, indent=2) + "\n")


def summary(evaluation: Evaluation) -> str:
    """The verdict in one sentence, and the key numbers in one line."""
    from patchbank.report.html import verdict

    names = {"image AUROC": "image_auroc", "pixel AUROC": "pixel_auroc", "AUPRO": "aupro"}
    values = {name: evaluation.metrics[key] for name, key in names.items()}
    numbers = ", ".join(f"{name} {value:.3f}" if value is not None else f"{name} –" for name, value in values.items())
    latency = evaluation.metrics["latency_ms_p50"]
    return f"{verdict(evaluation)}\n{numbers}, {'–' if latency is None else f'{latency:.0f} ms'} per image"
