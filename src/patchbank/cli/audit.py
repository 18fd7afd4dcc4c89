"""`patchbank audit`: look a training set over before it is learned from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank._system.files import write_csv, write_text
from patchbank.cli import options as o
from patchbank.cli.console import Failures, counted, progress_bars, say
from patchbank.cli.detectors import make_detector
from patchbank.cli.outputs import check_folder

if TYPE_CHECKING:
    from patchbank.audit import Audit

_COLUMNS = ("rank", "image", "score", "deviation", "suspicious")


def audit(
    good: o.Good,
    output_dir: o.OutputDir,
    machine: o.Machine,
    top: Annotated[int, typer.Option(min=1, help="Draw the N strangest images.")] = 20,
    backbone: o.BackboneName = None,
    weights: o.Weights = None,
    image_size: o.ImageSize = None,
    roi: o.Roi = None,
    seed: o.Seed = 0,
    assignments: o.Set = None,
    memory_budget: o.MemoryBudget = None,
    layout: o.Layout = "auto",
    as_json: o.Json = False,
) -> None:
    """Find images that do not belong among the good ones: strange, doubled, of an odd size, unreadable."""
    check_folder(output_dir)
    detector = make_detector(
        "patchcore",
        assignments,
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        roi=roi and str(roi),
        seed=seed,
        **machine.options(),
        memory_budget=memory_budget,
    )
    from patchbank.audit import SUSPICIOUS
    from patchbank.audit import audit as run
    from patchbank.data.datasets import open_dataset
    from patchbank.report.audit import write_audit

    failures = Failures()
    dataset = open_dataset(good, layout=layout, seed=seed, on_error=failures)
    with progress_bars() as progress:
        found = run(list(dataset.train), detector, on_error=failures, progress=progress)
    rows = (
        {"rank": i, **vars(suspect), "suspicious": suspect.deviation > SUSPICIOUS}
        for i, suspect in enumerate(found.ranked, 1)
    )
    (output_dir / "report.html").unlink(missing_ok=True)  # of an earlier run: an interruption must not leave it
    write_csv(output_dir / "audit.csv", _COLUMNS, rows)
    document = {**found.to_dict(), "passed_over": dataset.train_found.to_list()}
    write_text(output_dir / "audit.json", json.dumps(document, indent=2) + "\n")
    write_audit(found, good, output_dir / "report.html", top, on_error=failures)
    if as_json:
        say(json.dumps(document))
    else:
        say(_words(found))
        say(f"report: {output_dir / 'report.html'}")
    raise typer.Exit(failures.exit_code)


def _words(found: Audit) -> str:
    stand_out = "1 stands out" if len(found.suspicious) == 1 else f"{len(found.suspicious)} stand out"
    lines = [f"{counted(len(found.ranked), 'image')} looked over: {stand_out}"]
    lines += [f"  {s.image}: {s.deviation:.1f} deviations above the median" for s in found.suspicious[:10]]
    height, width = found.usual_size
    if pairs := len(found.duplicates):
        lines.append(f"{counted(pairs, 'pair')} {'looks' if pairs == 1 else 'look'} like the same picture twice")
    if odd := len(found.odd_sizes):
        lines.append(f"{counted(odd, 'image')} {'is' if odd == 1 else 'are'} not {width}×{height} as the others")
    if found.unreadable:
        lines.append(f"{counted(len(found.unreadable), 'image')} cannot be read")
    return "\n".join(lines)
