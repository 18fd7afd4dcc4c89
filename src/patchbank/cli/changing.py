"""Where a changed model goes: a new file, or its own place with the old one kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from patchbank.errors import OptionError
from patchbank.files import keep_copy

if TYPE_CHECKING:
    from patchbank.detectors import Detector

Output: TypeAlias = Annotated[Path | None, typer.Option("-o", "--output", help="The model file to write.")]
InPlace: TypeAlias = Annotated[
    bool, typer.Option("--in-place", help="Replace the model; the old one is kept beside it as .bak.")
]


def check_destination(model: Path, output: Path | None, in_place: bool) -> None:
    """Raise `OptionError` unless exactly one place is given, before any work."""
    if (output is None) == (not in_place):
        raise OptionError("give the file to write with -o NEW.patchbank, or --in-place to keep the old one as .bak")
    if output is not None and output.resolve() == model.resolve():
        raise OptionError(f"{output}: is the model itself; --in-place replaces it and keeps the old one as .bak")
    if output is not None and output.is_dir():
        raise OptionError(f"{output}: is a folder; --output takes the model file to write, such as parts.patchbank")


def save_changed(detector: Detector, model: Path, output: Path | None, in_place: bool) -> None:
    """Write the model, and say where."""
    if in_place:
        typer.echo(f"the model as it was: {keep_copy(model)}")
    written = model if output is None else output
    detector.save(written)
    typer.echo(f"wrote {written}")
