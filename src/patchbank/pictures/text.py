"""Words in pictures."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from patchbank.pictures.labels import shortened

Colour = tuple[int, int, int]


def write(page: Image.Image, at: tuple[int, int], words: str, size: int, colour: Colour, room: int) -> None:
    """One line of text, its left middle at `at`; shortened in the middle to fit into `room` pixels."""
    face = font(size)
    keep = len(words)
    while face.getlength(shortened(words, keep)) > room and keep > 2:
        keep -= 1
    ImageDraw.Draw(page).text(at, shortened(words, keep), colour, face, anchor="lm")


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in pixels."""
    # matplotlib brings DejaVu Sans, which has ✔, ✖ and most alphabets; imported here: it loads slowly.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
