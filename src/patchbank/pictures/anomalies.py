"""Synthetic anomalies as pictures: a sample before and after, and where it changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchbank.pictures.heat import Picture
from patchbank.pictures.labels import short_path
from patchbank.pictures.text import Colour, write

_INK: Colour = (25, 28, 33)
_PAPER: Colour = (255, 255, 255)
_TEXT, _GAP = 14, 6  # pixels
_LONG = 4  # strips that stand below each other before a second column begins


def before_after(
    name: str, kind: str, pairs: Sequence[tuple[Picture, Picture]], mask: NDArray[np.bool_], side: int | None = None
) -> Picture:
    """The panels of one sample side by side, below its name and the kind of the anomaly.

    Args:
        name: of the sample.
        kind: of the anomaly.
        pairs: of each of its pictures, H×W×3 uint8 before and after.
        mask: H×W, true where it changed; the last panel, white on black.
        side: pixels of the longer side of a panel; None for those of the picture.
    """
    white = np.repeat((mask[..., None] * np.uint8(255)).astype(np.uint8), 3, axis=2)
    panels = [Image.fromarray(panel) for pair in pairs for panel in pair] + [Image.fromarray(white)]
    if side is not None:
        scale = side / max(mask.shape)
        size = max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1)
        panels = [panel.resize(size) for panel in panels]
    width = sum(panel.width + _GAP for panel in panels) + _GAP
    page = Image.new("RGB", (width, panels[0].height + 2 * _TEXT + _GAP), _PAPER)
    write(page, (_GAP, _TEXT), f"{kind}: {short_path(name)}", _TEXT, _INK, width - 2 * _GAP)
    left = _GAP
    for panel in panels:
        page.paste(panel, (left, 2 * _TEXT))
        left += panel.width + _GAP
    return np.asarray(page)


def contact_sheet(strips: Sequence[Picture]) -> Picture:
    """Strips below each other; in two columns where there are more than a few."""
    columns = 1 if len(strips) <= _LONG else 2
    rows = [strips[i : i + columns] for i in range(0, len(strips), columns)]
    width = max(strip.shape[1] for strip in strips)
    page = Image.new("RGB", (columns * width, sum(max(strip.shape[0] for strip in row) for row in rows)), _PAPER)
    top = 0
    for row in rows:
        for column, strip in enumerate(row):
            page.paste(Image.fromarray(strip), (column * width, top))
        top += max(strip.shape[0] for strip in row)
    return np.asarray(page)
