"""How far the response of patches lies beside what they respond to: measured on the network, as its layers decide it.

Layers with strides sample off the centre of their cells (padding on one side, even kernels), and trained weights make
up for a part of that. Known changes of pictures are shown to the network, upright and turned by half a turn: what the
two responses are off by is twice the displacement, whatever the changes look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from patchbank._system.threads import on_this_thread
from patchbank.data.lattice import Lattice
from patchbank.features.aggregation import Arrangement
from patchbank.features.backbones import Backbone
from patchbank.scoring.maps import anomaly_map

_SIDE = 256  # pixels of the pictures that are shown: in smaller ones the borders reach the middle
_SIZES = 2 * (12, 12, 16, 16, 20, 20, 24, 24)  # pixels of the square that each picture is changed by
_GOOD = 0.25  # squared distance of a good patch to its nearest, in units of the variance: a change stands out from it
_STEPS = 100  # of a pixel: other processors round otherwise, and maps should not differ by it


@dataclass(frozen=True, eq=False)
class Response:
    """How features differ in pictures of `side` pixels, on maps 2×D_i×h_i×w_i (upright and turned) whose cells are
    `steps[i]` pixels apart: the squared `changes` by a square in the middle, on average over the pictures, and the
    `variance` D_i over positions of the pictures without it."""

    side: int
    steps: list[int]
    changes: list[Tensor]
    variance: list[Tensor]

    @property
    def dimension(self) -> int:
        """ΣD_i."""
        return sum(len(variance) for variance in self.variance)

    def displacement(self, sigma: float, gain: Tensor | None = None) -> tuple[float, float]:
        """(down, across) in pixels, of what stands out in a map of distances with a Gaussian of `sigma` pixels, where
        dimension d has the weight `gain` d in squared distances (None: the same)."""
        gains = torch.ones(self.dimension) if gain is None else gain.detach().cpu().float()
        fine, background = self.changes[0].shape[2:], 0.0
        squared = torch.zeros(2, *fine)
        parts = torch.split(gains, [len(variance) for variance in self.variance])
        for changes, variance, part in zip(self.changes, self.variance, parts, strict=True):
            change = torch.einsum("sdhw,d->shw", changes, part)
            squared += F.interpolate(change[None], fine, mode="nearest")[0]
            background += float(part @ variance)
        distances = (squared + _GOOD * background).sqrt()
        cell = Lattice(self.steps[0])
        middles = [_middle(anomaly_map(one, (self.side, self.side), sigma, lattice=cell)) for one in distances]
        # turned, what is at c is seen at −c: in the sum only the displacement is left, twice
        down, across = (round(float(value) / 2 * _STEPS) / _STEPS + 0.0 for value in np.sum(middles, axis=0))
        return down, across


def measure(maps: Callable[[Tensor], Sequence[tuple[Tensor, int]]], multiple: int) -> Response:
    """`maps`: pictures B×3×S×S in 0..255 → maps B×D_i×h_i×w_i, each with the pixels from one of its cells to the next;
    S is a multiple of `multiple`."""
    side = round(_SIDE / multiple) * multiple
    steps: list[int] = []
    changes: list[Tensor] = []
    variance: list[Tensor] = []
    for pictures in _pictures(side):
        for i, (found, step) in enumerate(maps(pictures)):
            change = (found[1::2] - found[::2]).square().cpu() / len(_SIZES)
            of_good = found[0].flatten(1).var(1).cpu() / len(_SIZES)
            if len(steps) == i:
                steps.append(step)
                changes.append(change)
                variance.append(of_good)
            else:
                changes[i] += change
                variance[i] += of_good
    return Response(side, steps, changes, variance)


_responses: WeakKeyDictionary[Backbone, dict[Arrangement, Response]] = WeakKeyDictionary()


def response_of(backbone: Backbone, arrangement: Arrangement) -> Response:
    """How the vectors of an arrangement change with a picture, and where: measured once for a network that is open."""

    def maps(pictures: Tensor) -> list[tuple[Tensor, int]]:
        vectors = backbone.arranged(pictures, arrangement)
        return arrangement.channels(vectors, backbone.channels, backbone.strides)

    known = _responses.setdefault(backbone, {})
    if arrangement not in known:  # two threads may both measure it: the same
        with torch.inference_mode(), on_this_thread():
            known[arrangement] = measure(maps, backbone.multiple)
    return known[arrangement]


def _pictures(side: int) -> Iterator[Tensor]:
    """Pictures of a texture without and with a square, both upright and both turned by half a turn, 4×3×S×S."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(_SIZES):
        texture = rng.normal(128, 20, (1, side, side)) + rng.normal(0, 6, (3, side, side))
        changed, (top, left) = texture.copy(), (side - size) // 2 + rng.integers(-4, 5, 2)
        roughness = 40 * (number % 2)  # every second square is smooth
        square = rng.uniform(0, 255, (3, 1, 1)) + rng.normal(0, 1, (3, size, size)) * roughness
        changed[:, top : top + size, left : left + size] = square
        both = np.clip(np.stack([texture, changed]), 0, 255).astype(np.float32)
        yield torch.from_numpy(np.concatenate([both, both[:, :, ::-1, ::-1]]))


def _middle(anomaly: NDArray[np.float32]) -> tuple[float, float]:
    """The centre of what is above half of the peak, about the middle of the map."""
    above = anomaly - np.median(anomaly)
    above = np.where(above > above.max() / 2, above, 0)
    at = np.arange(len(above)) - (len(above) - 1) / 2
    total = max(float(above.sum()), 1e-30)
    return float(above.sum(1) @ at) / total, float(above.sum(0) @ at) / total
