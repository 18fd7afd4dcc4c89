"""Small pictures of the training images, carried by the model: it can show what it compared with wherever it goes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from patchbank.data import Sample, ValueRange, opened, prefetch, read_image
from patchbank.errors import ImageError

_SIDES = (320, 256, 192, 128, 96, 64)  # of the longer side, in pixels
_QUALITY = 80
_PLAIN = ValueRange()
_TRIED = 8  # images that a side is chosen by


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, and the (height, width) of the image that it shows."""

    jpeg: bytes
    size: tuple[int, int]

    def pixels(self) -> NDArray[np.uint8]:
        """H×W×3."""
        with opened(self.jpeg) as image:
            return np.asarray(image.convert("RGB"))


def make_thumbnails(sources: Sequence[Sample], limit_mb: float, values: ValueRange = _PLAIN) -> dict[str, Thumbnail]:
    """One of each readable image, as large as the limit for all together allows; none where even the smallest would be
    too much."""
    some = list(sources[:: max(1, len(sources) // _TRIED)])
    limit = limit_mb * 1e6 / max(len(sources), 1)
    for side in _SIDES:
        sizes = [len(found[1].jpeg) for source in some if (found := _thumbnail(source, side, values))]
        if sizes and np.mean(sizes) * 1.1 <= limit:
            made = prefetch(partial(_thumbnail, side=side, values=values), sources)
            return dict(item for item in made if item)
    return {}


def _thumbnail(source: Sample, side: int, values: ValueRange) -> tuple[str, Thumbnail] | None:
    try:
        rgb = read_image(source, values)
    except ImageError:  # told where it was learned from
        return None
    image, buffer = Image.fromarray(rgb.astype(np.uint8, copy=False)), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return source.name, Thumbnail(buffer.getvalue(), (rgb.shape[0], rgb.shape[1]))


def state(thumbnails: dict[str, Thumbnail]) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """As one tensor of bytes, and the name, size and length of each, for the model file."""
    if not thumbnails:
        return {}, []
    everything = np.frombuffer(b"".join(t.jpeg for t in thumbnails.values()), dtype=np.uint8)
    listed = [[name, *t.size, len(t.jpeg)] for name, t in thumbnails.items()]
    return {"thumbnails": torch.from_numpy(everything.copy())}, listed


def restore(tensors: dict[str, Tensor], listed: list[list[Any]]) -> dict[str, Thumbnail]:
    """The inverse of `state`."""
    thumbnails, start = {}, 0
    for name, height, width, length in listed:
        jpeg = tensors["thumbnails"][start : start + length].cpu().numpy().tobytes()
        thumbnails[name] = Thumbnail(jpeg, (height, width))
        start += length
    return thumbnails
