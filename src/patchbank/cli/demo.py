"""`patchbank demo`: the main job on parts it draws itself, offline, from fit to report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars, say
from patchbank.cli.numbers import LARGEST_SEED
from patchbank.cli.outputs import check_folder, written_or_rescued

if TYPE_CHECKING:
    from patchbank.evaluation.results import Evaluation

_SOLID = {"train": 36, "test_good": 10, "per_defect": 4, "size": 400}  # few: each has three channels


def demo(
    machine: o.Machine,
    output_dir: Annotated[
        Path, typer.Option("-O", "--output-dir", help="Folder for parts, models and reports.")
    ] = Path("patchbank-demo"),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the drawings and the fit.")] = 0,
    solid: Annotated[bool, typer.Option("--3d", help="Draw parts with a picture and a depth for each pixel.")] = False,
) -> None:
    """Draw some kinds of parts, learn the good ones, find the bad ones, write reports. No network, no data needed."""
    check_folder(output_dir)
    from patchbank.cli.evaluate import summary, write_evaluation
    from patchbank.data.datasets import open_dataset
    from patchbank.demo.solid import SOLID_KINDS
    from patchbank.demo.synthetic import KINDS
    from patchbank.evaluation.evaluate import evaluate
    from patchbank.methods import PatchCore

    started = time.perf_counter()
    failures = Failures()
    for kind in SOLID_KINDS if solid else KINDS:
        folder = output_dir / (f"{kind}-3d" if solid else kind)
        draw = _draw_solid if solid else _draw_pictures
        dataset = open_dataset(_drawn(folder / f"{kind}-seed{seed}", draw, kind, seed))
        say(f"{kind}: drew {len(dataset.train)} good parts to learn from and {len(dataset.test)} parts to inspect")
        with progress_bars() as progress:
            model = PatchCore(seed=seed, **machine.options()).fit(dataset.train, on_error=failures, progress=progress)
            written_or_rescued(model.save, folder / f"{kind}.patchbank")
            evaluation = evaluate(
                model, dataset, model_file=folder / f"{kind}.patchbank", on_error=failures, progress=progress
            )
        write_evaluation(evaluation, folder)
        found = f"{_found_words(evaluation)}\n" if solid else ""
        say(f"{summary(evaluation)}\n{found}report: {(folder / 'report.html').resolve()}\n")
    say(f"done in {time.perf_counter() - started:.0f} s; open a report in a browser")
    raise typer.Exit(failures.exit_code)


def _drawn(folder: Path, draw: Callable[[Path, str, int], Path], kind: str, seed: int) -> Path:
    """The parts of one kind, drawn unless an earlier run has; the folder is there only when it is complete."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".drawing-", dir=folder.parent) as unfinished:
            draw(Path(unfinished), kind, seed).rename(folder)
    return folder


def _draw_pictures(folder: Path, kind: str, seed: int) -> Path:
    from patchbank.demo.synthetic import write_dataset

    return write_dataset(folder, kind, seed=seed, n_train=80, n_test_good=30, n_per_defect=10)


def _draw_solid(folder: Path, kind: str, seed: int) -> Path:
    from patchbank.demo.solid import write_solid_dataset

    return write_solid_dataset(folder / kind, kind, seed=seed, **_SOLID)


def _found_words(evaluation: Evaluation) -> str:
    """For each kind of defect what shows it, as it was drawn, and what found it."""
    from patchbank.demo.solid import SHOWN_BY
    from patchbank.pictures.channels import BOTH, PICTURE, SHAPE

    lines = []
    for defect, row in evaluation.metrics["per_defect"].items():
        drawn = BOTH if len(SHOWN_BY[defect]) > 1 else PICTURE if "rgb" in SHOWN_BY[defect] else SHAPE
        found = round(row["n"] * row["recall_at_threshold"])
        seen = row.get("seen_by", {})
        by = {PICTURE: "by the picture", SHAPE: "by the shape", BOTH: "by both"}
        words = ", ".join(f"{seen[kind]} {by[kind]}" for kind in by if seen.get(kind))
        where = "in picture and shape" if drawn == BOTH else f"in the {drawn} alone"
        lines.append(f"  {defect} (drawn {where}): {found} of {row['n']} found{f', {words}' if words else ''}")
    return "\n".join(lines)
