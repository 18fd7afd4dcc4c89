"""Patch features against literal loops over Eq. 1-3, both variants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from patchbank.errors import OptionError
from patchbank.features.aggregation import OneGrid, check_options, grid_size, patch_features


def maps(*shapes: tuple[int, int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def literal_mean(feature_map: torch.Tensor, p: int) -> torch.Tensor:
    """Eq. 1-2, one position at a time; neighbours outside the map are zeros."""
    result = torch.zeros_like(feature_map)
    _, _, height, width = feature_map.shape
    for h in range(height):
        for w in range(width):
            for a in range(h - p // 2, h + p // 2 + 1):
                for b in range(w - p // 2, w + p // 2 + 1):
                    if 0 <= a < height and 0 <= b < width:
                        result[:, :, h, w] += feature_map[:, :, a, b] / p**2
    return result


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_mean_is_the_average_of_the_neighbourhood(patch_size: int) -> None:
    (level,) = maps((4, 6, 7))
    features = patch_features([level], "mean", patch_size)
    assert torch.allclose(features, literal_mean(level, patch_size).permute(0, 2, 3, 1), atol=1e-6)


def test_deeper_levels_come_to_the_shallowest_grid() -> None:
    shallow, deep = maps((4, 8, 10), (6, 4, 5))
    features = patch_features([shallow, deep])
    assert features.shape == (2, 8, 10, 10)
    resized = F.interpolate(literal_mean(deep, 3), size=(8, 10), mode="bilinear", align_corners=False)
    assert torch.allclose(features[..., 4:], resized.permute(0, 2, 3, 1), atol=1e-6)


def reference(levels: list[torch.Tensor], p: int) -> torch.Tensor:
    """The authors' steps in their order: unfold all levels, resize the deeper patches, pool each patch, pool the
    stack."""
    patches = []
    for level in levels:
        batch, channels, height, width = level.shape
        unfolded = F.unfold(level, p, padding=(p - 1) // 2).reshape(batch, channels * p * p, height, width)
        patches.append(F.interpolate(unfolded, size=levels[0].shape[-2:], mode="bilinear", align_corners=False))
    pooled = []
    for patch in patches:
        flat = patch.permute(0, 2, 3, 1).reshape(-1, 1, patch.shape[1])
        pooled.append(F.adaptive_avg_pool1d(flat, 1024).squeeze(1))
    stacked = torch.stack(pooled, dim=1).reshape(len(pooled[0]), 1, -1)
    return F.adaptive_avg_pool1d(stacked, 1024).reshape(levels[0].shape[0], *levels[0].shape[-2:], 1024)


@pytest.mark.parametrize("channels", [(16, 32), (200, 300), (512,)])
def test_reference_is_the_authors_computation(channels: tuple[int, ...]) -> None:
    levels = maps(*[(c, 8 // 2**i, 8 // 2**i) for i, c in enumerate(channels)])
    features = patch_features(levels, "reference")
    assert torch.allclose(features, reference(levels, 3), atol=1e-5)


def test_stride_keeps_every_second_position() -> None:
    levels = maps((4, 7, 8), (4, 4, 4))
    assert torch.equal(patch_features(levels, stride=2), patch_features(levels)[:, ::2, ::2])
    assert grid_size((56, 64), 8, 2) == (4, 4)
    assert grid_size((56, 64), 8, 1) == (7, 8)


def test_dimension() -> None:
    assert OneGrid("mean").dimension((40, 112), (8, 16)) == 152
    assert OneGrid("reference").dimension((40, 112), (8, 16)) == 1024


@pytest.mark.parametrize("options", [("median", 3, 1), ("mean", 2, 1), ("mean", 0, 1), ("mean", 3, 0)])
def test_bad_options(options: tuple[str, int, int]) -> None:
    with pytest.raises(OptionError):
        check_options(*options)
