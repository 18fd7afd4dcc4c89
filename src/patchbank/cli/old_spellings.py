"""What options were called before, and in which order arguments stood: taken for one version, with a line on stderr."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from patchbank._system.former_names import GONE_IN
from patchbank.cli.argv import Words
from patchbank.cli.console import note
from patchbank.errors import OptionError


@dataclass(frozen=True)
class New:
    """An option's new name, for people if that differs, and what becomes of its value."""

    name: str
    shown: str = ""
    value: Callable[[str], str] = str

    def words_for(self, old: str) -> str:
        return f"{old} is now {self.shown or self.name}"


def _times(factor: float) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            return f"{float(text) * factor:.12g}"
        except ValueError:
            return text

    return convert


def _with(unit: str) -> Callable[[str], str]:
    """A number gets the unit that it had silently."""

    return lambda text: f"{text}{unit}" if _is_bare(text) else text


def _is_bare(text: str) -> bool:
    """Whether a text is a number without a unit, other than 0."""
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None and float(text) > 0


_FOLDER = {"-o": New("-O", "-O (--output-dir)"), "--output": New("--output-dir", "--output-dir (-O)")}
_EVERYWHERE = {
    "--runtime": New("--engine"),
    "--bank-mb": New("--bank-memory", "--bank-memory, such as 6MB", _with("MB")),
    "--max-minutes": New("--max-seconds", value=_times(60)),
    "--coreset": New("--coreset-ratio", "--coreset-ratio, or --streaming"),
}
_OF_COMMANDS: dict[str, dict[str, New]] = {
    **dict.fromkeys(("predict", "explain", "evaluate", "compare", "demo", "audit", "show-anomalies"), _FOLDER),
    "benchmark": {**_FOLDER, "--every": New("--subsample")},
    "export": {**_FOLDER, "--to": New("--format"), "--size": New("--input-size")},
    "watch": {"--every": New("--interval")},
    "serve": {"--batch-wait": New("--batch-delay", "--batch-delay, in seconds", _times(1e-3))},
    "plan": {
        "--network-mb": New("--network-rate", "--network-rate, such as 1250MB", _with("MB")),
        "--round-trip-ms": New("--round-trip", "--round-trip, in seconds", _times(1e-3)),
    },
}  # fmt: skip
# sizes that were bytes, or million pixels, without a unit
_UNITS = {
    **dict.fromkeys(
        ("--memory-budget", "--cache", "--keep-images", "--max-upload", "--worker-memory", "--pixel-memory"), "B"
    ),
    "--max-pixels": "MP",
}
_LEAST_BYTES = 1_000  # fewer were never meant: whoever gives 4 means GB


def old_options(command: str, options: Iterable[str]) -> dict[str, New]:
    """The old spellings of a command whose options are `options`."""
    has = set(options)
    found = {old: new for old, new in _EVERYWHERE.items() if new.name in has and old not in has}
    return found | _OF_COMMANDS.get(command, {})


def translate(command: str, words: Words, options: Iterable[str]) -> Words:
    """The same command line in new spellings. Each old one is named on stderr."""
    old = old_options(command, options)
    said: list[str] = []
    new = Words([_new_option(name, value, old, said) for name, value in words.options], list(words.arguments))
    _reorder(command, new, said)
    for sentence in dict.fromkeys(said):
        note(f"patchbank {command}: {sentence}; the old spelling works until {GONE_IN}")
    return new


def _new_option(name: str, value: str | None, old: dict[str, New], said: list[str]) -> tuple[str, str | None]:
    if name == "--coreset" and name in old and value == "stream":
        said.append("--coreset stream is now --streaming")
        return "--streaming", None
    if name in old and value is not None:
        said.append(old[name].words_for(name))
        return old[name].name, old[name].value(value)
    if name in _UNITS and value is not None and _is_bare(value):
        if _UNITS[name] == "B" and 0 < float(value) < _LEAST_BYTES:
            raise OptionError(f"{name} {value}: has no unit: write {value}GB or {value}MB")
        said.append(f"{name} {value} is now {name} {value}{_UNITS[name]}, with its unit")
        return name, f"{value}{_UNITS[name]}"
    return name, value


def _reorder(command: str, words: Words, said: list[str]) -> None:
    """Arguments in the order that they have now."""
    arguments = words.arguments
    if command == "calibrate" and len(arguments) == 3:
        said.append("the folder of defects is now --defects FOLDER")
        words.options.append(("--defects", arguments.pop()))
    if command == "watch" and len(arguments) == 2 and os.path.isdir(arguments[0]) and os.path.isfile(arguments[1]):
        said.append("the model is now the first argument, and the folder the second")
        arguments.reverse()
