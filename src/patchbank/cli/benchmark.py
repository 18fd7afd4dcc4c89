"""`patchbank benchmark`: fit and evaluate over datasets, methods, backbones and seeds, or as a paper did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli import choices as c
from patchbank.cli import options as o
from patchbank.cli.console import Failures, counted, progress_bars, say
from patchbank.cli.detectors import maker_for, spelled
from patchbank.cli.evaluate import write_evaluation
from patchbank.cli.interrupt import calm
from patchbank.cli.learning import Learning
from patchbank.cli.outputs import check_folder
from patchbank.cli.values import parse_bytes, parse_seed
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
    output_dir: o.OutputDir,
    *,
    preset: Annotated[
        str | None,
        c.known(
            (*c.PRESETS, "list"), "--preset", metavar="NAME|list", panel=_GRID, callback=_list_presets, is_eager=True,
            help="Repeat a table or figure of a paper and compare with it; `list` shows them. Options that are given "
            "replace the paper's.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        c.known(
            c.METHODS + c.PRESET_METHODS, "--methods", metavar="NAME,…", panel=_GRID,
            help="Methods, separated by commas [default: patchcore; with a preset, all of it].",
        ),
    ] = None,
    backbones: Annotated[
        str | None,
        c.known(
            c.BACKBONES, "--backbones", metavar="NAME,…", panel=_GRID, help="Backbones, separated by commas."
        ),
    ] = None,
    categories: Annotated[
        str | None, typer.Option(help="Use only these categories, separated by commas.", rich_help_panel=_GRID)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds, separated by commas [default: 0; with a preset, as many as in its paper].",
            rich_help_panel=_GRID,
        ),
    ] = None,
    subsample: Annotated[
        int | None,
        typer.Option(help="Use every N-th image of each class, sorted by name.", min=1, rich_help_panel=_GRID),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="Number of cells that run at a time, each with its share of the threads.", min=1, rich_help_panel=_GRID
        ),
    ] = 1,
    cache: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Most room for features in OUT/cache; 0: no cache.", rich_help_panel=_GRID
        ),
    ] = "20GB",
    learning: Learning,
    machine: o.Machine,
    data: o.Data,
) -> None:  # fmt: skip
    """Fit and evaluate a grid: results.csv, .md and .tex, report.html and a folder per cell.

    Finished cells are not run again; the report shows all that are in the folder.
    """
    check_folder(output_dir)
    from patchbank.data.datasets import check_tested, open_datasets
    from patchbank.evaluation.benchmark import Runner
    from patchbank.evaluation.finished import read_grid
    from patchbank.evaluation.grid import Wanted, of_options, of_preset
    from patchbank.evaluation.presets import get_preset
    from patchbank.evaluation.tables import SHOWN, markdown
    from patchbank.report.advice import winners
    from patchbank.report.grid import write_grid_report

    chosen = get_preset(preset) if preset else None
    categories_wanted = set(categories.split(",")) if categories else None

    failures = Failures()

    def once(name: str, error: Exception) -> None:  # the datasets are opened for each seed
        if (name, str(error)) not in failures.rows:
            failures(name, error)

    def opened(seed: int) -> list[Dataset]:
        found = [
            dataset.with_every(subsample or (chosen.every if chosen else 1))
            for path in datasets
            for dataset in open_datasets(path, seed=seed, on_error=once, needs="both", **data.options())
            if categories_wanted is None or dataset.name in categories_wanted
        ]
        if not found:
            raise DatasetError(f"--categories {categories}: none of these is in {', '.join(map(str, datasets))}")
        for dataset in found:
            check_tested(dataset, "both")
        return found

    options = learning.options()
    names = tuple(methods.split(",")) if methods else ()
    in_grid = [v.method for v in chosen.variants if not names or v.method in names] if chosen else names
    of_machine = {**machine.options(), "memory_budget": learning.memory_budget}
    wanted = Wanted(
        opened,
        maker_for(in_grid or ("patchcore",), options, learning.assignments),
        options | of_machine,
        names,
        tuple(backbones.split(",")) if backbones else (),
        tuple(map(parse_seed, seeds.split(","))) if seeds else (),
        learning.shots,
    )
    cells = of_preset(chosen, wanted, say) if chosen else of_options(wanted)
    runner = Runner(output_dir, write_cell, parse_bytes(cache, "--cache"), jobs)
    shown = {key: name for key, name in SHOWN.items() if key != "label" or any(cell.label for cell in cells)}
    rows: list[dict[str, Any]] = []
    with _kept_cells(output_dir, rows, len(cells)), progress_bars() as progress:
        for row in runner.run(cells, on_error=failures, progress=progress):
            table = markdown([row], shown).rstrip()
            say(table.splitlines()[-1] if rows else table)  # its heading above the first row
            rows.append(row)
    place = {(cell.name, cell.label): i for i, cell in enumerate(cells)}  # several jobs end in any order
    rows.sort(key=lambda row: place[row["cell"], row["label"]])
    failures.write(output_dir / "errors.csv")
    say(f"{counted(len(rows), 'cell')} in {output_dir / 'results.csv'}, the table in {output_dir / 'results.md'}")
    if chosen and rows:
        given = {"backbones": backbones, "shots": learning.shots, "subsample": subsample, **options}
        whole_sets = learning.shots is None and subsample in (None, chosen.every)
        _compare(chosen, rows, output_dir, _given_words(given, learning), whole_sets)
    if rows:
        write_grid_report(output_dir)
        say(f"report: {output_dir / 'report.html'}")
        if best := winners(read_grid(output_dir)):
            say(best)
    raise typer.Exit(failures.exit_code if rows else 2)


@contextmanager
def _kept_cells(folder: Path, rows: list[dict[str, Any]], wanted: int) -> Iterator[None]:
    """Say what is kept of a grid that was interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        calm()
        say(f"{len(rows)} of {counted(wanted, 'cell')} are in {folder}: the same command goes on", err=True)
        raise


def _compare(
    preset: Any,
    rows: list[dict[str, Any]],
    output: Path,
    words: list[str],
    whole_sets: bool,
) -> None:
    """preset.csv and preset.md, and the latter on the screen."""
    from patchbank._system.files import write_csv, write_text
    from patchbank.evaluation.beside_paper import COLUMNS, as_rows, compare, table

    lines = compare(preset, rows, whole_sets)
    page = table(preset, lines, " ".join(words))
    write_csv(output / "preset.csv", COLUMNS, as_rows(preset, lines))
    write_text(output / "preset.md", page)
    say(f"\n{page}")


def _given_words(given: dict[str, Any], learning: Learning) -> list[str]:
    """The options that were given beside a preset, as they were written."""
    words = []
    depth = {name: getattr(learning, name) for name in ("depth_unit", "depth_axis", "invalid", "camera")}
    for key, value in (given | {"depth": None} | depth).items():
        if key == "value_range":
            value = learning.full_scale
        elif key == "bank_mb":
            value = learning.bank_memory
        elif value is True or value == "stream":
            words.append(f"`{spelled(key, value)}`")
            continue
        if value is not None:
            words.append(f"`{spelled(key)} {value}`")
    return [*words, *(f"`--set {assignment}`" for assignment in learning.assignments or [])]


def write_cell(evaluation: Evaluation, folder: Path) -> None:
    """All files of one cell but its model: pictures, report.html and, last, metrics.json."""
    from patchbank.report.gallery import write_gallery

    write_gallery(evaluation, folder)
    write_evaluation(evaluation, folder)
