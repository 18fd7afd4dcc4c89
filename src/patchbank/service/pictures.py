"""Pictures as the API sends them."""

from __future__ import annotations

import base64
import io

from PIL import Image

from patchbank.data import ValueRange, read_image
from patchbank.errors import ImageError
from patchbank.pictures.drawing import save_png
from patchbank.pictures.heat import Picture
from patchbank.service.uploads import Upload
from patchbank.shape.decide import Depths
from patchbank.shape.shown import Shown, shaded

_PLAIN = ValueRange()


def rgb_of(upload: Upload, values: ValueRange = _PLAIN) -> Picture:
    """RGB uint8 of an image, or of its shaded surface where it has geometry alone; `values`: of the model that it is
    shown for. Raises `ImageError`."""
    if not upload.image:
        return relief_of(upload, values)
    return read_image(upload.source, values).astype("uint8", copy=False)


def shown_of(upload: Upload, values: ValueRange = _PLAIN) -> Shown:
    """What people see of a sample: its picture, and its shaded surface where it has geometry. Raises `ImageError`."""
    if not upload.image:
        return Shown(relief_of(upload, values), is_relief=True)
    return Shown(rgb_of(upload, values), relief_of(upload, values) if upload.geometry else None)


def relief_of(upload: Upload, values: ValueRange) -> Picture:
    """RGB uint8 of the shaded surface of a sample with geometry. Raises `ImageError`."""
    return shaded(upload.source, depths_of(upload, values))


def depths_of(upload: Upload, values: ValueRange) -> Depths:
    """What the stored depths of a sample mean to the model of `values`. Raises `ImageError` where nobody knows."""
    if values.depths is None:
        raise ImageError(f"{upload.name}: the model that knows what its depths mean is not served any more")
    depths: Depths = values.depths
    return depths


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
