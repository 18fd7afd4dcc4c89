"""Unsupervised feature fusion (UFF) of M3DM: what two modalities say about one place is drawn together.

Wang et al. 2023, "Multimodal Industrial Anomaly Detection via Hybrid Fusion", "Unsupervised Feature Fusion". It learns
from patches of good parts alone.

Faults of the released code that are not copied:

- It trains on features of two modalities that are laid out in different orders, so that hardly a pair shows one place.
  Here row i of both is one place, and features of different length are refused.
- Its networks are never put into eval mode. Here what comes out of training is frozen and in eval mode.
- It scales the features of all three banks by the mean of one modality and the deviation of the other. Here nothing is
  scaled: `fuse` is a function of the two features alone, at fit and at prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchbank.errors import DatasetError

_HEAD = 256
_RATIO = 4  # of the hidden layer's width to the feature's
_BETAS = (0.9, 0.95)
Pair = tuple[Tensor, Tensor]


class _Branch(nn.Module):
    """χ and σ of one modality: a feature x becomes x + MLP(LayerNorm(x)), and that a vector to compare by. The released
    code leaves out "x +": few steps of training then decide all that a bank sees."""

    def __init__(self, dimension: int):
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.mlp = nn.Sequential(
            nn.Linear(dimension, _RATIO * dimension), nn.GELU(), nn.Linear(_RATIO * dimension, dimension)
        )
        self.head = nn.Linear(dimension, _HEAD)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]


class Fusion(nn.Module):
    """UFF of features with Da and Db dimensions."""

    def __init__(self, dimension_a: int, dimension_b: int):
        super().__init__()
        self.a, self.b = _Branch(dimension_a), _Branch(dimension_b)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """P×Da and P×Db features of the same places → P×(Da + Db): the two outputs side by side."""
        return torch.cat([self.a(a), self.b(b)], 1)

    def loss(self, a: Tensor, b: Tensor, temperature: float) -> Tensor:
        """InfoNCE of P×Da and P×Db features: row i of one is the positive of row i of the other, all other rows its
        negatives. A scalar."""
        one, two = self.a.head(self.a(a)), self.b.head(self.b(b))
        similarity = nn.functional.normalize(one, dim=1) @ nn.functional.normalize(two, dim=1).T
        return nn.functional.cross_entropy(similarity / temperature, torch.arange(len(a), device=a.device))


class Pairs:
    """The items are images, each a pair of features: P×Da and P×Db of the same P places. A batch is one image.

    Args:
        pairs: of those places only that both modalities have. A sequence may read an image when it is asked for one:
            one is held at a time.

    Raises:
        DatasetError: two features of one image differ in length, or no image has two places.
    """

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs, self._used = pairs, list[int]()
        for i in range(len(pairs)):
            a, b = pairs[i]
            if len(a) != len(b):
                raise DatasetError(
                    f"image {i} has {len(a)} patches of one modality and {len(b)} of the other: give both on one grid"
                )
            if len(a) > 1:  # otherwise there is nothing to tell apart
                self._used.append(i)
        self.images = len(self._used)
        if not self.images:
            raise DatasetError(
                "no image has two places that both modalities have: look at the valid points of the parts"
            )

    def pair(self, numbers: Tensor) -> Pair:
        """The features of the one image of a batch."""
        return self._pairs[self._used[int(numbers[0])]]

    def batches(self, size: int, images: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
        """One image after the other, in random order."""
        for i in torch.randperm(len(images), generator=generator).tolist():
            yield torch.tensor([images[i]])

    def steps(self, size: int, images: Sequence[int]) -> int:
        return len(images)


@dataclass
class FusionTask:
    """What the loop trains.

    Attributes:
        network: the fusion.
        items: images of good parts.
        rate: the highest learning rate, of AdamW.
        temperature: what cosines are divided by. The released code has 1, which leaves the loss of P patches above
            log(1 + (P − 1)·exp(−2)), however good the pairs are; a smaller one asks for larger differences.
        patches: at most how many patches of an image in one step, drawn anew each time. All are each other's negatives.
    """

    network: Fusion
    items: Pairs
    rate: float = 0.003
    temperature: float = 1.0
    patches: int = 1024

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.network.parameters(), lr=self.rate, betas=_BETAS)]

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """InfoNCE of some patches of an image."""
        a, b = self.items.pair(numbers)
        rows = torch.randperm(len(a), generator=generator)[: self.patches].to(a.device)
        return self.network.loss(a[rows].float(), b[rows].float(), self.temperature)
