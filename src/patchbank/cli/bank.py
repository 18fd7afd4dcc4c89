"""`patchbank add`, `forget` and `merge`: banks that live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchbank.cli import options as o
from patchbank.cli.changing import InPlace, Output, check_destination, save_changed
from patchbank.cli.console import Failures, progress_bars, threshold_words
from patchbank.cli.opening import open_model
from patchbank.errors import OptionError

if TYPE_CHECKING:
    from patchbank.detector import Detector


def add(
    model: o.Model,
    good: Annotated[list[Path], typer.Argument(help="Further good images, or folders: overruled false alarms, say.")],
    machine: o.Machine,
    output: Output = None,
    in_place: InPlace = False,
    representative: Annotated[
        bool,
        typer.Option(
            "--representative",
            help="The images are a fair sample of good parts, not picked for their scores: the threshold learns too.",
        ),
    ] = False,
    weights: o.Weights = None,
) -> None:
    """Take further good images into a bank; they will not be rejected any more. The threshold stays."""
    check_destination(model, output, in_place, *good)

    detector = open_model(model, weights, machine)
    failures = Failures()
    with progress_bars() as progress:
        detector.add(good, representative=representative, on_error=failures, progress=progress)
    added = detector.history[-1]["images"]
    said = f"added {added} images (those in the model already are passed over): {_bank_words(detector)}"
    save_changed(detector, model, output, in_place, said, threshold_words(detector.calibration_))
    raise typer.Exit(failures.exit_code)


def forget(
    model: o.Model,
    images: Annotated[list[str], typer.Argument(help="Training images, by name or the end of it.")],
    output: Output = None,
    in_place: InPlace = False,
    weights: o.Weights = None,
) -> None:
    """Take training images out of a bank, such as one that was not good after all."""
    check_destination(model, output, in_place)
    from patchbank.loading import load

    detector = load(model, weights=weights).forget(images)
    said = f"forgot {len(images)} images: {_bank_words(detector)}"
    save_changed(detector, model, output, in_place, said, threshold_words(detector.calibration_))


def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="Models of the same kind, such as those of several machines.")
    ],
    output: Output = None,
    in_place: InPlace = False,
    bank_size: o.BankSize = None,
    weights: o.Weights = None,
) -> None:
    """Join the memories of two or more models; --in-place replaces the first."""
    if len(models) < 2:
        raise OptionError("merge joins two or more models: name another one")
    model, *others = models
    check_destination(model, output, in_place, *others)
    from patchbank.loading import load

    detector = load(model, weights=weights)
    detector.merge(*(load(other, weights=weights) for other in others), bank_size=bank_size)
    said = f"joined: {_bank_words(detector)}"
    save_changed(detector, model, output, in_place, said, threshold_words(detector.calibration_))


def _bank_words(detector: Detector) -> str:
    entry = detector.history[-1]
    if entry["vectors"] is None:
        return f"the model knows {detector.training_['images']} images now"
    words = f"the bank has {entry['vectors']} patches now (it had {entry['vectors_before']})"
    radius = entry.get("covering_radius")
    return words if radius is None else f"{words}, covering radius at most {radius:.3g}"
