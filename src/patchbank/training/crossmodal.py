"""Crossmodal feature mapping (CFM): networks that predict each modality's feature of a place from the other's.

Costanzino et al. 2024, "Multimodal Industrial Anomaly Detection by Crossmodal Feature Mapping". The networks learn on
good parts, and fail where the two modalities do not belong together.

Written from the paper. Its authors divide each map by its own mean. The score of a place then depends on the rest of
its image, and no threshold holds for all images: not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_BLOCK = 4096  # places at a time


def _mapping(widths: Sequence[int]) -> nn.Sequential:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.GELU())]
    return nn.Sequential(*layers[:-1])  # no activation after the last


class Crossmodal(nn.Module):
    """Two multilayer perceptrons that work on one place at a time.

    Args:
        dimension_a: Da, of the first modality's features.
        dimension_b: Db, of the second's.
        hidden: widths of the hidden layers from a to b, and in the opposite order from b to a. None: two of
            (Da + Db) / 2, the paper's 768-960-960-1152; narrower ones learn and run faster.
    """

    def __init__(self, dimension_a: int, dimension_b: int, hidden: Sequence[int] | None = None):
        super().__init__()
        widths = [(dimension_a + dimension_b) // 2] * 2 if hidden is None else list(hidden)
        self.to_b = _mapping([dimension_a, *widths, dimension_b])
        self.to_a = _mapping([dimension_b, *widths[::-1], dimension_a])

    def distances(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """1 − cos between each feature and what the other modality predicts for it: P of a and P of b, in 0..2.

        Args:
            a: P×Da.
            b: P×Db, of the same places.
        """
        one = 1 - nn.functional.cosine_similarity(self.to_a(b), a, dim=1)
        two = 1 - nn.functional.cosine_similarity(self.to_b(a), b, dim=1)
        return one, two

    def scores(self, a: Tensor, b: Tensor, present: Tensor) -> Tensor:
        """P anomaly scores in 0..4: the product of the two distances, large only where both are; 0 where a modality has
        nothing.

        Args:
            a: P×Da.
            b: P×Db, of the same places.
            present: P, whether a place has a feature in both modalities.
        """
        scores = torch.zeros(len(a), device=a.device)
        with torch.inference_mode():
            for start in range(0, len(a), _BLOCK):
                rows = slice(start, start + _BLOCK)
                one, two = self.distances(a[rows].float(), b[rows].float())
                scores[rows] = one * two
        return scores.masked_fill(~present, 0.0)
