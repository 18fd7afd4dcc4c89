"""Where an anomaly may lie, and which pixels it changed. Shared by anomalies of pictures and of depth."""

from __future__ import annotations

from collections.abc import Sequence
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
_SMALLEST_STEP = 1 / 255  # a change that an 8-bit picture does not show is none
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
    """The pixels of a region whose value changed.

    Single unchanged pixels inside a changed area count as changed: a segmentation learns no speckle.

    Args:
        before: H×W×C, in 0..1.
        after: H×W×C.
        region: H×W, where something may have changed.
    """
    steps = np.abs(after - before).max(axis=2) > _SMALLEST_STEP
    return closed(steps, region)


def closed(mask: Mask, region: Mask) -> Mask:
    """A mask with its gaps of up to four pixels filled, within a region (both H×W)."""
    filled = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _KERNEL)
    return np.asarray((filled > 0) & region)


def as_tensor(masks: Sequence[Mask], like: Tensor) -> Tensor:
    """B masks as B×1×h×w of 0 and 1, with the type and the device of another tensor."""
    return torch.from_numpy(np.stack(masks)[:, None]).to(like)
