"""The words of a command line as options and arguments, before they are parsed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Words:
    """`options`: each as it is written, with its value, None for a switch; `arguments`: the others, in order."""

    options: list[tuple[str, str | None]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def joined(self) -> list[str]:
        """One list again."""
        words: list[str] = []
        for name, value in self.options:
            if value is None:
                words.append(name)
            elif name.startswith("--"):
                words.append(f"{name}={value}")
            else:
                words += [name, value]
        return [*words, "--", *self.arguments] if self.arguments else words


def take_apart(words: Sequence[str], with_value: Iterable[str]) -> Words | None:
    """Sort the words of a command line. `with_value`: the options that take a value.

    Returns None where the last option lacks its value: the parser says so better.
    """
    with_value, found, rest = set(with_value), Words(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.arguments += rest
            break
        if not word.startswith("-") or word == "-":
            found.arguments.append(word)
            continue
        name, equals, value = _split(word, with_value)
        if equals:
            found.options.append((name, value))
        elif name not in with_value:
            found.options.append((name, None))
        elif rest:
            found.options.append((name, rest.pop(0)))
        else:
            return None
    return found


def _split(word: str, with_value: set[str]) -> tuple[str, bool, str]:
    """An option, whether its value stands in the same word, and that value."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, bool(equals), value
    if len(word) > 2 and word[:2] in with_value:  # -oFILE
        return word[:2], True, word[2:]
    return word, False, ""


def names_with_value(parameters: Iterable[Any]) -> set[str]:
    """The spellings of all options that take a value."""
    return {
        name
        for parameter in parameters
        if parameter.param_type_name == "option" and not (parameter.is_flag or parameter.count)
        for name in parameter.opts
    }
