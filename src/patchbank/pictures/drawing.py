"""One prediction as a picture: the input beside its anomaly map, with the verdict in words above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from patchbank.data import Sample, Tiling, ValueRange, read_image
from patchbank.errors import ImageError
from patchbank.pictures.heat import Picture, heat, resample
from patchbank.pictures.labels import short_path, shortened
from patchbank.prediction import Prediction

Colour = tuple[int, int, int]

_REJECT: Colour = (168, 46, 0)
_REJECT_BAND: Colour = (253, 236, 224)
_ACCEPT: Colour = (0, 84, 147)
_ACCEPT_BAND: Colour = (227, 239, 249)
_INK: Colour = (25, 28, 33)
_PALE_INK: Colour = (84, 90, 99)
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
_PLAIN = ValueRange()
_TRUTH: Colour = (0, 229, 255)  # cyan: nothing on the map's scale comes near it


def overlay(
    image: Picture, prediction: Prediction, mask: NDArray[np.generic] | None = None, *, panel_width: int = 480
) -> Picture:
    """A picture of what the model said about one image, RGB uint8, a little wider than 2 × `panel_width`.

    `image` is the input, RGB uint8 H×W×3; `mask`, H×W, is non-zero where a person marked a defect. Left
    (above, if the image is very wide) the input, right (below) the anomaly map over the greyed input.
    `panel_width` is the room for one of them in pixels; the height follows from the aspect ratio. The
    colours are those of `heat`, tied to `prediction.map_threshold`. Raises `ValueError` if image, map and
    mask differ in shape, or for a panel below 64 pixels.
    """
    _check(image, prediction, mask, panel_width)
    text = max(9, panel_width // 28)
    gap = text // 2
    width = 2 * panel_width + 3 * gap
    stacked = image.shape[1] > 2.5 * image.shape[0]
    room = width - 2 * gap if stacked else panel_width
    size = _panel_size(image.shape[0], image.shape[1], room)
    panels = _panels(image, prediction, mask, size, line=max(1, panel_width // 240))

    right = 2 * gap + panel_width
    top, pitch = 4 * text + gap, 2 * text + size[0] + gap
    bottom = top + (2 if stacked else 1) * pitch
    page = Image.new("RGB", (width, bottom + 3 * text), _WHITE)
    _draw_header(page, prediction, text)
    corners = [(gap, top), (gap, top + pitch) if stacked else (right, top)]
    for (x, y), panel, title in zip(corners, panels, ("input", _map_title(prediction)), strict=True):
        write(page, (x, y + text), title, text, _PALE_INK, room)
        page.paste(Image.fromarray(panel), (x + (room - size[1]) // 2, y + 2 * text))
    _draw_legend(page, (gap, bottom), text, prediction, mask)
    _draw_scale(page, (right, bottom), panel_width, text, prediction.map_threshold)
    return np.array(page, dtype=np.uint8)


def read_again(source: Sample, size: tuple[int, ...], values: ValueRange = _PLAIN) -> Picture:
    """The picture of an image that was inspected at `size` (height, width) before: files go, or change meanwhile.

    Raises:
        ImageError: it cannot be read any more, or has another size now.
    """
    rgb = read_image(source, values)
    if rgb.shape[:2] != tuple(size):
        raise ImageError(f"{source.name}: changed while it was inspected")
    return rgb.astype(np.uint8, copy=False)


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


def _check(image: Picture, prediction: Prediction, mask: NDArray[np.generic] | None, panel_width: int) -> None:
    """Raise `ValueError` for what `overlay` cannot draw."""
    where = prediction.path
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{where}: overlay takes RGB uint8 H×W×3, not {image.dtype} {image.shape}")
    if prediction.map.shape != image.shape[:2]:
        raise ValueError(f"{where}: the map is {prediction.map.shape}, the image {image.shape[:2]}")
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(f"{where}: the mask is {mask.shape}, the image {image.shape[:2]}")
    if panel_width < 64:
        raise ValueError(f"panel_width is {panel_width}; at least 64 pixels are needed")


def _panel_size(height: int, width: int, room: int) -> tuple[int, int]:
    """Rows and columns of a panel: `room` wide or 1.5 × that high, at the image's aspect ratio."""
    scale = min(room / width, 1.5 * room / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _panels(
    image: Picture, prediction: Prediction, mask: NDArray[np.generic] | None, size: tuple[int, int], line: int
) -> tuple[Picture, Picture]:
    """The input and the heat map at `size`, both with the regions and the marked defect drawn in."""
    method = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    photo: Picture = cv2.resize(image, (size[1], size[0]), interpolation=method)
    hot = heat(photo, resample(prediction.map, size), prediction.map_threshold)
    photo = photo.copy()  # at equal size the resize may hand back the caller's own array
    outlines: list[NDArray[np.int32]] = []
    if mask is not None:
        marked = resample(mask != 0, size).astype(np.uint8)
        outlines = list(cv2.findContours(marked, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0])
    boxes = [_box(region.box, image.shape, size, line) for region in prediction.regions]
    for panel in (photo, hot):
        for colour, thickness in ((_BLACK, 2 * line), (_TRUTH, line)):
            cv2.drawContours(panel, outlines, -1, colour, thickness, cv2.LINE_AA)
        for colour, thickness in ((_BLACK, 3 * line), (_WHITE, line)):
            for box in boxes:
                cv2.rectangle(panel, box[:2], box[2:], colour, thickness)
    return photo, hot


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


def _draw_legend(
    page: Image.Image,
    corner: tuple[int, int],
    text: int,
    prediction: Prediction,
    mask: NDArray[np.generic] | None,
) -> None:
    """One sample and its meaning for each kind of mark that the panels carry."""
    entries: list[tuple[str, Colour]] = []
    if prediction.regions:
        entries.append(("region found", _WHITE))
    if mask is not None and np.any(mask):
        entries.append(("marked defect", _TRUTH))
    if np.isnan(prediction.map).any() and not np.isnan(prediction.map).all():
        entries.append(("not inspected", _PALE_INK))
    draw = ImageDraw.Draw(page)
    x, y = corner[0], corner[1] + text // 2
    for words, colour in entries:
        if colour == _PALE_INK:
            hatched = np.full((text + 1, text + 1), np.nan, np.float32)
            page.paste(Image.fromarray(heat(_plain(hatched.shape), hatched, 1.0)), (x, y))
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


def write(page: Image.Image, at: tuple[int, int], words: str, size: int, colour: Colour, room: int) -> None:
    """One line of text, its left middle at `at`; shortened in the middle to fit into `room` pixels."""
    face = font(size)
    keep = len(words)
    while face.getlength(shortened(words, keep)) > room and keep > 2:
        keep -= 1
    ImageDraw.Draw(page).text(at, shortened(words, keep), colour, face, anchor="lm")


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


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in pixels."""
    # matplotlib brings DejaVu Sans, which has ✔, ✖ and most alphabets; imported here: it loads slowly.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
