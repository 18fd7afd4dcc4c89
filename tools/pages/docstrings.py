"""What the reference of the API shows, and which of it has no docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_IDENTIFIER = re.compile(r"^::: ([\w.]+)((?:\n {4}.*)*)", re.MULTILINE)
_MEMBERS = re.compile(r"^ +members: *(.*?)$((?:\n +- \w+)*)", re.MULTILINE)


def documented(folder: Path) -> Iterator[tuple[str, list[str] | None]]:
    """Each name that a page below `folder` documents, and the members that the page asks for, None for all."""
    for page in sorted(folder.rglob("*.md")):
        for name, options in _IDENTIFIER.findall(page.read_text(encoding="utf-8")):
            found = _MEMBERS.search(options)
            yield name, None if found is None else re.findall(r"\w+", found[1] + found[2])


def without_docstring(folder: Path) -> list[str]:
    """Names of the reference, and public members of its classes, that have no docstring of their own."""
    missing = []
    for name, members in documented(folder):
        home, _, last = name.rpartition(".")
        thing = getattr(import_module(home), last)
        if not _says(thing):
            missing.append(name)
        if inspect.isclass(thing):
            missing += [f"{name}.{member}" for member in _members(thing, members) if not _says_of(thing, member)]
    return missing


def not_documented(folder: Path) -> list[str]:
    """Public names of the package that no page of the reference has."""
    import patchbank

    shown = {name.rpartition(".")[2] for name, _ in documented(folder)}
    return [name for name in patchbank.__all__ if name not in shown and name != "__version__"]


def _members(thing: type, asked: list[str] | None) -> list[str]:
    """Public methods and properties that the class itself defines, of those asked for."""
    own = [n for n, v in vars(thing).items() if not n.startswith("_") and _is_shown(v)]
    if asked is None:
        return own
    return [n for n in asked if n not in {"false", "False"} and (n in own or not hasattr(thing, n))]


def _is_shown(value: Any) -> bool:
    return (
        inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod) or hasattr(value, "func")
    )


def _says_of(thing: type, member: str) -> bool:
    return member in vars(thing) and _says(vars(thing)[member])


def _says(value: Any) -> bool:
    own = getattr(value, "__doc__", None) or ""
    # a dataclass without a docstring gets its signature for one
    return bool(own.strip()) and not (inspect.isclass(value) and own.startswith(f"{value.__name__}("))
