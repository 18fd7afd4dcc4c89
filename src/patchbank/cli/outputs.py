"""Where results go, tried before the work: nothing is worse than hours of it and then no place to write."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from patchbank._system.files import reason, why_not_file, why_not_folder
from patchbank._system.remote import RemotePath, is_remote, located
from patchbank._system.written import output_names
from patchbank.errors import OptionError


def check_file(path: Path, takes: str, option: str = "-o") -> None:
    """Raise `OptionError` unless a file can be written there. `takes`: what the option is for, such as "the CSV"."""
    _refuse_other_places(path, option)
    why = why_not_file(path)
    if why == "is a folder":
        raise OptionError(f"{path}: is a folder; {option} takes {takes}")
    if why:
        raise OptionError(f"{path}: {why}; name another file with {option}")


def check_folder(path: Path, option: str = "-O") -> None:
    """Raise `OptionError` unless files can be written into that folder, which need not be there yet."""
    _refuse_other_places(path, option)
    why = why_not_folder(path)
    if why == "is a file":
        raise OptionError(f"{path}: is a file; {option} takes a folder for the results")
    if why:
        raise OptionError(f"{path}: {why}; name another folder with {option}")


def _refuse_other_places(path: Path, option: str) -> None:
    if is_remote(path):
        raise OptionError(f"{located(path)}: results are written to local files: name one with {option}, and copy it")
    if str(path) == "-":
        raise OptionError(f"{option} takes a name, not -: results are not written to standard output")


def check_apart(output: Path, inputs: Iterable[Path], option: str = "-o") -> None:
    """Raise `OptionError` where a file to write is one of the files to read."""
    if not output.exists():
        return
    for path in inputs:
        if not isinstance(path, RemotePath) and path.exists() and os.path.samefile(path, output):
            raise OptionError(f"{output}: is read by this command; name another file with {option}")


def result_names(roots: Sequence[Path], paths: Sequence[str], beside: Path | None = None) -> dict[str, Path]:
    """Where the results of each image go, below a folder and without the ending of the image: parts/000 for 000.png.

    A name keeps its ending where another image differs in that alone, and where a file that a result would replace lies
    in the folder `beside`, such as the image itself.
    """
    from patchbank.data.listing import IMAGE_SUFFIXES

    names = output_names(list(roots), list(paths))
    stems = {path: name.with_suffix("") for path, name in names.items() if name.suffix.lower() in IMAGE_SUFFIXES}
    counts = Counter(str(stem).casefold() for stem in stems.values())
    found = dict(names)
    for path, stem in stems.items():
        is_taken = beside is not None and any((beside / f"{stem}{end}").exists() for end in (".png", ".json"))
        if not is_taken and counts[str(stem).casefold()] == 1:
            found[path] = stem
    return found if len({str(name).casefold() for name in found.values()}) == len(found) else names


def written_or_rescued(write: Callable[[Path], None], path: Path) -> Path:
    """Write a file, or, where its disk is full or gone, the same into the system's folder of temporary files.

    Raises:
        OptionError: the file is not where it was wanted; the sentence says where it is instead, if anywhere.
    """
    try:
        write(path)
        return path
    except (OSError, OptionError) as error:
        problem = reason(error.__cause__ if isinstance(error, OptionError) and error.__cause__ else error)
    try:
        rescued = Path(tempfile.mkdtemp(prefix="patchbank-")) / path.name[-100:]
        write(rescued)
    except (OSError, OptionError):
        raise OptionError(f"{path}: cannot be written ({problem})") from None
    raise OptionError(f"{path}: cannot be written ({problem}); what was computed is in {rescued}")
