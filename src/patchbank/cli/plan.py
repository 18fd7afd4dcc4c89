"""`patchbank plan`: what a fit on a cluster will take, before anything is started."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.console import say
from patchbank.cli.detectors import make_detector
from patchbank.cli.learning import Learning
from patchbank.cli.numbers import MOST_SECONDS
from patchbank.cli.values import parse_bytes
from patchbank.errors import OptionError


def plan(
    images: Annotated[int, typer.Option(min=1, help="Number of good images.")],
    workers: Annotated[int, typer.Option(min=1, help="Number of workers, each with the cores of --threads.")],
    image_size: o.ImageSize = None,
    backbone: o.BackboneName = None,
    weights: o.Weights = None,
    coreset_ratio: o.CoresetRatio = None,
    streaming: o.Streaming = False,
    bank_size: o.BankSize = None,
    worker_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one worker.")] = "8GB",
    network_rate: Annotated[
        str, typer.Option(metavar="SIZE", help="Data that the driver's network moves in a second.")
    ] = "1250MB",
    round_trip: Annotated[
        float, typer.Option(min=0, max=MOST_SECONDS, help="Time of a message to a worker and back, in seconds.")
    ] = 0.005,
    device: o.Device = "auto",
    threads: o.Threads = 1,
    as_json: o.Json = False,
) -> None:
    """Forecast a fit on a cluster of machines like this one, from rates that are measured here for some seconds."""
    memory = parse_bytes(worker_memory, "--worker-memory")
    rate = parse_bytes(network_rate, "--network-rate")
    if rate < 1:
        raise OptionError("--network-rate must be more than 0: give what the network moves in a second, such as 125MB")
    choice = Learning(coreset_ratio=coreset_ratio, streaming=streaming, bank_size=bank_size).options()
    detector = make_detector(
        "patchcore", None, **choice | {"backbone": backbone, "weights": weights, "image_size": image_size},
        device=device, threads=threads,
    )  # fmt: skip
    from patchbank.distributed.measure import measure
    from patchbank.distributed.rates import Work, advice, forecast
    from patchbank.fitting import fresh_scorer

    measured, extractor = measure(detector)
    rates = dataclasses.replace(measured, bytes_per_second=float(rate), round_trip=round_trip)
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
        f"measured here, one worker: {rates.images:.3g} images/s; of the selection {rates.points:.2g} "
        f"points/s and {rates.pairs:.2g} pairs of a point and a centre/s"
    )
    if words:
        say(words)


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
