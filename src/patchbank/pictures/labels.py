"""Names of files and defects as they can be drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath


def printable(text: str) -> str:
    """The text with a placeholder for what no font can draw: line breaks, bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short_path(path: str) -> str:
    """The file name with its folder, which often names the part or the defect."""
    return printable("/".join(PurePath(path).parts[-2:]))


def shortened(text: str, keep: int) -> str:
    """The text itself or its two ends, `keep` characters in all, joined by "…"."""
    if len(text) <= keep:
        return text
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


def wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in lines that fit, broken at its spaces; a word that fits nowhere has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and not fits(longer):
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
