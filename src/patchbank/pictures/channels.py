"""Which of several channels finds a part unusual, and by how much: in words, and as bars."""

from __future__ import annotations

import re
from collections.abc import Mapping

from PIL import Image, ImageDraw

from patchbank.pictures.labels import wrapped
from patchbank.pictures.text import font, write
from patchbank.sample import MADE_OF

PICTURE, SHAPE, BOTH = "picture", "shape", "both"
_INK, _PALE = (25, 28, 33), (84, 90, 99)
_UNIT = "standard deviations"
_BARS = {PICTURE: (0, 114, 178), SHAPE: (213, 94, 0)}  # told apart with every kind of colour blindness
_EMPTY = (230, 232, 236)
_SHARE = 0.5  # of the largest distance: what reaches it has seen the same place
_LEAST = 8.0  # standard deviations that fill a bar at least, so that the bars of a good part stay short
_PLAIN_WORDS = {
    "rgb": "the picture",
    "curvature": "how the surface bends",
    "normals": "which way the surface faces",
    "height": "how high the surface is",
    "shading": "the surface under three lights",
    "fpfh": "the shape around each point",
    "points": "the points, seen by a network",
    "relief": "the heights of the surface",
    "holes": "where points are missing",
    "valid": "the share of measured points",
}


def seen_by(channels: Mapping[str, float]) -> str | None:
    """Whether the picture, the shape or both find the strangest place of a part unusual.

    Args:
        channels: as `Prediction.channels`, in standard deviations of good patches.

    Returns:
        `PICTURE`, `SHAPE` or `BOTH`: what reaches half of the largest distance. None where the channels are only
        pictures, or only geometry, or nothing is above the mean of good parts.
    """
    largest: dict[str, float] = {}
    for name, value in channels.items():
        kind = kind_of(name)
        largest[kind] = max(value, largest.get(kind, value))
    top = max(largest.values(), default=0.0)
    if len(largest) < 2 or not top > 0:
        return None
    seen = [kind for kind, value in largest.items() if value >= _SHARE * top]
    return seen[0] if len(seen) == 1 else BOTH


def kind_of(channel: str) -> str:
    """`SHAPE` for a channel that is made of geometry, else `PICTURE`."""
    return SHAPE if channel in MADE_OF else PICTURE


def meaning_of(channel: str) -> str:
    """What a channel shows, for someone who does not know its name; the name itself where nobody can say."""
    if sides := re.fullmatch(r"views(\d+)", channel):
        return f"the part, drawn from {sides[1]} side{'' if sides[1] == '1' else 's'}"
    return _PLAIN_WORDS.get(channel, channel)


def in_words(channels: Mapping[str, float]) -> str:
    """Such as "curvature: 14 standard deviations above good parts, rgb: 1.2", the largest first; "" for one
    channel."""
    words: list[str] = []
    for name, value in _largest_first(channels):
        words.append(f"{name}: {deviations(value)}" + ("" if words else f" {_UNIT} above good parts"))
    return ", ".join(words)


def summary(channels: Mapping[str, float], is_anomalous: bool) -> str:
    """Which of picture and shape is unusual, in a sentence; "" where there is nothing to tell apart."""
    seen = seen_by(channels)
    if seen is None:
        return ""
    if not is_anomalous:
        return "The part is accepted: taken together, this is within what good parts show."
    if seen == BOTH:
        return "Both the picture and the shape show something that good parts do not have."
    other = SHAPE if seen == PICTURE else PICTURE
    return f"The {seen} shows it. The {other} looks far more like that of good parts there."


def deviations(value: float) -> str:
    """A number of standard deviations as people say it."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def bars_height(channels: Mapping[str, float], text: int) -> int:
    """Pixels that `draw_bars` needs."""
    return text + (5 if seen_by(channels) else 2) * text * 3 // 2 + len(channels) * text * 3


def draw_bars(
    page: Image.Image, corner: tuple[int, int], room: int, text: int, channels: Mapping[str, float], is_anomalous: bool
) -> None:
    """A bar for each channel below a title, and the `summary`; `corner`: left and top; `room`: width in pixels."""
    x, y = corner
    draw, line = ImageDraw.Draw(page), text * 3 // 2
    write(page, (x, y + text), "unusual at the strangest place, in", text, _PALE, room)
    write(page, (x, y + text + line), f"{_UNIT} above good parts:", text, _PALE, room)
    y += 2 * line + text
    number, full = 4 * text, max(_LEAST, *channels.values())
    for name, value in _largest_first(channels):
        meaning = meaning_of(name)
        words = name if meaning == name else f"{name}: {meaning}"
        write(page, (x, y + text // 2), words, text, _INK, room)
        top, width = y + text * 5 // 4, room - number
        draw.rectangle((x, top, x + width, top + text), fill=_EMPTY)
        if (filled := round(width * max(value, 0.0) / full)) > 0:
            draw.rectangle((x, top, x + filled, top + text), fill=_BARS[kind_of(name)])
        write(page, (x + width + text // 2, top + text // 2), deviations(value), text, _INK, number)
        y += 3 * text
    face = font(text)
    for sentence in wrapped(summary(channels, is_anomalous), lambda words: face.getlength(words) <= room):
        write(page, (x, y + text), sentence, text, _INK, room)
        y += line


def _largest_first(channels: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(channels.items(), key=lambda item: -item[1])
