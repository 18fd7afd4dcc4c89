"""Handcrafted texture features in torch: histograms of oriented gradients and local binary patterns.

Both describe cells of 8×8 pixels of a grey picture. They are made of operations that every graph format has.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8  # pixels along each side
BINS = 9  # of orientations, over 180 degrees
HOG_LENGTH = 4 * BINS  # a cell's histogram, normalised in each of its four blocks
PATTERNS = ((8, 1.0), (16, 2.0))  # neighbours on a circle, and its radius in pixels
LBP_LENGTH = sum(count + 2 for count, _ in PATTERNS)

_LUMA = (77 / 256, 150 / 256, 29 / 256)  # ITU-R BT.601, in steps that float32 adds up without rounding
_CLIP = 0.2  # of a normalised block (L2-Hys)
_LEAST_LENGTH = 1.0  # grey levels; added to a block's length, so that noise on flat surfaces is no texture
_TINY = 1e-6
_STEPS = 256  # of the weights of interpolated neighbours
_SAME = 0.5 + 0.5 / _STEPS  # grey levels that a neighbour may be darker; differences are multiples of 1/256, never this


def grey_levels(images: Tensor) -> Tensor:
    """B×3×H×W in 0..1 → B×1×H×W luma in 0..255, rounded to whole levels.

    Whole levels make the comparisons of `lbp` exact, so they come out the same on every machine and in every export.
    """
    levels = torch.floor(255 * images + 0.5)
    red, green, blue = (levels[:, c : c + 1] * weight for c, weight in enumerate(_LUMA))
    return torch.floor(red + green + blue + 0.5)


def hog(grey: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005) of each cell.

    Gradients are centred differences. A pixel votes with its gradient's length for the two nearest of 9 orientations.
    Blocks of 2×2 cells are normalised by L2-Hys: to length 1, clipped at 0.2, to length 1 again. The paper joins the
    four histograms of each block. Here a cell has its own histogram from each of its four blocks: the same numbers,
    sorted by cell. Votes are not shared with neighbouring cells, which the paper does too.

    Args:
        grey: B×1×H×W grey levels; H and W are multiples of 8.

    Returns:
        B×36×H/8×W/8.
    """
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    length = (across.square() + down.square()).sqrt()
    steep = across.abs() < _TINY  # orientations meet at ±90 degrees, so any slope that is steep enough will do
    angle = torch.atan(down / torch.where(steep, torch.full_like(across, _TINY), across))
    place = (angle / math.pi + 0.5) * BINS - 0.5  # in bins, −0.5 to 8.5, from the centre of the first
    votes = []
    for number in range(BINS):
        apart = (place - number).abs()
        votes.append(length * (1 - torch.minimum(apart, BINS - apart)).clamp(min=0))
    histograms = F.avg_pool2d(torch.cat(votes, 1), CELL)
    return _in_blocks(histograms)


def _in_blocks(histograms: Tensor) -> Tensor:
    """B×9×r×c → B×36×r×c: each histogram, normalised in the blocks above left, above right, below left, below right of
    the cell's centre. Cells at the border are repeated beyond it."""
    padded = F.pad(histograms, (1, 1, 1, 1), mode="replicate")
    corners = [padded[:, :, :-1, :-1], padded[:, :, :-1, 1:], padded[:, :, 1:, :-1], padded[:, :, 1:, 1:]]
    blocks = torch.cat(corners, 1)  # B×36×(r + 1)×(c + 1), block (i, j) ends at cell (i, j)
    short = (blocks / (_length(blocks) + _LEAST_LENGTH)).clamp(max=_CLIP)
    top_left, top_right, bottom_left, bottom_right = torch.split(short / (_length(short) + _TINY), BINS, 1)
    found = [
        bottom_right[:, :, :-1, :-1], bottom_left[:, :, :-1, 1:], top_right[:, :, 1:, :-1], top_left[:, :, 1:, 1:],
    ]  # fmt: skip
    return torch.cat(found, 1)


def _length(blocks: Tensor) -> Tensor:
    return blocks.square().sum(1, keepdim=True).sqrt()


def lbp(grey: Tensor) -> Tensor:
    """Histograms of rotation-invariant uniform local binary patterns (Ojala et al. 2002, equations 9 to 11).

    For 8 neighbours at 1 pixel and for 16 at 2 pixels: a pixel with at most 2 changes along its circle counts for the
    number of its neighbours that are not darker, any other pixel for the last bin. A neighbour that is darker by half a
    level or less counts as equal: interpolation alone makes such differences.

    Args:
        grey: B×1×H×W whole grey levels; H and W are multiples of 8.

    Returns:
        B×28×H/8×W/8: shares of a cell's pixels, 10 + 18 bins.
    """
    padded = F.pad(grey, (2, 2, 2, 2), mode="replicate")
    histograms = []
    for count, radius in PATTERNS:
        around = F.conv2d(padded, _circle(count, radius).to(grey))
        signs = (around - grey >= -_SAME).to(grey.dtype)
        changes = (signs - torch.cat([signs[:, 1:], signs[:, :1]], 1)).abs().sum(1, keepdim=True)
        code = torch.where(changes < 2.5, signs.sum(1, keepdim=True), torch.full_like(changes, count + 1))
        bins = torch.arange(count + 2, dtype=grey.dtype, device=grey.device).reshape(1, -1, 1, 1)
        histograms.append(F.avg_pool2d(((code - bins).abs() < 0.5).to(grey.dtype), CELL))
    return torch.cat(histograms, 1)


@lru_cache
def _circle(count: int, radius: float) -> Tensor:
    """count×1×5×5: bilinear weights of the pixels around, for each neighbour on a circle."""
    kernels = np.zeros((count, 1, 5, 5), np.float32)
    for number in range(count):
        angle = 2 * math.pi * number / count
        y, x = 2 - radius * math.sin(angle), 2 + radius * math.cos(angle)
        # in 1/16 along each side: weights are multiples of 1/256 then, and sums of grey levels exact
        y, x = round(16 * y) / 16, round(16 * x) / 16
        top, left = min(math.floor(y), 3), min(math.floor(x), 3)
        for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
            for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
                kernels[number, 0, row, column] += share_y * share_x
    return torch.from_numpy(kernels)
