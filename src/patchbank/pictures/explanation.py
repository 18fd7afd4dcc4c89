"""An explanation as a picture: the verdict, and below it each suspicious place beside the nearest good patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from patchbank._system.remote import is_remote, located
from patchbank.data import ValueRange
from patchbank.data.content import digest_of, pixel_digest
from patchbank.data.pairing import Pairing
from patchbank.errors import ImageError
from patchbank.io.thumbnails import Thumbnail
from patchbank.pictures.drawing import overlay
from patchbank.pictures.heat import Picture
from patchbank.pictures.labels import short_path
from patchbank.pictures.text import font, write
from patchbank.prediction import Explanation, Neighbour, Place
from patchbank.sample import RGB_CHANNEL
from patchbank.shape.shown import Shown, shown

if TYPE_CHECKING:
    from patchbank.detector import Detector

Box = tuple[int, int, int, int]


class Good(NamedTuple):
    """A training image: its picture or a small one, the (height, width) of the image, its shaded surface or None."""

    picture: Picture
    size: tuple[int, int]
    relief: Picture | None = None


Find = Callable[[str], "Good | None"]

_CONTEXT = 7  # a crop shows so many patches across
_PLAIN = ValueRange()
_LEAST = 32  # pixels of the input that a crop shows at least
_INK, _PALE, _WHITE = (25, 28, 33), (84, 90, 99), (255, 255, 255)


def explanation_picture(
    image: Picture | Shown, explanation: Explanation, find: Find, mask: NDArray[np.generic] | None = None
) -> Picture:
    """The `overlay` of an image, and for each place a row of crops, all at one scale: the suspicious patch, then the
    nearest good ones with their names and distances. Below it the same crops of the shaded surfaces, where a sample has
    geometry beside its picture.

    `find(name)` gives a training image, or a small picture of it; None where neither is there.
    """
    top = overlay(image, explanation.prediction, mask)
    return np.concatenate([top, *explanation_rows(image, explanation, find, top.shape[1])])


def explanation_rows(image: Picture | Shown, explanation: Explanation, find: Find, width: int) -> list[Picture]:
    """The rows of `explanation_picture`, without the overlay."""
    seen = image if isinstance(image, Shown) else Shown(image)
    return [_row(seen, place, find, width, number) for number, place in enumerate(explanation.places, 1)]


def places_picture(image: Picture | Shown, explanation: Explanation, find: Find, width: int = 984) -> Picture | None:
    """The rows of crops alone, for where the image is shown beside them; None where there are no places."""
    rows = explanation_rows(image, explanation, find, width)
    return np.concatenate(rows) if rows else None


def finder(
    thumbnails: Mapping[str, Thumbnail],
    folder: str | None = "",
    values: ValueRange = _PLAIN,
    digests: Mapping[str, str] | None = None,
    channel: str = RGB_CHANNEL,
) -> Find:
    """Training images from where they were, or else from the model's thumbnails.

    Args:
        thumbnails: of the model.
        folder: that relative names are in; None to use the thumbnails alone.
        values: what pixel values and depths mean to the model.
        digests: of the images' pixels by name; a file that shows something else now is not taken for the training
            image.
        channel: the first one that the model looks at.
    """
    pairing = Pairing()

    def read(name: str) -> Good | None:
        source = pairing.sample(located(name) if is_remote(name) else Path(folder or "", name)).seen_in(channel)
        try:
            seen = shown(source, values)
        except ImageError:
            return None
        size = (seen.picture.shape[0], seen.picture.shape[1])
        kept, known = thumbnails.get(name), (digests or {}).get(name)
        if kept is not None and kept.size != size:
            return None
        # of deep images and of geometry another digest is known than that of the picture that people see
        is_same = not known or pixel_digest(seen.picture) == known or digest_of(source, values) == known
        return Good(seen.picture, size, seen.relief) if is_same else None

    def find(name: str) -> Good | None:
        kept = thumbnails.get(name)
        original = None if folder is None else read(name)
        if original is not None or kept is None:
            return original
        return Good(kept.pixels(), kept.size, kept.relief_pixels())

    return find


def finder_of(detector: Detector) -> Find:
    """The training images of a model, as `finder`."""
    channel = detector.inputs_.channels[0]
    return finder(detector.thumbnails_, detector.folder, detector.values_, detector.digests, channel)


def _row(seen: Shown, place: Place, find: Find, width: int, number: int) -> Picture:
    """One place: a line of words and the crops, and those of the shaded surfaces."""
    text, gap, columns = 17, 8, 6
    side = (width - (columns + 1) * gap) // columns
    pictures = [picture for picture in (seen.picture, seen.relief) if picture is not None]
    names = 2 * text + len(pictures) * (side + gap) - gap
    page = Image.new("RGB", (width, names + 4 * text), _WHITE)
    words = f"{number}. at column {place.x}, row {place.y}: the map says {place.value:.4g}"
    if place.channel:
        words += f"; the nearest good patches, by {place.channel}:"
    if not place.neighbours:
        words += "; this method keeps no patches of good parts to show beside it"
    write(page, (gap, text), words, text, _INK, width - 2 * gap)
    reach, size = _reach(place.box), seen.picture.shape[:2]
    columns_of = [([_crop(picture, size, place.box, reach, side) for picture in pictures], "this part", "")]
    for neighbour in place.neighbours[: columns - 1]:
        distance = (
            f"{neighbour.distance:.3g} std. deviations" if place.channel else f"distance {neighbour.distance:.4g}"
        )
        crops = _of_good(neighbour, find, reach, side)[: len(pictures)]
        columns_of.append((crops, short_path(neighbour.image), distance))
    for column, (crops, name, below) in enumerate(columns_of):
        x = gap + column * (side + gap)
        for line, crop in enumerate(crops):
            y = 2 * text + line * (side + gap)
            page.paste(Image.fromarray(crop), (x, y))
            if column == 0:
                ImageDraw.Draw(page).rectangle((x, y, x + side - 1, y + side - 1), outline=(168, 46, 0), width=3)
        for line, part in enumerate((name, below)):
            write(page, (x, names + text + line * (text + 4)), part, text - 3, _PALE if line else _INK, side)
    return np.asarray(page)


def _reach(box: Box) -> int:
    """Half the side of a crop, in pixels of the input."""
    return max(_LEAST, _CONTEXT * max(box[2] - box[0], box[3] - box[1])) // 2


def _of_good(neighbour: Neighbour, find: Find, reach: int, side: int) -> list[Picture]:
    """A good patch in the picture and in the shaded surface of its training image."""
    found = find(neighbour.image)
    crops = []
    for picture in (None, None) if found is None else (found.picture, found.relief):
        if picture is None or found is None:
            blank = Image.new("RGB", (side, side), (235, 237, 240))
            ImageDraw.Draw(blank).text((side / 2, side / 2), "no picture", _PALE, font(13), anchor="mm")
            crops.append(np.asarray(blank))
        else:
            crops.append(_crop(picture, found.size, neighbour.box, reach, side))
    return crops


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
