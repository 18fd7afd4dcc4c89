"""`patchbank demo`: the main job on parts it draws itself, offline, from fit to report."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars, say
from patchbank.cli.numbers import LARGEST_SEED
from patchbank.cli.outputs import check_folder, written_or_rescued


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for parts, models and reports.")] = Path(
        "patchbank-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the drawings and the fit.")] = 0,
    threads: o.Threads = None,
) -> None:
    """Draw two kinds of parts, learn the good ones, find the bad ones, write reports. No network, no data needed."""
    check_folder(output)
    from patchbank.cli.evaluate import summary, write_evaluation
    from patchbank.data.datasets import open_dataset
    from patchbank.demo.synthetic import KINDS
    from patchbank.evaluation.evaluate import evaluate
    from patchbank.methods import PatchCore

    started = time.perf_counter()
    failures = Failures()
    for kind in KINDS:
        folder = output / kind
        dataset = open_dataset(_draw(folder / f"{kind}-seed{seed}", kind, seed))
        say(f"{kind}: drew {len(dataset.train)} good parts to learn from and {len(dataset.test)} parts to inspect")
        with progress_bars() as progress:
            model = PatchCore(seed=seed, threads=threads).fit(dataset.train, on_error=failures, progress=progress)
            written_or_rescued(model.save, folder / f"{kind}.patchbank")
            evaluation = evaluate(
                model, dataset, model_file=folder / f"{kind}.patchbank", on_error=failures, progress=progress
            )
        write_evaluation(evaluation, folder)
        say(f"{summary(evaluation)}\nreport: {(folder / 'report.html').resolve()}\n")
    say(f"done in {time.perf_counter() - started:.0f} s; open a report in a browser")
    raise typer.Exit(failures.exit_code)


def _draw(folder: Path, kind: str, seed: int) -> Path:
    """The parts of one kind, drawn unless an earlier run has; the folder is there only when it is complete."""
    from patchbank.demo.synthetic import write_dataset

    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".drawing-", dir=folder.parent) as unfinished:
            write_dataset(Path(unfinished), kind, seed=seed, n_train=80, n_test_good=30, n_per_defect=10).rename(folder)
    return folder
