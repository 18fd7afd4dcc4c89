"""Pictures as the API sends them."""

from __future__ import annotations

import base64
import io

from PIL import Image

from patchbank.data import ValueRange, read_image
from patchbank.pictures.drawing import save_png
from patchbank.pictures.heat import Picture
from patchbank.service.uploads import Upload

_PLAIN = ValueRange()


def rgb_of(upload: Upload, values: ValueRange = _PLAIN) -> Picture:
    """RGB uint8 of an image; `values`: of the model that it is shown for. Raises `ImageError`."""
    return read_image(upload.source, values).astype("uint8", copy=False)


def png_of(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    save_png(picture, buffer)
    return buffer.getvalue()


def jpeg_of(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def data_uri(picture: Picture) -> str:
    """A PNG that a page can show without another request."""
    return "data:image/png;base64," + base64.b64encode(png_of(picture)).decode()
