"""`patchbank plan`: what a fit on a cluster will take, before anything is started."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import say


def plan(
    images: Annotated[int, typer.Option(min=1, help="How many good images.")],
    workers: Annotated[int, typer.Option(min=1, help="How many workers, each with the cores of --threads.")],
    image_size: o.ImageSize = None,
    backbone: o.BackboneName = None,
    weights: o.Weights = None,
    coreset: o.Coreset = None,
    bank_size: o.BankSize = None,
    worker_memory: Annotated[str, typer.Option(help="Memory of one worker, such as 8GB.")] = "8GB",
    network_mb: Annotated[float, typer.Option(min=1, help="MB that the driver's network moves in a second.")] = 1250,
    round_trip_ms: Annotated[float, typer.Option(min=0, help="Time of a message to a worker and back.")] = 5,
    threads: o.Threads = 1,
    as_json: o.Json = False,
) -> None:
    """Forecast a fit on a cluster of machines like this one, from rates that are measured here for some seconds."""
    memory = o.parse_bytes(worker_memory, "--worker-memory")
    detector = o.make_detector(
        "patchcore", None, backbone=backbone, weights=weights, image_size=image_size, coreset=coreset,
        bank_size=bank_size, threads=threads,
    )  # fmt: skip
    from patchbank.distributed.measure import measure
    from patchbank.distributed.rates import Work, advice, forecast
    from patchbank.fitting import fresh_scorer

    measured, extractor = measure(detector)
    rates = dataclasses.replace(measured, bytes_per_second=network_mb * 1e6, round_trip=round_trip_ms / 1e3)
    side = extractor.geometry.image_size
    rows, columns = extractor.grid(extractor.geometry.view(side, side))
    patches = rows * columns
    kept = fresh_scorer(detector, extractor).kept(images * patches)
    work = Work(images, patches, extractor.dimension, kept)
    found = forecast(work, workers, rates)
    words = advice(work, workers, found, memory)
    if as_json:
        facts = {"rates": dataclasses.asdict(rates), "work": dataclasses.asdict(work), **dataclasses.asdict(found)}
        say(json.dumps({**facts, "seconds": found.seconds, "advice": words}))
        return
    say(f"{images} images of {side} pixels: {work.rows} patches × {work.dimension}, {kept} kept")
    say(f"each of {workers} workers: {_size(found.worker_bytes)} of features and bounds")
    say(f"bank: {_size(found.bank_bytes)}")
    say(f"network: {found.rounds} rounds, {_size(found.up)} from the workers, {_size(found.down)} to them")
    for name in ("features", "selection", "calibration"):
        say(f"{name}: {_time(getattr(found, name))}")
    say(f"together: {_time(found.seconds)} if no worker is lost (docs/guides/distributed.md has what losses cost)")
    say(
        f"measured here, one worker: {rates.images:.3g} images/s, {rates.points:.2g} points/s and "
        f"{rates.centres:.2g} centres/s of the selection"
    )
    if words:
        say(words)


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
