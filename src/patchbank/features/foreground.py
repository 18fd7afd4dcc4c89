"""Which patches of an image belong to the part, by their first principal component (AnomalyDINO, arXiv 2405.14529)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

THRESHOLD = 10.0  # of the first component, as AnomalyDINO has it for the features of DINOv2
_CENTRE, _LEAST = 0.2, 0.35  # the part fills at least that share of what is left when the borders are cut off


def foreground_mask(vectors: Tensor, grid: tuple[int, int], threshold: float = THRESHOLD) -> Tensor:
    """P×D patches of one image → rows×columns bool. The component's sign is the one that fills the centre; holes are
    closed, and the mask grows by a patch."""
    centred = (vectors - vectors.mean(0)).double()
    component = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    along = (centred @ component).reshape(grid).cpu().numpy()
    # an eigenvector's sign is the library's choice: begin with the one of the largest value
    along = along * np.sign(along.flat[np.abs(along).argmax()] or 1.0)
    mask = along > threshold
    rows, columns = (slice(int(side * _CENTRE), max(int(side * (1 - _CENTRE)), 1)) for side in grid)
    if mask[rows, columns].mean() <= _LEAST:
        mask = -along > threshold
    kernel = np.ones((3, 3), np.uint8)
    grown = cv2.dilate(mask.astype(np.uint8), kernel)
    closed = cv2.morphologyEx(grown, cv2.MORPH_CLOSE, kernel)
    return torch.from_numpy(closed.astype(bool)).to(vectors.device)
