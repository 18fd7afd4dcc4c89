"""Every mistake a user can make, as one sentence: what is wrong with which input, and what to do.

The command line prints the message of a `PatchbankError` and exits with 2; it never prints a traceback for one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeAlias

OnError: TypeAlias = Callable[[str, Exception], None]
Progress: TypeAlias = Callable[[str, int, int], None]


def stage_of(said: str) -> str:
    """The stage that a `Progress` is told of. What follows a colon changes on the way, such as the loss."""
    return said.partition(":")[0]


class PatchbankWarning(UserWarning):
    """Something a user should know about a run that went on all the same. The command line prints it as one line."""


def notify(sentence: str) -> None:
    """Warn with one sentence: what was noticed about which input, and what was done or can be done."""
    warnings.warn(sentence, PatchbankWarning, stacklevel=3)


class PatchbankError(Exception):
    """Base of all errors that a user can mend."""


class OptionError(PatchbankError, ValueError):
    """An option or argument has a value that cannot be used."""


class ImageError(PatchbankError):
    """One image cannot be read or inspected; the others can."""


class DatasetError(PatchbankError):
    """A folder does not hold what the work needs."""


class WeightsError(PatchbankError):
    """The weights of a backbone are missing or are not the ones expected."""


class ModelFileError(PatchbankError):
    """A file is not a `.patchbank` model, or not an intact one."""


class ExportError(PatchbankError):
    """An exported graph does not compute what the model does."""


class MissingPackageError(PatchbankError, ImportError):
    """An optional package is needed for what was asked; the message has the install command."""


class MemoryBudgetError(PatchbankError, MemoryError):
    """The work does not fit into the memory it may use; the message has the ways out."""


def warn(name: str, error: Exception) -> None:
    """What happens to an unreadable image unless the caller says otherwise: a warning, and the rest goes on."""
    warnings.warn(f"skipped: {error}", stacklevel=3)


def give_up(name: str, error: Exception) -> None:
    """What happens where a single image was asked for and cannot be read."""
    raise error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for the end of a message about an unknown name, such as "did you mean a or b?"; "" where none is
    near."""
    near = get_close_matches(name, list(known), cutoff=0.7)
    return f"did you mean {' or '.join(near)}?" if near else ""
