"""Where a changed model goes: a new file, or its own place with the old one kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from patchbank._system.files import keep_copy
from patchbank.cli.console import say
from patchbank.cli.outputs import check_apart, check_file, written_or_rescued
from patchbank.errors import OptionError

if TYPE_CHECKING:
    from patchbank.detector import Detector

MODEL = "the model file to write, such as parts.patchbank"
Output: TypeAlias = Annotated[Path | None, typer.Option("-o", "--output", help="The model file to write.")]
InPlace: TypeAlias = Annotated[
    bool, typer.Option("--in-place", help="Replace the model; the old one is kept beside it as .bak.")
]


def check_destination(model: Path, output: Path | None, in_place: bool, *read: Path) -> None:
    """Raise `OptionError` unless exactly one place is given that can be written, before any work. `read`: other files
    that the command reads."""
    if (output is None) == (not in_place):
        raise OptionError("give the file to write with -o NEW.patchbank, or --in-place to keep the old one as .bak")
    if output is not None and output.resolve() == model.resolve():
        raise OptionError(f"{output}: is the model itself; --in-place replaces it and keeps the old one as .bak")
    if output is not None:
        check_file(output, MODEL)
        check_apart(output, [model, *read])
    elif model.is_file():
        check_file(model, MODEL, "--in-place")


def save_changed(detector: Detector, model: Path, output: Path | None, in_place: bool, *said: str) -> None:
    """Write the model, then say what was done: the reader of what is said may have gone."""
    kept = keep_copy(model) if in_place else None
    written = model if output is None else output
    try:
        written_or_rescued(detector.save, written)
    except BaseException:
        if kept is not None:  # the model is as it was
            kept.unlink(missing_ok=True)
        raise
    for sentence in said:
        say(sentence)
    if kept is not None:
        say(f"the model as it was: {kept}")
    say(f"wrote {written}")
