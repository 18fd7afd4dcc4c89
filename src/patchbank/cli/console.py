"""What the commands show: progress on a terminal, silence in a pipe, and the inputs that failed."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchbank._system.files import write_csv
from patchbank.errors import OptionError, PatchbankWarning, stage_of

if TYPE_CHECKING:
    from patchbank.calibration.calibration import Calibration
    from patchbank.errors import Progress
    from patchbank.features.planning import Plan


def say(text: object, *, err: bool = False) -> bool:
    """Print a line. False where nobody reads it any more, as after `| head`: a command finishes its work all the same.

    Raises:
        OSError: the line cannot be written, such as into a file on a full disk.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed by who started the command
        return False
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        hush(stream)
        return False
    except OSError as error:
        if err:
            return False
        error.filename = error.filename or "standard output"
        raise
    return stream not in _hushed


_hushed: list[Any] = []
_level = 0  # -1: quiet, 1: verbose


def set_level(verbose: bool | None = False, quiet: bool | None = False, *, anew: bool = False) -> None:
    """Say how much is printed from now on. Where nothing is asked for, it stays as it is, unless it is set `anew`."""
    global _level
    if verbose and quiet:
        raise OptionError("--verbose and --quiet exclude each other: leave one of them out")
    if anew or verbose or quiet:
        _level = int(bool(verbose)) - int(bool(quiet))


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return _level > 0


def note(text: object) -> None:
    """Print a line on stderr that is no result and no error; --quiet leaves it out."""
    if _level >= 0:
        say(text, err=True)


def detail(text: object) -> None:
    """Print a line on stderr about what was decided, with --verbose alone."""
    if _level > 0:
        say(text, err=True)


def hush(stream: Any) -> None:
    """Let what is still printed to a closed pipe go nowhere, also what Python prints when it ends."""
    _hushed.append(stream)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def print_anything() -> None:
    """Escape what a terminal's encoding does not have, such as an accent in ASCII: no message is worth a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Print what is still buffered, here and not when Python ends, where nothing could be said about it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            hush(stream)
        except (OSError, ValueError):
            if stream is sys.stdout:
                hush(stream)
                raise


class Failures:
    """Collects the inputs that could not be used; each is named on stderr at once, and the run goes on."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def __call__(self, name: str, error: Exception) -> None:
        self.note(name, str(error), "skipped ")

    def note(self, name: str, sentence: str, before: str = "") -> None:
        """Something went wrong with an input or a file, in a whole sentence."""
        self.rows.append((name, sentence))
        say(f"{before}{sentence}", err=True)

    @property
    def exit_code(self) -> int:
        return 1 if self.rows else 0

    def write(self, path: Path) -> None:
        """errors.csv; an old one from an earlier run goes away where nothing failed now."""
        if not self.rows:
            path.unlink(missing_ok=True)
            return
        write_csv(path, ("path", "error"), ({"path": name, "error": error} for name, error in self.rows))


def show_plan(plan: Plan) -> None:
    """What the fit is going to need, before it starts; in a pipe only where that is unusual."""
    if _is_terminal() or plan.where != "memory" or _level > 0:
        note(plan.text)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def notices() -> Iterator[None]:
    """Within the block each `PatchbankWarning` is one line on stderr, `note: …`, printed once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, PatchbankWarning):
            shown(message, category, *place, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            note(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", PatchbankWarning)
        shown, warnings.showwarning = warnings.showwarning, show
        yield


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """A callback that draws one bar with an ETA per stage; None with --quiet, and where stderr is no terminal."""
    if not _is_terminal() or _level < 0:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "ETA")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks = {}

        def advance(stage: str, done: int, total: int) -> None:
            name = stage_of(stage)
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total, description=stage)

        yield advance


def threshold_words(calibration: Calibration) -> str:
    """The threshold and what it promises, in one or two sentences."""
    threshold, rate = calibration.threshold, calibration.false_alarm_rate
    if math.isinf(threshold):
        return "no threshold: a single part has nothing to be compared with; fit at least two good parts"
    if calibration.chosen is not None:
        return f"threshold {threshold:.4g}: {calibration.chosen_by}"
    words = f"threshold {threshold:.4g} (target false-alarm rate {percent(rate)}; {calibration_words(calibration)}"
    if (interval := calibration.interval()) is not None:
        words += ", tail extrapolated, 90 % interval {:.4g}-{:.4g}".format(*interval)
    elif threshold == max(calibration.scores) and not calibration.is_guaranteed:
        words += f", the highest score: about {100 / (calibration.parts + 1):.2g} % of good parts exceed it"
    reason = calibration.no_guarantee
    return f"{words}); no guarantee: {reason}" if reason else f"{words})"


def calibration_words(calibration: Calibration) -> str:
    """Where the scores come from: the scheme, and how many images or parts."""
    count = counted(len(calibration), "good image")
    if calibration.groups:
        count += f" of {counted(calibration.parts, 'part')}"
    return f"{calibration.how}, {count}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """A share in per cent, without needless zeros."""
    return f"{100 * share:.4g} %"
