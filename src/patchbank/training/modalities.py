"""The parts of EasyNet: a network that rebuilds one modality, and the segmentation that fuses the layers of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchbank.training.network import convolution

_ABOVE_ALL = 2.0  # entropies end at 1
_PRIOR = math.log(0.01 / 0.99)  # the logit that training begins with: anomalies are rare (Lin et al. 2017, §3.3)


class Reconstruction(nn.Module):
    """Rebuilds a picture without its anomalies: an encoder and a decoder, without skip connections.

    A step of the decoder narrows at the coarse size before it enlarges, which costs a quarter of the other order.

    Args:
        inputs, outputs: channels.
        widths: channels at each scale. Scale k has 1/2^k of the picture's sides.
        read: the scales that a segmentation reads, one after the other, without the coarsest.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], read: range):
        super().__init__()
        self.read = read
        self.encoder = nn.ModuleList(nn.Sequential(layer(a, b), layer(b, b)) for a, b in pairwise([inputs, *widths]))
        self.narrow = nn.ModuleList(layer(b, a) for a, b in pairwise(widths))
        self.refine = nn.ModuleList(layer(a, a) for a in widths[:-1])
        self.last = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def layers(self, picture: Tensor) -> tuple[list[Tensor], Tensor]:
        """B×inputs×h×w → of each scale that is read, finest first, the features of encoder and decoder beside each
        other, B×2w_k×h/2^k×w/2^k; and those of the decoder at the finest of them."""
        encoded: list[Tensor] = []
        for block in self.encoder:
            encoded.append(block(F.max_pool2d(encoded[-1], 2) if encoded else picture))
        decoded, found = encoded[-1], list[Tensor]()
        for k in reversed(range(self.read.start, len(self.narrow))):
            decoded = self._finer(decoded, k)
            if k in self.read:
                found.insert(0, torch.cat([encoded[k], decoded], 1))
        return found, decoded

    def rebuilt(self, decoded: Tensor) -> Tensor:
        """The decoder's features at the finest scale that is read → B×outputs×h×w. A score does not need it."""
        for k in reversed(range(self.read.start)):
            decoded = self._finer(decoded, k)
        found: Tensor = self.last(decoded)
        return found

    def _finer(self, decoded: Tensor, k: int) -> Tensor:
        """From scale k + 1 to scale k."""
        found: Tensor = self.refine[k](enlarged(self.narrow[k](decoded)))
        return found


class EntropyGates(nn.Module):
    """Which modalities are let through at each scale, by how far their attention is spread.

    An entropy H near 1 means that the attention rests on nothing: the modality says nothing there, and its noise would
    reach the segmentation. A gate is closed where 1 − H is less than half of what it is for any good training part.
    """

    limits: Tensor

    def __init__(self, modalities: int, scales: int):
        super().__init__()
        self.register_buffer("limits", torch.zeros(modalities, scales))

    def reset(self, generator: torch.Generator) -> None:
        """Open whatever comes."""
        self.limits.fill_(_ABOVE_ALL)

    def learn(self, entropies: Tensor) -> None:
        """Of N good parts, N×modalities×scales."""
        self.limits.copy_((1 + entropies.amax(0)) / 2)

    def forward(self, features: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Features of each modality and scale → the same, 0 where a gate is closed. Where all modalities of a scale
        would be closed, all are open."""
        open_ = (self.entropies(features) <= self.limits).to(features[0][0].dtype)
        nothing = 1 - open_.amax(1, keepdim=True)
        weights = open_ + nothing
        return [
            [each * weights[:, m, k, None, None, None] for k, each in enumerate(scales)]
            for m, scales in enumerate(features)
        ]

    def entropies(self, features: Sequence[Sequence[Tensor]]) -> Tensor:
        """B×modalities×scales."""
        return torch.stack([torch.stack([attention_entropy(each) for each in scales], 1) for scales in features], 1)


class Segmentation(nn.Module):
    """Marks anomalies in the layers of reconstruction networks.

    Args:
        modalities: how many there are.
        widths: channels of the encoder at each of the scales that are looked at, finest first.
        hidden: channels that each layer is reduced to.
    """

    def __init__(self, modalities: int, widths: Sequence[int], hidden: int):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.ModuleList(layer(2 * width, hidden, 1) for width in widths) for _ in range(modalities)
        )
        self.gates = EntropyGates(modalities, len(widths)) if modalities > 1 else None
        self.fuse = nn.Sequential(
            layer(modalities * len(widths) * hidden, hidden), layer(hidden, hidden), nn.Conv2d(hidden, 1, 1)
        )

    def reduced(self, layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Of each modality and scale the features of encoder and decoder, B×2w×h×w → B×hidden×h×w."""
        found = []
        for number, scales in enumerate(layers):
            heads: Any = self.heads[number]
            found.append([head(each) for head, each in zip(heads, scales, strict=True)])
        return found

    def forward(self, layers: Sequence[Sequence[Tensor]], size: tuple[int, int]) -> Tensor:
        """As for `reduced` → logits of an anomaly, B×1×rows×columns of that size. Gates are open while it learns."""
        features = self.reduced(layers)
        if self.gates is not None and not self.training:
            features = self.gates(features)
        finest = (int(features[0][0].shape[2]), int(features[0][0].shape[3]))
        laid = [resized(each, finest) for scales in features for each in scales]
        return resized(self.fuse(torch.cat(laid, 1)) + _PRIOR, size)


def layer(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """A convolution that keeps the sides, batch normalisation, ReLU."""
    return nn.Sequential(*convolution(inputs, outputs, size))


def enlarged(x: Tensor) -> Tensor:
    """B×C×h×w → B×C×2h×2w, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """B×C×h×w → B×C×rows×columns, bilinear."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def attention_entropy(features: Tensor) -> Tensor:
    """How far attention is spread over the places of a map: B×C×h×w → B, 1 where all places are alike.

    H = −Σ_p a_p · log a_p / log P, where a = softmax_p(q · f_p / √C) and the query q is the mean of all f_p.
    """
    channels, places = int(features.shape[1]), int(features.shape[2]) * int(features.shape[3])
    keys = features.flatten(2)
    products = (keys * keys.mean(2, keepdim=True)).sum(1) / math.sqrt(channels)
    logarithms = torch.log_softmax(products, 1)
    return -(logarithms.exp() * logarithms).sum(1) / math.log(places)
