"""How the distances of several channels become one: standardised, weighed and joined.

Distances of different channels have different units, so each is standardised by what good parts reach when they are
left out of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchbank.memory.good_distances import Found, largest
from patchbank.sample import MADE_OF
from patchbank.scoring.one_class import learned_weights

_LEAST_SPREAD = 1e-6  # of the mean: of samples that are all the same
_BESIDE = {"holes": 0.5}  # weights of channels that show what no other channel of their source shows
_LEAST_REACH = 0.05  # of the mean peak: few samples say little of its spread
_KEPT = ("offsets", "scales", "weights", "good_peaks")


class Fusion:
    """Standardises, weighs and joins the distances of K channels.

    Args:
        kind: "map-sum", the sum of how unlikely each channel's map is among good samples (`surprise`), where n channels
            made of one source weigh √n together, and `holes` half as much as a picture; "max", the largest of them;
            "learned", a weighted sum of standardised distances, whose weights come from what good samples reach; "sum",
            one whose weights are given.
        channels: their names.

    Attributes:
        offsets, scales: K, mean and spread of the distances of patches of good samples.
        weights: K.
        good_peaks: K×2, mean and spread of the peaks of good samples' maps.
    """

    def __init__(self, kind: str, channels: Sequence[str]):
        self.kind, self.channels, count = kind, tuple(channels), len(channels)
        self.offsets, self.scales, self.weights = torch.zeros(count), torch.ones(count), torch.ones(count)
        self.good_peaks = torch.tensor([[0.0, 1.0]] * count)

    @property
    def is_of_maps(self) -> bool:
        """Whether maps are fused after they were smoothed: where that is not the same as before."""
        return self.kind in ("map-sum", "max")

    def learn(self, found: Sequence[Found], peaks: Callable[[int, Tensor], NDArray[np.float32]]) -> None:
        """From distances of good samples. `peaks`: the largest value of each channel's map of a sample, of its number
        and its standardised distances."""
        patches = np.concatenate([distances.reshape(len(distances), -1).T for _, distances in found])
        self.offsets = torch.as_tensor(patches.mean(0), dtype=torch.float32)
        spread = np.maximum(patches.std(0), _LEAST_SPREAD * patches.mean(0) + 1e-12)
        self.scales = torch.as_tensor(spread, dtype=torch.float32)
        if self.kind == "learned":
            if len(found) > 1:  # otherwise there is nothing to learn from
                standardised = (largest(found) - self.offsets.numpy()) / self.scales.numpy()
                self.weights = torch.as_tensor(learned_weights(standardised) * len(self.channels), dtype=torch.float32)
            return
        reached = np.stack([
            peaks(i, self.standardised(torch.as_tensor(distances, dtype=torch.float32))) for i, distances in found
        ])  # fmt: skip
        mean = reached.mean(0)
        logistic = np.maximum(reached.std(0) * math.sqrt(3) / math.pi, _LEAST_REACH * np.abs(mean) + 1e-12)
        self.good_peaks = torch.as_tensor(np.stack([mean, logistic], axis=1), dtype=torch.float32)
        if self.kind == "map-sum":
            self.weights = torch.tensor(weights_of(self.channels))

    def standardised(self, values: Tensor) -> Tensor:
        """K×… distances, in units of the spread over good samples."""
        return (values - _shaped(self.offsets, values)) / _shaped(self.scales, values)

    def shares(self, standardised: Tensor) -> Tensor:
        """What each channel contributes, K×…"""
        weights = _shaped(self.weights, standardised)
        if not self.is_of_maps:
            return standardised * weights
        mean, spread = (_shaped(column, standardised) for column in self.good_peaks.T)
        return surprise((standardised - mean) / spread) * weights

    def joined(self, shares: Tensor) -> Tensor:
        """K×… shares → … fused."""
        return shares.amax(0) if self.kind == "max" else shares.sum(0)

    def __call__(self, standardised: Tensor) -> Tensor:
        """K×… standardised distances, of patches or of pixels → … fused."""
        return self.joined(self.shares(standardised))

    def state(self) -> dict[str, Tensor]:
        """For model files."""
        return {f"fusion.{name}": getattr(self, name) for name in _KEPT}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in _KEPT:
            setattr(self, name, tensors[f"fusion.{name}"].cpu())


def _shaped(of_channels: Tensor, values: Tensor) -> Tensor:
    """K numbers, beside K×… values."""
    return of_channels.to(values.device).reshape(-1, *(1 for _ in values.shape[1:]))


def weights_of(channels: Sequence[str]) -> list[float]:
    """n channels of one source say nearly the same: together they weigh √n, not n."""
    sources = [MADE_OF.get(name, name) for name in channels]
    alike = [source for name, source in zip(channels, sources, strict=True) if name not in _BESIDE]
    return [_BESIDE.get(name) or alike.count(source) ** -0.5 for name, source in zip(channels, sources, strict=True)]


def surprise(x: Tensor) -> Tensor:
    """−log p of a logistic distribution, with p the share of good samples whose map somewhere exceeds x: log(1 + eˣ).

    Summed over channels this is Fisher's method ("Statistical Methods for Research Workers", 1925). A channel adds next
    to nothing where it lies below what good samples reach anyway, and in proportion to the excess above.
    """
    return torch.nn.functional.softplus(x)
