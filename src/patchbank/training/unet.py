"""A light U-Net that rebuilds pictures."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.training.network import convolution

LEVELS = 4
DEEPEST = 2 ** (
    LEVELS - 1
)  # channels of the bottleneck for each of the first level; pixels from one position to the next


class UNet(nn.Module):
    """An encoder of four levels, `width` channels in the first and twice as many in each next one, and a decoder that
    sees the encoder's maps of its own size (Ronneberger et al. 2015)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(before, after), *convolution(after, after))
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        deep = list(reversed(widths))
        pairs = list(pairwise(deep))
        # fewer channels before they are enlarged: the convolutions on large maps take most of the time
        self.narrow = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in pairs)
        self.up = nn.ModuleList(nn.Sequential(*convolution(2 * after, after)) for _, after in pairs)
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B×C×H×W in 0..1 → the same, rebuilt, and the bottleneck B×8·width×H/8×W/8. H and W are multiples of 8."""
        maps = [self.down[0](images)]
        for block in list(self.down)[1:]:
            maps.append(block(F.max_pool2d(maps[-1], 2)))
        x = maps[-1]
        for narrow, up, beside in zip(self.narrow, self.up, reversed(maps[:-1]), strict=True):
            x = up(torch.cat([F.interpolate(narrow(x), scale_factor=2.0, mode="nearest"), beside], 1))
        return torch.sigmoid(self.last(x)), maps[-1]
