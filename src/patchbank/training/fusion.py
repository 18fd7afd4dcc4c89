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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchbank.errors import DatasetError, Progress
from patchbank.training.network import build

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


@dataclass(frozen=True)
class FusionTraining:
    """How the weights are learned.

    Attributes:
        epochs: times that each image is seen.
        warmup: epochs in which the learning rate rises from 0; after that it falls to 0 as a cosine.
        learning_rate: the highest, of AdamW.
        temperature: what cosines are divided by. The released code has 1, which leaves the loss of P patches above
            log(1 + (P − 1)·exp(−2)), however good the pairs are; a smaller one asks for larger differences.
        patches: at most how many patches of an image in one step, drawn anew each time. All are each other's negatives.
        seed: of the first weights, the order of images and the patches drawn.
    """

    epochs: int = 3
    warmup: int = 1
    learning_rate: float = 0.003
    temperature: float = 1.0
    patches: int = 1024
    seed: int = 0

    def rate(self, epoch: float) -> float:
        """The learning rate after so many epochs, whole or not."""
        if epoch < self.warmup:
            return self.learning_rate * epoch / self.warmup
        done = (epoch - self.warmup) / max(self.epochs - self.warmup, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train_fusion(
    images: Sequence[Pair], training: FusionTraining, progress: Progress | None = None
) -> tuple[Fusion, float]:
    """A fusion that is learned from good parts, frozen and in eval mode, and its mean loss over the last epoch.

    The global random state is neither used nor changed.

    Args:
        images: P×Da and P×Db features of the same P places of each image, of those places only that both modalities
            have. A sequence may read an image when it is asked for one: one is held at a time.
        training: how.
        progress: is told of each step.

    Raises:
        DatasetError: two features of one image differ in length, no image has two patches, or the loss is no number.
    """
    generator = torch.Generator().manual_seed(training.seed)
    fusion = build(lambda: Fusion(*(each.shape[1] for each in images[0])), training.seed).to(images[0][0].device)
    optimiser = torch.optim.AdamW(fusion.parameters(), lr=training.learning_rate, betas=_BETAS)
    total = training.epochs * len(images)
    losses = list[float]()
    with torch.enable_grad():
        for step in range(total):
            if step % len(images) == 0:
                order = torch.randperm(len(images), generator=generator).tolist()
                losses.clear()
            number = order[step % len(images)]
            optimiser.param_groups[0]["lr"] = training.rate((step + 1) / len(images))
            pair = _draw(images[number], number, training.patches, generator)
            if pair is None:
                continue
            losses.append(_step(fusion, optimiser, pair, training.temperature, step))
            if progress:
                progress("training", step + 1, total)
    if not losses:
        raise DatasetError("no image has two places that both modalities have: look at the valid points of the parts")
    return fusion.eval().requires_grad_(False), sum(losses) / len(losses)


def _draw(pair: Pair, number: int, patches: int, generator: torch.Generator) -> Pair | None:
    """The rows of one step; None where there is nothing to tell apart."""
    a, b = pair
    if len(a) != len(b):
        raise DatasetError(
            f"image {number} has {len(a)} patches of one modality and {len(b)} of the other: give both on one grid"
        )
    if len(a) < 2:
        return None
    rows = torch.randperm(len(a), generator=generator)[:patches].to(a.device)
    return a[rows].float(), b[rows].float()


def _step(fusion: Fusion, optimiser: torch.optim.Optimizer, pair: Pair, temperature: float, step: int) -> float:
    """Learn from one image. Returns the loss."""
    loss = fusion.loss(*pair, temperature)
    if not torch.isfinite(loss):
        raise DatasetError(f"the loss is {float(loss)} after {step} steps: use a smaller learning rate")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())
