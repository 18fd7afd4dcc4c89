"""`patchbank benchmark`: fit and evaluate over datasets, methods, backbones and seeds."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars
from patchbank.errors import DatasetError


def benchmark(
    datasets: Annotated[list[Path], typer.Argument(help="Datasets, or roots of categories.")],
    output: o.Out,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "patchcore",
    backbones: Annotated[str | None, typer.Option(help="Backbones, separated by commas.")] = None,
    categories: Annotated[str | None, typer.Option(help="Only these categories, separated by commas.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    weights: o.Weights = None,
    levels: o.Levels = None,
    image_size: o.ImageSize = None,
    geometry: o.GeometryKind = None,
    coreset: o.Coreset = None,
    bank_size: o.BankSize = None,
    bank_mb: o.BankMb = None,
    false_alarm_rate: o.FalseAlarmRate = None,
    roi: o.Roi = None,
    align: o.Align = False,
    tile: o.Tile = None,
    overlap: o.Overlap = None,
    shots: o.Shots = None,
    assignments: o.Set = None,
    device: o.Device = "auto",
    runtime: o.Runtime = "auto",
    threads: o.Threads = None,
    memory_budget: o.MemoryBudget = None,
    layout: o.Layout = "auto",
    split: o.Split = None,
    train_list: o.TrainList = "train",
) -> None:
    """Fit and evaluate a grid; results.csv, results.md and a report per cell. Finished cells are not run again."""
    from patchbank.cli.evaluate import write_evaluation
    from patchbank.datasets import Dataset, open_datasets
    from patchbank.evaluation.benchmark import Cell, markdown, run_grid

    wanted = set(categories.split(",")) if categories else None
    cells = []

    def opened(seed: int) -> list[Dataset]:
        found = [
            dataset.with_shots(shots, seed)
            for path in datasets
            for dataset in open_datasets(path, layout=layout, seed=seed, split=split, train_list=train_list)
            if wanted is None or dataset.name in wanted
        ]
        if not found:
            raise DatasetError(f"--categories {categories}: none of these is in {', '.join(map(str, datasets))}")
        return found

    for seed in map(o.parse_seed, seeds.split(",")):
        for dataset, method, backbone in product(opened(seed), methods.split(","), (backbones or "").split(",")):
            detector = o.make_detector(
                method,
                assignments,
                backbone=backbone or None,
                weights=weights,
                levels=levels,
                image_size=image_size,
                geometry=geometry,
                coreset=coreset,
                bank_size=bank_size,
                bank_mb=bank_mb,
                false_alarm_rate=false_alarm_rate,
                roi=roi and str(roi),
                align=align or None,
                tile=tile,
                overlap=overlap,
                seed=seed,
                device=device,
                runtime=runtime,
                threads=threads,
                memory_budget=memory_budget,
            )
            if not dataset.test:
                raise DatasetError(f"{dataset.root}: the {dataset.layout} layout of this folder has no test images")
            cells.append(Cell(dataset, detector))
    failures = Failures()
    rows = []
    with progress_bars() as progress:
        for row in run_grid(cells, output, write_evaluation, on_error=failures, progress=progress):
            rows.append(row)
            typer.echo(markdown([row]).splitlines()[-1])
    failures.write(output / "errors.csv")
    typer.echo(f"{len(rows)} cells in {output / 'results.csv'}, the table in {output / 'results.md'}")
    raise typer.Exit(failures.exit_code if rows else 2)
