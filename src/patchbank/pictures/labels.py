"""Names of files and defects as they can be drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from patchbank.data.folder_names import joined_name
from patchbank.data.pairing import COLOURS, GEOMETRIES


def printable(text: str) -> str:
    """The text with a placeholder for what no font can draw: line breaks, bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short_path(path: str) -> str:
    """The file name with its folder, which often names the part or the defect; with the one above a folder such as
    rgb or xyz, which names a channel."""
    parts = PurePath(path).parts
    is_channel = len(parts) > 1 and joined_name(parts[-2]) in COLOURS | GEOMETRIES
    return printable("/".join(parts[-3 if is_channel else -2 :]))


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
