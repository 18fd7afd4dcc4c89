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
from patchbank.cli.opening import open_model
from patchbank.cli.outputs import check_folder
from patchbank.cli.values import parse_bytes

if TYPE_CHECKING:
    from patchbank.evaluation.results import Evaluation


def evaluate(
    model: o.Model,
    dataset: Annotated[
        Path, typer.Argument(help="A dataset with test images, or a folder with `good` beside folders of defects.")
    ],
    output_dir: o.OutputDir,
    machine: o.Machine,
    layout: o.Layout = "auto",
    split: o.Split = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the split, for layouts that draw one.")
    ] = 0,
    roi: o.Roi = None,
    weights: o.Weights = None,
    pixel_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory for the scores of pixels, such as 4GB; above it, pixel metrics come from histograms, and "
            "their error is stated [default: half of the free memory].",
            rich_help_panel="Machine",
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Measure a model on labelled images: metrics.json, scores.csv and report.html (docs/reference/metrics.md)."""
    check_folder(output_dir)
    from patchbank.data.datasets import check_tested, open_dataset
    from patchbank.evaluation.evaluate import evaluate as run

    memory = parse_bytes(pixel_memory, "--pixel-memory") if pixel_memory is not None else None
    opened = open_dataset(dataset, layout=layout, split=split, seed=seed, needs="test")
    check_tested(opened)
    detector = open_model(model, weights, machine, roi)
    failures = Failures()
    with progress_bars() as progress:
        evaluation = run(detector, opened, model_file=model, on_error=failures, progress=progress, pixel_memory=memory)
    write_evaluation(evaluation, output_dir)
    if as_json:
        say(json.dumps(evaluation.metrics))
    else:
        say(summary(evaluation))
        say(f"report: {output_dir / 'report.html'}")
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
