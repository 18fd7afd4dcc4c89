"""Feature maps → vectors on one grid: locally aware patch features (PatchCore Eq. 1-3), and two other arrangements.

At each position the p×p neighbourhood is averaged. `OneGrid` brings deeper levels to the grid of the shallowest one, in
two variants: `mean` (the default) averages per channel and concatenates the levels; `reference` is what the authors'
released code computes: unfold p×p, adaptive-average-pool the C·p·p values to 1024, stack the levels,
adaptive-average-pool to 1024. `Cells` keeps each level's own resolution; `Pooled` keeps one vector for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from patchbank.errors import OptionError
from patchbank.features.storage import column_moments

_LARGEST_PATCH = 255  # positions of a grid
AGGREGATIONS = ("mean", "reference")
REFERENCE_DIMENSION = 1024  # `pretrain_dim` and `target_dim` of the authors' code


class Arrangement(Protocol):
    """Maps of the levels, B×C_j×h_j×w_j, shallowest first → vectors B×h×w×D."""

    @property
    def in_graph(self) -> bool:
        """Whether it is worth making a part of the network."""
        ...

    def __call__(self, maps: Sequence[Tensor]) -> Tensor: ...

    def dimension(self, channels: Sequence[int], strides: Sequence[int]) -> int:
        """Length D for levels with these channels and strides."""
        ...

    def grid(self, inspected: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of the grid of an image inspected at that size."""
        ...

    def cell(self, strides: Sequence[int]) -> int:
        """Pixels from one cell of the grid to the next."""
        ...

    def channels(self, vectors: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Vectors B×h×w×D → maps B×D_i×h_i×w_i again, each with the pixels from one of its positions to the next."""
        ...


@dataclass(frozen=True)
class OneGrid:
    """All levels on the grid of the shallowest, of which every `stride`-th position is kept (Eq. 3)."""

    aggregation: str = "mean"
    patch_size: int = 3
    stride: int = 1

    @property
    def in_graph(self) -> bool:
        return self.aggregation == "mean"  # the other is faster in torch than in the other runtimes

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        return patch_features(maps, self.aggregation, self.patch_size, self.stride)

    def dimension(self, channels: Sequence[int], strides: Sequence[int]) -> int:
        return sum(channels) if self.aggregation == "mean" else REFERENCE_DIMENSION

    def grid(self, inspected: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
        return grid_size(inspected, strides[0], self.stride)

    def cell(self, strides: Sequence[int]) -> int:
        return strides[0] * self.stride

    def channels(self, vectors: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[tuple[Tensor, int]]:
        return [(vectors.permute(0, 3, 1, 2), self.cell(strides))]


@dataclass(frozen=True)
class Cells:
    """Each level in its own resolution, on the grid of the deepest: a cell holds all vectors of a shallower level that
    lie in it. D = Σ C_j (s_deepest / s_j)²; `split` takes the levels apart again."""

    patch_size: int = 3
    in_graph: bool = True

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        cells = []
        for feature_map in maps:
            local = _average(feature_map, self.patch_size)
            # int: a tracer's shapes are tensors, and no format takes such a factor
            cells.append(F.pixel_unshuffle(local, int(feature_map.shape[2]) // int(maps[-1].shape[2])))
        return torch.cat(cells, dim=1).permute(0, 2, 3, 1).contiguous()

    def dimension(self, channels: Sequence[int], strides: Sequence[int]) -> int:
        return sum(c * (strides[-1] // s) ** 2 for c, s in zip(channels, strides, strict=True))

    def grid(self, inspected: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
        if any(side % strides[-1] for side in inspected):
            raise OptionError(
                f"images are inspected at {inspected[0]}×{inspected[1]} pixels, which the cells of the deepest level "
                f"do not divide: image_size must be a multiple of {strides[-1]}"
            )
        return inspected[0] // strides[-1], inspected[1] // strides[-1]

    def cell(self, strides: Sequence[int]) -> int:
        return strides[-1]

    def channels(self, vectors: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[tuple[Tensor, int]]:
        sides = [strides[-1] // s for s in strides]
        parts = torch.split(vectors.permute(0, 3, 1, 2), [c * v * v for c, v in zip(channels, sides, strict=True)], 1)
        return [(F.pixel_shuffle(part, v), s) for part, v, s in zip(parts, sides, strides, strict=True)]

    @staticmethod
    def split(cells: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[Tensor]:
        """…×P×D → for each level …×P×V_j×C_j: the V_j vectors of each cell, row by row."""
        levels, start = [], 0
        for c, stride in zip(channels, strides, strict=True):
            v = (strides[-1] // stride) ** 2
            part = cells[..., start : start + c * v]
            shape = (len(cells), c, v) if cells.ndim == 2 else (-1, int(cells.shape[1]), c, v)
            levels.append(part.reshape(shape).transpose(-1, -2))
            start += c * v
        return levels


@dataclass(frozen=True)
class Pooled:
    """The average of each level over the image: one vector, D = Σ C_j."""

    in_graph: bool = True

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([m.mean((2, 3)) for m in maps], dim=1)[:, None, None]

    def dimension(self, channels: Sequence[int], strides: Sequence[int]) -> int:
        return sum(channels)

    def grid(self, inspected: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
        return 1, 1

    def cell(self, strides: Sequence[int]) -> int:
        raise NotImplementedError("one vector for an image lies nowhere")

    def channels(self, vectors: Tensor, channels: Sequence[int], strides: Sequence[int]) -> list[tuple[Tensor, int]]:
        raise NotImplementedError("one vector for an image lies nowhere")


def patch_features(maps: Sequence[Tensor], aggregation: str = "mean", patch_size: int = 3, stride: int = 1) -> Tensor:
    """Maps of the levels, B×C_j×h_j×w_j, shallowest first → patch features B×h×w×D on the shallowest level's grid.

    `stride` keeps every stride-th position of the grid (Eq. 3). D = ΣC_j (`mean`) or 1024 (`reference`).
    """
    average = _average if aggregation == "mean" else _unfold_and_pool
    grid = maps[0].shape[-2:]
    levels = []
    for feature_map in maps:
        local = average(feature_map, patch_size)
        if local.shape[-2:] != grid:
            local = F.interpolate(local, size=grid, mode="bilinear", align_corners=False)
        levels.append(local[..., ::stride, ::stride])
    features = torch.cat(levels, dim=1).permute(0, 2, 3, 1)
    if aggregation == "reference":
        # the authors stack the pooled levels and pool the stack once more, to the target dimension
        features = _pool_last(features, REFERENCE_DIMENSION)
    return features.contiguous()


def level_balance(features: Tensor, channels: Sequence[int], aggregation: str) -> Tensor:
    """Factors D that give every level of N×D features the same variance, averaged over its channels.

    `reference` features mix the levels: nothing can be balanced there, and the factors are 1.
    """
    balance = torch.ones(features.shape[1], device=features.device)
    if aggregation == "mean" and len(channels) > 1:
        _, variance = column_moments(features)
        for level in torch.split(torch.arange(features.shape[1]), list(channels)):
            spread = float(variance[level].mean().sqrt())
            balance[level] = 1 / spread if spread > 0 else 1.0
        balance *= float(variance.mean().sqrt()) or 1.0  # distances keep their usual size
    return balance


def grid_size(inspected: tuple[int, int], level_stride: int, stride: int) -> tuple[int, int]:
    """(rows, columns) of the patch grid of an inspected image, for a shallowest level of that stride."""
    rows, columns = (-(-side // level_stride) for side in inspected)
    return -(-rows // stride), -(-columns // stride)


def check_options(aggregation: str, patch_size: int, stride: int) -> None:
    """Raise `OptionError` for values that `patch_features` cannot use."""
    if aggregation not in AGGREGATIONS:
        raise OptionError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
    if not 1 <= patch_size <= _LARGEST_PATCH or patch_size % 2 == 0:
        raise OptionError(f"patch_size must be odd and positive (Eq. 1), not {patch_size}")
    if not 1 <= stride <= _LARGEST_PATCH:
        raise OptionError(f"stride must be at least 1, at most {_LARGEST_PATCH}, not {stride}")


def _average(feature_map: Tensor, patch_size: int) -> Tensor:
    # neighbours outside the map count as zeros, as in the authors' code. It damps the border, where the network's own
    # padding makes features unreliable: leaving them out of the mean instead cost 0.14 of image AUROC on magnetic
    # tiles
    return F.avg_pool2d(feature_map, patch_size, stride=1, padding=patch_size // 2)


def _unfold_and_pool(feature_map: Tensor, patch_size: int) -> Tensor:
    # pooling before the deeper level is resized: both are linear and act on different axes, so the order is free
    batch, _, height, width = feature_map.shape
    unfolded = F.unfold(feature_map, patch_size, padding=patch_size // 2).transpose(1, 2)
    pooled = _pool_last(unfolded, REFERENCE_DIMENSION)
    return pooled.transpose(1, 2).reshape(batch, REFERENCE_DIMENSION, height, width)


def _pool_last(values: Tensor, size: int) -> Tensor:
    flat = values.reshape(-1, 1, values.shape[-1])
    return F.adaptive_avg_pool1d(flat, size).reshape(*values.shape[:-1], size)
