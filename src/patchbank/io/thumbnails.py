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

from patchbank.data import Sample, ValueRange, opened, prefetch
from patchbank.errors import ImageError
from patchbank.shape.shown import Shown, shown

_SIDES = (320, 256, 192, 128, 96, 64)  # of the longer side, in pixels
_QUALITY = 80
_PLAIN = ValueRange()
_TRIED = 8  # images that a side is chosen by


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, and the (height, width) of the image that it shows; `relief`: another JPEG of the shaded surface, where
    the sample has geometry beside its picture."""

    jpeg: bytes
    size: tuple[int, int]
    relief: bytes = b""

    @property
    def length(self) -> int:
        """Bytes of both."""
        return len(self.jpeg) + len(self.relief)

    def pixels(self) -> NDArray[np.uint8]:
        """H×W×3."""
        return _decoded(self.jpeg)

    def relief_pixels(self) -> NDArray[np.uint8] | None:
        """H×W×3 of the shaded surface."""
        return _decoded(self.relief) if self.relief else None


def make_thumbnails(sources: Sequence[Sample], limit_mb: float, values: ValueRange = _PLAIN) -> dict[str, Thumbnail]:
    """One of each readable image, as large as the limit for all together allows; none where even the smallest would be
    too much."""
    some = [seen for source in sources[:: max(1, len(sources) // _TRIED)] if (seen := _shown(source, values))]
    limit = limit_mb * 1e6 / max(len(sources), 1)
    for side in _SIDES:
        if some and np.mean([_thumbnail(seen, side).length for seen in some]) * 1.1 <= limit:
            made = prefetch(partial(_named, side=side, values=values), sources)
            return dict(item for item in made if item)
    return {}


def _named(source: Sample, side: int, values: ValueRange) -> tuple[str, Thumbnail] | None:
    seen = _shown(source, values)
    return None if seen is None else (source.name, _thumbnail(seen, side))


def _shown(source: Sample, values: ValueRange) -> Shown | None:
    try:
        return shown(source, values)
    except ImageError:  # told where it was learned from
        return None


def _thumbnail(seen: Shown, side: int) -> Thumbnail:
    relief = b"" if seen.relief is None else _encoded(seen.relief, side)
    return Thumbnail(_encoded(seen.picture, side), (seen.picture.shape[0], seen.picture.shape[1]), relief)


def _encoded(picture: NDArray[np.uint8], side: int) -> bytes:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _decoded(jpeg: bytes) -> NDArray[np.uint8]:
    with opened(jpeg) as image:
        return np.asarray(image.convert("RGB"))


def state(thumbnails: dict[str, Thumbnail]) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """As one tensor of bytes, and the name, size and length of each, for the model file; also the length of the shaded
    surface, where there is one."""
    if not thumbnails:
        return {}, []
    everything = np.frombuffer(b"".join(t.jpeg + t.relief for t in thumbnails.values()), dtype=np.uint8)
    listed = []
    for name, t in thumbnails.items():
        listed.append([name, *t.size, len(t.jpeg), *([len(t.relief)] if t.relief else [])])
    return {"thumbnails": torch.from_numpy(everything.copy())}, listed


def restore(tensors: dict[str, Tensor], listed: list[list[Any]]) -> dict[str, Thumbnail]:
    """The inverse of `state`."""
    thumbnails, start = {}, 0
    for name, height, width, *lengths in listed:
        parts = []
        for length in lengths:
            parts.append(tensors["thumbnails"][start : start + length].cpu().numpy().tobytes())
            start += length
        thumbnails[name] = Thumbnail(parts[0], (height, width), *parts[1:])
    return thumbnails
