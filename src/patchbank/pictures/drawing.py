"""One prediction as a picture: the input beside its anomaly map, with the verdict in words above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchbank.data import Sample, Tiling, ValueRange
from patchbank.errors import ImageError
from patchbank.pictures.channels import bars_height, draw_bars
from patchbank.pictures.heat import Picture, heat, resample
from patchbank.pictures.labels import short_path
from patchbank.pictures.text import Colour, font, write
from patchbank.prediction import Prediction
from patchbank.shape.shown import NO_POINT, Shown, shown

_REJECT: Colour = (168, 46, 0)
_REJECT_BAND: Colour = (253, 236, 224)
_ACCEPT: Colour = (0, 84, 147)
_ACCEPT_BAND: Colour = (227, 239, 249)
_INK: Colour = (25, 28, 33)
_PALE_INK: Colour = (84, 90, 99)
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
_PLAIN = ValueRange()
_RELIEF = "the shape: its surface under a lamp"
_TRUTH: Colour = (0, 229, 255)  # cyan: nothing on the map's scale comes near it


def overlay(
    image: Picture | Shown, prediction: Prediction, mask: NDArray[np.generic] | None = None, *, panel_width: int = 480
) -> Picture:
    """A picture of what the model said about one image, RGB uint8, a little wider than 2 × `panel_width`.

    Left (above, if the image is very wide) the input, right (below) the anomaly map over the greyed input. Where a
    sample has geometry too, its shaded surface is right of the picture, and the map below. What several channels say
    of the strangest place stands beside it or below, as bars. The colours are those of `heat`, tied to
    `prediction.map_threshold`.

    Args:
        image: the input, RGB uint8 H×W×3, or what `shape.shown` makes of a sample.
        mask: H×W, non-zero where a person marked a defect.
        panel_width: the room for one panel in pixels; the height follows from the aspect ratio.

    Raises:
        ValueError: image, map and mask differ in shape, or a panel is below 64 pixels.
    """
    seen = image if isinstance(image, Shown) else Shown(image)
    _check(seen, prediction, mask, panel_width)
    height, across = seen.picture.shape[:2]
    text = max(9, panel_width // 28)
    gap = text // 2
    width, right = 2 * panel_width + 3 * gap, 2 * gap + panel_width
    columns = 1 if across > 2.5 * height else 2
    room = width - 2 * gap if columns == 1 else panel_width
    size = _panel_size(height, across, room)
    panels = _panels(seen, prediction, mask, size, line=max(1, panel_width // 240))

    top, pitch = 4 * text + gap, 2 * text + size[0] + gap
    corners = [(gap if i % columns == 0 else right, top + i // columns * pitch) for i in range(len(panels) + 1)]
    bottom = top + -(-len(panels) // columns) * pitch
    bars_text = text * 13 // 10
    if prediction.channels:
        bottom = max(bottom, corners[-1][1] + bars_height(prediction.channels, bars_text) + gap)
    page = Image.new("RGB", (width, bottom + 3 * text), _WHITE)
    _draw_header(page, prediction, text)
    for (x, y), (title, panel) in zip(corners, panels, strict=False):
        write(page, (x, y + text), title, text, _PALE_INK, room)
        page.paste(Image.fromarray(panel), (x + (room - size[1]) // 2, y + 2 * text))
    if prediction.channels:
        beside = room if corners[-1][0] == right else width - 2 * gap
        draw_bars(page, corners[-1], beside, bars_text, prediction.channels, prediction.is_anomalous)
    _draw_legend(page, (gap, bottom), text, _marks(seen, prediction, mask))
    _draw_scale(page, (right, bottom), panel_width, text, prediction.map_threshold)
    return np.array(page, dtype=np.uint8)


def read_again(source: Sample, size: tuple[int, ...], values: ValueRange = _PLAIN) -> Shown:
    """What people see of a sample that was inspected at `size` (height, width) before: files go, or change meanwhile.

    Raises:
        ImageError: it cannot be read any more, or has another size now.
    """
    seen = shown(source, values)
    if any(picture.shape[:2] != tuple(size) for picture in (seen.picture, seen.relief) if picture is not None):
        raise ImageError(f"{source.name}: changed while it was inspected")
    return seen


def save_png(picture: Picture, to: Path | BinaryIO) -> None:
    """Write a picture as PNG, lightly compressed because one run writes thousands."""
    Image.fromarray(picture).save(to, format="PNG", compress_level=3)


def strip(pictures: Sequence[Picture], height: int) -> Picture:
    """Pictures side by side at one height."""
    return np.concatenate(
        [cv2.resize(p, (max(1, round(p.shape[1] * height / p.shape[0])), height), interpolation=cv2.INTER_AREA)
         for p in pictures], axis=1,
    )  # fmt: skip


def tiling_picture(image: Picture, tiling: Tiling, inspected: tuple[int, int], width: int = 720) -> Picture:
    """An image at `width` pixels with its tiles: what is taken from each is outlined in white, what they share beyond
    it is darker. `inspected`: (height, width) that the tiles are counted in."""
    size = (max(1, round(image.shape[0] * width / image.shape[1])), width)
    down, across = size[0] / inspected[0], size[1] / inspected[1]
    shared = np.zeros(size, np.uint8)
    tiles = list(tiling.tiles(*inspected))
    for rows, columns in tiles:
        shared[round(rows.start * down) : round(rows.stop * down), round(columns.start * across) :][
            :, : round((columns.stop - columns.start) * across)
        ] += 1
    picture = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    picture = np.where(shared[..., None] > 1, (0.7 * picture).astype(np.uint8), picture)
    for rows, columns in tiles:
        corners = [
            (round(x * across), round(y * down)) for x, y in ((columns.first, rows.first), (columns.last, rows.last))
        ]
        for colour, thickness in ((_BLACK, 3), (_WHITE, 1)):
            cv2.rectangle(picture, corners[0], corners[1], colour, thickness)
    return np.asarray(picture)


def _check(seen: Shown, prediction: Prediction, mask: NDArray[np.generic] | None, panel_width: int) -> None:
    """Raise `ValueError` for what `overlay` cannot draw."""
    where, image = prediction.path, seen.picture
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{where}: overlay takes RGB uint8 H×W×3, not {image.dtype} {image.shape}")
    others = {"map": prediction.map, "mask": mask, "shaded surface": seen.relief}
    for name, other in others.items():
        if other is not None and other.shape[:2] != image.shape[:2]:
            raise ValueError(f"{where}: the {name} is {other.shape[:2]}, the image {image.shape[:2]}")
    if panel_width < 64:
        raise ValueError(f"panel_width is {panel_width}; at least 64 pixels are needed")


def _panel_size(height: int, width: int, room: int) -> tuple[int, int]:
    """Rows and columns of a panel: `room` wide or 1.5 × that high, at the image's aspect ratio."""
    scale = min(room / width, 1.5 * room / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _panels(
    seen: Shown, prediction: Prediction, mask: NDArray[np.generic] | None, size: tuple[int, int], line: int
) -> list[tuple[str, Picture]]:
    """The input, its shaded surface and the heat map at `size` with their titles, the regions and the marked defect
    drawn in."""
    shape = seen.picture.shape
    method = cv2.INTER_AREA if size[0] < shape[0] else cv2.INTER_LINEAR
    photo, *more = (
        np.asarray(cv2.resize(picture, (size[1], size[0]), interpolation=method))
        for picture in (seen.picture, seen.relief)
        if picture is not None
    )
    hot = heat(photo, resample(prediction.map, size), prediction.map_threshold)
    outlines: list[NDArray[np.int32]] = []
    if mask is not None:
        marked = resample(mask != 0, size).astype(np.uint8)
        outlines = list(cv2.findContours(marked, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0])
    boxes = [_box(region.box, shape, size, line) for region in prediction.regions]
    first = _RELIEF if seen.is_relief else "the picture" if more else "input"
    titles = [first, *([_RELIEF] if more else []), _map_title(prediction)]
    panels = [photo.copy(), *more, hot]  # at equal size the resize may hand back the caller's own array
    for panel in panels:
        for colour, thickness in ((_BLACK, 2 * line), (_TRUTH, line)):
            cv2.drawContours(panel, outlines, -1, colour, thickness, cv2.LINE_AA)
        for colour, thickness in ((_BLACK, 3 * line), (_WHITE, line)):
            for box in boxes:
                cv2.rectangle(panel, box[:2], box[2:], colour, thickness)
    return list(zip(titles, panels, strict=True))


def _box(
    box: tuple[int, int, int, int], shape: tuple[int, ...], size: tuple[int, int], line: int
) -> tuple[int, int, int, int]:
    """A region's box in panel pixels, both corners inclusive; wider, so that a speck stays visible in it."""
    across, down, margin = size[1] / shape[1], size[0] / shape[0], 5 * line
    left, top = round(box[0] * across) - margin, round(box[1] * down) - margin
    right, bottom = round(box[2] * across) - 1 + margin, round(box[3] * down) - 1 + margin
    return max(left, line), max(top, line), min(right, size[1] - 1 - line), min(bottom, size[0] - 1 - line)


def _draw_header(page: Image.Image, prediction: Prediction, text: int) -> None:
    """Verdict, score and threshold in the first line; file name and p-value in the second."""
    rejected = prediction.is_anomalous
    colour = _REJECT if rejected else _ACCEPT
    edge, left, big = text // 2, text, text * 5 // 4
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page.width, 4 * text), fill=_REJECT_BAND if rejected else _ACCEPT_BAND)
    draw.rectangle((0, 0, edge - 2, 4 * text), fill=colour)
    verdict = "✖ REJECT" if rejected else "✔ OK"
    draw.text((left, 4 * text // 3), verdict, colour, font(big, bold=True), anchor="lm")
    after = left + round(font(big, bold=True).getlength(verdict)) + text
    write(page, (after, 4 * text // 3), _comparison(prediction), big, _INK, page.width - after - edge)
    chance = _chance(prediction.p_value)
    chance_left = page.width - edge - math.ceil(font(text).getlength(chance))
    write(page, (chance_left, 3 * text), chance, text, _PALE_INK, page.width - chance_left)
    write(page, (left, 3 * text), short_path(prediction.path), text, _INK, chance_left - left - text)


def _marks(seen: Shown, prediction: Prediction, mask: NDArray[np.generic] | None) -> list[tuple[str, Colour]]:
    """The kinds of mark that the panels carry, each with its meaning and its colour."""
    marks: list[tuple[str, Colour]] = []
    if prediction.regions:
        marks.append(("region found", _WHITE))
    if mask is not None and np.any(mask):
        marks.append(("marked defect", _TRUTH))
    if np.isnan(prediction.map).any() and not np.isnan(prediction.map).all():
        marks.append(("not inspected", _PALE_INK))
    relief = seen.picture if seen.is_relief else seen.relief
    if relief is not None and np.all(relief == NO_POINT, axis=2).any():
        marks.append(("no point", NO_POINT))
    return marks


def _draw_legend(page: Image.Image, corner: tuple[int, int], text: int, marks: list[tuple[str, Colour]]) -> None:
    """One sample of each kind of mark, and its meaning."""
    draw = ImageDraw.Draw(page)
    x, y = corner[0], corner[1] + text // 2
    for words, colour in marks:
        if colour == _PALE_INK:
            hatched = np.full((text + 1, text + 1), np.nan, np.float32)
            page.paste(Image.fromarray(heat(_plain(hatched.shape), hatched, 1.0)), (x, y))
        elif colour == NO_POINT:
            draw.rectangle((x, y, x + text, y + text), fill=colour)
        else:
            draw.rectangle((x, y, x + text, y + text), fill=(150, 150, 150), outline=_BLACK)
            draw.rectangle((x + 1, y + 1, x + text - 1, y + text - 1), outline=colour, width=2)
            draw.rectangle((x + 3, y + 3, x + text - 3, y + text - 3), outline=_BLACK)
        write(page, (x + text * 3 // 2, y + text // 2), words, text, _PALE_INK, page.width)
        x += text * 5 // 2 + round(font(text).getlength(words))


def _draw_scale(page: Image.Image, corner: tuple[int, int], width: int, text: int, threshold: float) -> None:
    """The colour bar with 0, the threshold and its double, or with what an odd threshold leaves of them."""
    x, y = corner
    usable = 0 < threshold < math.inf
    values = np.linspace(0, 2, width, dtype=np.float32)[None].repeat(text, axis=0)
    draw = ImageDraw.Draw(page)
    if threshold <= 0:
        values = np.where(values > 1, 1, threshold).astype(np.float32)
    page.paste(Image.fromarray(heat(_plain(values.shape), values, 1.0 if usable else threshold)), (x, y))
    words = ["0", "threshold", "2× threshold"] if usable else ["no threshold: no colour"]
    if threshold <= 0:
        words = ["", "threshold 0", "above"]
    for place, word in zip((0.0, 0.5, 1.0), words, strict=False):
        length = font(text).getlength(word)
        mark = x + place * (width - 1)
        draw.line((mark, y, mark, y + text * 5 // 4), fill=_INK, width=2)
        write(page, (x + round(place * (width - length)), y + 2 * text), word, text, _PALE_INK, width)


def _plain(shape: tuple[int, ...]) -> Picture:
    """A mid-grey photo, for samples of the colours."""
    return np.full((*shape, 3), 128, np.uint8)


def _comparison(prediction: Prediction) -> str:
    score, threshold = prediction.score, prediction.threshold
    sign = ">" if score > threshold else "≤"
    ratio = f" ({score / threshold:.2f}×)" if 0 < threshold < math.inf and math.isfinite(score) else ""
    return f"score {score:.4g} {sign} threshold {threshold:.4g}{ratio}".replace("inf", "∞")


def _chance(p_value: float) -> str:
    if math.isnan(p_value):
        return "p-value unknown"
    rounded = float(f"{p_value:.2g}")
    return f"p = {rounded:g}: at most {100 * rounded:.3g} % of good parts score this high"


def _map_title(prediction: Prediction) -> str:
    if np.isnan(prediction.map).all():
        return "this method gives no map"
    count = len(prediction.regions)
    return f"anomaly map: {count or 'no'} region{'' if count == 1 else 's'} above the threshold"
