"""Where an anomaly may lie, and which pixels it changed. Shared by anomalies of pictures and of depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.errors import DatasetError

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

TRIES = 6  # draws of an anomaly before one is forced
_LEAST = 12  # pixels of an anomaly: fewer are lost when features are pooled
_SMALLEST_STEP = 3 / 255  # nobody sees a smaller change
_KERNEL = np.ones((5, 5), np.uint8)


def foregrounds(given: Tensor | None, size: tuple[int, int, int]) -> list[Mask]:
    """The foreground of each sample of a batch.

    Args:
        given: h×w, B×h×w or B×1×h×w, non-zero where an anomaly may lie; None for everywhere.
        size: B, h and w.

    Returns:
        B masks, h×w bool.

    Raises:
        DatasetError: a foreground is empty.
    """
    count, height, width = size
    if given is None:
        return [np.ones((height, width), bool)] * count
    masks = (given.detach().cpu() != 0).reshape(-1, height, width).expand(count, height, width).numpy()
    for number, mask in enumerate(masks):
        check_foreground(mask, f"picture {number + 1} of the batch")
    return list(masks)


def check_foreground(mask: Mask, name: str, has: str = "pixel") -> None:
    """Raise `DatasetError` for an empty foreground. `name`: whose it is; `has`: what is missing there."""
    if not mask.any():
        raise DatasetError(
            f"{name}: its foreground has no {has}, so a synthetic anomaly has no place: give another foreground, or "
            "leave this sample out"
        )


def is_large_enough(mask: Mask, foreground: Mask) -> bool:
    """Whether a mask has enough pixels to be learned from, or all pixels of a tiny foreground."""
    return int(np.count_nonzero(mask)) >= min(_LEAST, int(np.count_nonzero(foreground)))


def changed_pixels(before: Floats, after: Floats, region: Mask) -> Mask:
    """The pixels of a region where a change is seen: the mean of its 3×3 neighbours changed by 3 of 255 grey levels.

    So noise that was pasted over other noise is no anomaly. Gaps of a few pixels count as changed, because a
    segmentation cannot learn speckle.

    Args:
        before: H×W×C, in 0..1.
        after: H×W×C.
        region: H×W, where something may have changed.
    """
    change = np.abs(cv2.blur(after - before, (3, 3))).reshape(before.shape) > _SMALLEST_STEP
    # channel by channel: reductions over so short an axis are slow
    return closed(reduce(np.logical_or, (change[..., channel] for channel in range(change.shape[2]))), region)


def closed(mask: Mask, region: Mask) -> Mask:
    """A mask with its gaps of up to four pixels filled, within a region (both H×W)."""
    filled = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _KERNEL)
    return np.asarray((filled > 0) & region)


def is_grey(picture: Floats) -> bool:
    """Whether an H×W×C picture has the same value in all of its channels, as the picture of a grey camera has.

    Looks at every fourth row and column.
    """
    some = picture[::4, ::4]
    return picture.shape[2] == 1 or float(np.abs(some[..., 1:] - some[..., :1]).max()) < _SMALLEST_STEP


def as_tensor(masks: Sequence[Mask], like: Tensor) -> Tensor:
    """B masks as B×1×h×w of 0 and 1, with the type and the device of another tensor."""
    return torch.from_numpy(np.stack(masks)[:, None]).to(like)
