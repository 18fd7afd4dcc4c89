"""An explanation as a picture: the verdict, and below it each suspicious place beside the nearest good patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchbank.data import RGB, Sample, ValueRange, read_image
from patchbank.data.content import pixel_digest
from patchbank.errors import ImageError
from patchbank.io.thumbnails import Thumbnail
from patchbank.pictures.drawing import font, overlay, write
from patchbank.pictures.heat import Picture
from patchbank.pictures.labels import short_path
from patchbank.prediction import Explanation, Neighbour, Place

if TYPE_CHECKING:
    from patchbank.detector import Detector

Box = tuple[int, int, int, int]
Find = Callable[[str], "tuple[Picture, tuple[int, int]] | None"]

_CONTEXT = 7  # a crop shows so many patches across
_PLAIN = ValueRange()
_LEAST = 32  # pixels of the input that a crop shows at least
_INK, _PALE, _WHITE = (25, 28, 33), (84, 90, 99), (255, 255, 255)


def explanation_picture(
    image: Picture, explanation: Explanation, find: Find, mask: NDArray[np.generic] | None = None
) -> Picture:
    """The `overlay` of an image, and for each place a row of crops, all at one scale: the suspicious patch, then the
    nearest good ones with their names and distances.

    `find(name)` gives a training image, or a small picture of it, and its (height, width); None where neither is there.
    """
    top = overlay(image, explanation.prediction, mask)
    return np.concatenate([top, *explanation_rows(image, explanation, find, top.shape[1])])


def explanation_rows(image: Picture, explanation: Explanation, find: Find, width: int) -> list[Picture]:
    """The rows of `explanation_picture`, without the overlay."""
    return [_row(image, place, find, width, number) for number, place in enumerate(explanation.places, 1)]


def places_picture(image: Picture, explanation: Explanation, find: Find, width: int = 984) -> Picture | None:
    """The rows of crops alone, for where the image is shown beside them; None where there are no places."""
    rows = explanation_rows(image, explanation, find, width)
    return np.concatenate(rows) if rows else None


def finder(
    thumbnails: dict[str, Thumbnail],
    folder: str | None = "",
    values: ValueRange = _PLAIN,
    digests: Mapping[str, str] | None = None,
) -> Find:
    """Training images from where they were (relative names: in `folder`), or else from the model's thumbnails; without
    a folder from these alone. `digests`: of the images' pixels by name; a file that shows something else now is not
    taken for the training image."""

    def is_same(name: str, rgb: RGB) -> bool:
        known = (digests or {}).get(name)
        return not known or pixel_digest(rgb) == known

    def find(name: str) -> tuple[Picture, tuple[int, int]] | None:
        kept = thumbnails.get(name)
        if folder is None:
            return None if kept is None else (kept.pixels(), kept.size)
        try:
            original = read_image(Sample.of(name, Path(folder, name)), values)
        except ImageError:
            original = None
        if original is not None and (kept is None or original.shape[:2] == kept.size) and is_same(name, original):
            return original.astype(np.uint8, copy=False), (original.shape[0], original.shape[1])
        return None if kept is None else (kept.pixels(), kept.size)

    return find


def finder_of(detector: Detector) -> Find:
    """The training images of a model, as `finder`."""
    return finder(detector.thumbnails_, detector.folder, detector.values_, detector.digests)


def _row(image: Picture, place: Place, find: Find, width: int, number: int) -> Picture:
    """One place: a line of words and the crops."""
    text, gap, columns = 17, 8, 6
    side = (width - (columns + 1) * gap) // columns
    page = Image.new("RGB", (width, 2 * text + side + 4 * text), _WHITE)
    words = f"{number}. at column {place.x}, row {place.y}: the map says {place.value:.4g}"
    if not place.neighbours:
        words += "; this method keeps no patches of good parts to show beside it"
    write(page, (gap, text), words, text, _INK, width - 2 * gap)
    reach = _reach(place.box)
    crops = [(_crop(image, image.shape[:2], place.box, reach, side), "this part", "")]
    for neighbour in place.neighbours[: columns - 1]:
        crops.append((_of_good(neighbour, find, reach, side), short_path(neighbour.image), _distance(neighbour)))
    for column, (crop, name, below) in enumerate(crops):
        x, y = gap + column * (side + gap), 2 * text
        page.paste(Image.fromarray(crop), (x, y))
        if column == 0:
            ImageDraw.Draw(page).rectangle((x, y, x + side - 1, y + side - 1), outline=(168, 46, 0), width=3)
        for line, part in enumerate((name, below)):
            write(page, (x, y + side + text + line * (text + 4)), part, text - 3, _PALE if line else _INK, side)
    return np.asarray(page)


def _distance(neighbour: Neighbour) -> str:
    return f"distance {neighbour.distance:.4g}"


def _reach(box: Box) -> int:
    """Half the side of a crop, in pixels of the input."""
    return max(_LEAST, _CONTEXT * max(box[2] - box[0], box[3] - box[1])) // 2


def _of_good(neighbour: Neighbour, find: Find, reach: int, side: int) -> Picture:
    found = find(neighbour.image)
    if found is None:
        blank = Image.new("RGB", (side, side), (235, 237, 240))
        ImageDraw.Draw(blank).text((side / 2, side / 2), "no picture", _PALE, font(13), anchor="mm")
        return np.asarray(blank)
    return _crop(found[0], found[1], neighbour.box, reach, side)


def _crop(picture: Picture, size: tuple[int, ...], box: Box, reach: int, side: int) -> Picture:
    """`reach` pixels of the image to each side of a box's middle, side×side, the box drawn in; `picture` may show the
    image of `size` smaller than it is. What lies outside the image is grey."""
    y_scale, x_scale = picture.shape[0] / size[0], picture.shape[1] / size[1]
    zoom = side / (2 * reach)
    middle_x, middle_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    # pixel centres have whole numbers
    shift = [
        [zoom / x_scale, 0, side / 2 - zoom * middle_x + 0.5 * (zoom / x_scale - 1)],
        [0, zoom / y_scale, side / 2 - zoom * middle_y + 0.5 * (zoom / y_scale - 1)],
    ]
    flags = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    crop = cv2.warpAffine(picture, np.array(shift), (side, side), flags=flags, borderValue=(200, 200, 200))
    half_width, half_height = zoom * (box[2] - box[0]) / 2, zoom * (box[3] - box[1]) / 2
    corners = [round(side / 2 - half_width), round(side / 2 - half_height)]
    corners += [round(side / 2 + half_width), round(side / 2 + half_height)]
    for colour, thickness in (((0, 0, 0), 3), (_WHITE, 1)):
        cv2.rectangle(crop, (corners[0], corners[1]), (corners[2], corners[3]), colour, thickness)
    return np.asarray(crop, dtype=np.uint8)
