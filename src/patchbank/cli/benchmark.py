"""`patchbank benchmark`: fit and evaluate over datasets, methods, backbones and seeds, or as a paper did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli import options as o
from patchbank.cli.console import Failures, progress_bars, say
from patchbank.cli.evaluate import write_evaluation
from patchbank.cli.outputs import check_folder
from patchbank.errors import DatasetError

if TYPE_CHECKING:
    from patchbank.data.datasets import Dataset
    from patchbank.evaluation.results import Evaluation

_GRID = "The grid"


def _list_presets(name: str | None) -> str | None:
    if name == "list":
        from patchbank.evaluation.presets import PRESETS

        for preset in PRESETS:
            say(f"{preset.name:24} {preset.source}: {preset.what}")
        raise typer.Exit
    return name


def benchmark(
    datasets: Annotated[list[Path], typer.Argument(help="Datasets, or roots of categories.")],
    output: o.Out,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A table or figure of a paper, and how far ours is from it; `list` shows them. Options given beside "
            "it are used instead of the paper's.",
            callback=_list_presets,
            is_eager=True,
            rich_help_panel=_GRID,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas [default: patchcore; of a preset, all].", rich_help_panel=_GRID
        ),
    ] = None,
    backbones: Annotated[
        str | None, typer.Option(help="Backbones, separated by commas.", rich_help_panel=_GRID)
    ] = None,
    categories: Annotated[
        str | None, typer.Option(help="Only these categories, separated by commas.", rich_help_panel=_GRID)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds, separated by commas [default: 0; of a preset, as many as its paper had].",
            rich_help_panel=_GRID,
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            help="Take every so many-th image of each kind, in the order of file names.", min=1, rich_help_panel=_GRID
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="Cells that run at a time, each with its share of the threads.", min=1, rich_help_panel=_GRID
        ),
    ] = 1,
    cache: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Most room for features in OUT/cache, 0 for no cache.", rich_help_panel=_GRID
        ),
    ] = "20GB",
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
    """Fit and evaluate a grid: results.csv, .md and .tex, report.html and a folder per cell.

    Finished cells are not run again; the report shows all that are in the folder.
    """
    check_folder(output)
    from patchbank.data.datasets import open_datasets
    from patchbank.evaluation.benchmark import Runner
    from patchbank.evaluation.grid import Wanted, of_options, of_preset
    from patchbank.evaluation.presets import get_preset
    from patchbank.evaluation.tables import markdown
    from patchbank.report.grid import write_grid_report

    chosen = get_preset(preset) if preset else None
    categories_wanted = set(categories.split(",")) if categories else None

    failures = Failures()

    def once(name: str, error: Exception) -> None:  # the datasets are opened for each seed
        if (name, str(error)) not in failures.rows:
            failures(name, error)

    def opened(seed: int) -> list[Dataset]:
        found = [
            dataset.with_every(every or (chosen.every if chosen else 1))
            for path in datasets
            for dataset in open_datasets(
                path, layout=layout, seed=seed, split=split, train_list=train_list, on_error=once
            )
            if categories_wanted is None or dataset.name in categories_wanted
        ]
        if not found:
            raise DatasetError(f"--categories {categories}: none of these is in {', '.join(map(str, datasets))}")
        for dataset in found:
            if not dataset.test:
                raise DatasetError(f"{dataset.root}: the {dataset.layout} layout of this folder has no test images")
        return found

    learning = {
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
    }
    names = tuple(methods.split(",")) if methods else ()
    in_grid = [v.method for v in chosen.variants if not names or v.method in names] if chosen else names
    machine = {"device": device, "runtime": runtime, "threads": threads, "memory_budget": memory_budget}
    wanted = Wanted(
        opened,
        o.maker_for(in_grid or ("patchcore",), learning, assignments),
        learning | machine,
        names,
        tuple(backbones.split(",")) if backbones else (),
        tuple(map(o.parse_seed, seeds.split(","))) if seeds else (),
        shots,
    )
    cells = of_preset(chosen, wanted, say) if chosen else of_options(wanted)
    runner = Runner(output, write_cell, o.parse_bytes(cache, "--cache"), jobs)
    rows = []
    with progress_bars() as progress:
        for row in runner.run(cells, on_error=failures, progress=progress):
            rows.append(row)
            say(markdown([row]).splitlines()[-1])
    place = {(cell.name, cell.label): i for i, cell in enumerate(cells)}  # several jobs end in any order
    rows.sort(key=lambda row: place[row["cell"], row["label"]])
    failures.write(output / "errors.csv")
    say(f"{len(rows)} cells in {output / 'results.csv'}, the table in {output / 'results.md'}")
    if chosen and rows:
        given_words = {"backbones": backbones, "shots": shots, "every": every, **learning, "full_scale": full_scale}
        del given_words["value_range"]
        whole_sets = shots is None and every in (None, chosen.every)
        _compare(chosen, rows, output, given_words, assignments or [], whole_sets)
    if rows:
        write_grid_report(output)
        say(f"report: {output / 'report.html'}")
    raise typer.Exit(failures.exit_code if rows else 2)


def _compare(
    preset: Any,
    rows: list[dict[str, Any]],
    output: Path,
    given: dict[str, Any],
    assignments: list[str],
    whole_sets: bool,
) -> None:
    """preset.csv and preset.md, and the latter on the screen."""
    from patchbank._system.files import write_csv, write_text
    from patchbank.evaluation.beside_paper import COLUMNS, as_rows, compare, table

    words = [f"`--{key.replace('_', '-')} {value}`" for key, value in given.items() if value is not None]
    words += [f"`--set {assignment}`" for assignment in assignments]
    lines = compare(preset, rows, whole_sets)
    page = table(preset, lines, " ".join(words))
    write_csv(output / "preset.csv", COLUMNS, as_rows(preset, lines))
    write_text(output / "preset.md", page)
    say(f"\n{page}")


def write_cell(evaluation: Evaluation, folder: Path) -> None:
    """All files of one cell but its model: pictures, report.html and, last, metrics.json."""
    from patchbank.report.gallery import write_gallery

    write_gallery(evaluation, folder)
    write_evaluation(evaluation, folder)
