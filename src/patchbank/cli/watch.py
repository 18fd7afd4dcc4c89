"""`patchbank watch`: inspect what arrives in a folder."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from patchbank._system.remote import is_remote, located
from patchbank.cli import options as o
from patchbank.cli.console import counted, note, say
from patchbank.cli.numbers import MOST_SECONDS
from patchbank.cli.opening import open_model, say_if_undecided
from patchbank.cli.outputs import check_file
from patchbank.errors import OptionError


def watch(
    model: o.Model,
    folder: Annotated[Path, typer.Argument(help="Where images arrive, also in folders below it.")],
    machine: o.Machine,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="CSV file that gets a row for each image; images in it are not inspected again."
        ),
    ] = Path("watch.csv"),
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Also POST each row there, as JSON.")] = None,
    interval: Annotated[
        float,
        typer.Option(
            min=0.01, max=MOST_SECONDS, help="Seconds between two looks; a file counts when both find it the same."
        ),
    ] = 0.5,
    pair_timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MOST_SECONDS,
            metavar="S",
            help="Seconds after which a part without its picture or its geometry is named, for models that inspect "
            "geometry [default: 60].",
        ),
    ] = None,
    threshold: o.Threshold = None,
    roi: o.Roi = None,
    weights: o.Weights = None,
) -> None:
    """Inspect images as they arrive in a folder, each once, also across restarts; Ctrl-C ends. A model that looks at
    geometry inspects a part when its picture and its geometry are both there."""
    if is_remote(folder):
        raise OptionError(f"{located(folder)}: is not a local folder; watch takes the one that images arrive in")
    if not folder.is_dir():
        raise OptionError(f"{folder}: is not a folder; watch takes the one that images arrive in")
    check_file(output, "the CSV file to write")
    from patchbank.sample import GEOMETRY_CHANNEL, sources_of
    from patchbank.service.pairs import Pairs
    from patchbank.service.watching import COLUMNS, PAIR_COLUMNS, Arrivals, Table
    from patchbank.service.watching import watch as watch_folder
    from patchbank.service.webhook import Webhook

    sender = None if webhook is None else Webhook(webhook)
    detector = open_model(model, weights, machine, roi)
    say_if_undecided(model, detector, threshold)
    needs = sources_of(name for part in detector.parts() for name in part.inputs_.channels)
    has_geometry = GEOMETRY_CHANNEL in needs
    if pair_timeout is not None and not has_geometry:
        raise OptionError(f"{model}: looks at pictures alone, which need no partner: leave out --pair-timeout")
    pairs = Pairs(needs, 60.0 if pair_timeout is None else pair_timeout) if has_geometry else None
    table = Table(output, PAIR_COLUMNS if has_geometry else COLUMNS)
    troubles: list[str | None] = []
    counts = {"accepted": 0, "rejected": 0, "skipped": 0}

    def tell(row: dict[str, Any]) -> None:
        if row["error"]:
            counts["skipped"] += 1
            say(f"skipped {row['error']}", err=True)
        else:
            verdict = "rejected" if row["is_anomalous"] else "accepted"
            counts[verdict] += 1
            say(f"{row['path']}: {verdict}, score {row['score']:.4g}")
        if sender is not None:
            sender.send(row)

    def tell_trouble(sentence: str | None) -> None:
        troubles.append(sentence)
        say(f"{sentence}; waiting for it" if sentence else "it is there again; going on", err=True)

    stop = threading.Event()
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        note(f"watching {folder}; rows go to {output}; Ctrl-C ends")
        arrivals = Arrivals(folder, table.seen, pairs)
        watch_folder(
            detector, arrivals, table, stop, every=interval, on_row=tell, on_trouble=tell_trouble, threshold=threshold
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        table.close()
        if sender is not None:
            sender.close()
    inspected = counts["accepted"] + counts["rejected"]
    lost = f", {sender.lost} not sent to the webhook" if sender is not None and sender.lost else ""
    overdue = pairs.overdue if pairs else 0
    waiting = f", {overdue} not complete" if overdue else ""
    images = counted(inspected, "image")
    say(f"{images} inspected, {counts['rejected']} rejected, {counts['skipped']} skipped{waiting}{lost}")
    raise typer.Exit(1 if counts["skipped"] or waiting or lost or (troubles and troubles[-1]) else 0)
