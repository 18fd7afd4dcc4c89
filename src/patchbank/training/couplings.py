"""Normalising flows of affine couplings, which methods learn for each level of the features.

Dinh et al. 2017, "Density estimation using Real NVP" (arXiv 1605.08803). A coupling leaves one half of the channels as
it is, and a subnet says from them how the other half is scaled and shifted. Its inverse and its Jacobian determinant
then cost no more than the coupling itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from patchbank.errors import OptionError

_GENTLE = 0.1  # on what a subnet says: a coupling then begins near the identity
Subnet = Callable[[int, int], nn.Module]


class Coupling(nn.Module):
    """The channels in a fixed random order, then y = [x₁, x₂ · exp(s(x₁)) + t(x₁)].

    Args:
        channels: C, at least 2.
        subnet: makes the network for s and t, given how many channels go in and how many come out.
        clamp: s lies in −clamp..clamp.
        axis: of the channels.
    """

    order: Tensor

    def __init__(self, channels: int, subnet: Subnet, clamp: float, axis: int):
        super().__init__()
        self.clamp, self.axis = clamp, axis
        self.widths = [channels - channels // 2, channels // 2]
        self.register_buffer("order", torch.arange(channels))
        self.subnet = subnet(self.widths[0], 2 * self.widths[1])

    def reset(self, generator: torch.Generator) -> None:
        """Draw the order of the channels."""
        self.order.copy_(torch.randperm(len(self.order), generator=generator))

    def forward(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log |det ∂y/∂x|, which is the sum of s, of each position.

        Args:
            x: of any shape with C channels.
            condition: further channels that the subnet sees.
        """
        kept, changed = torch.split(x.index_select(self.axis, self.order), self.widths, self.axis)
        log_scale, shift = self._affine(kept, *condition)
        return torch.cat([kept, changed * log_scale.exp() + shift], self.axis), log_scale.sum(self.axis)

    def inverse(self, y: Tensor, *condition: Tensor) -> Tensor:
        """The x that `forward` makes y of."""
        kept, changed = torch.split(y, self.widths, self.axis)
        log_scale, shift = self._affine(kept, *condition)
        ordered = torch.cat([kept, (changed - shift) * (-log_scale).exp()], self.axis)
        return ordered.index_select(self.axis, self.order.argsort())

    def _affine(self, kept: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = torch.split(
            _GENTLE * self.subnet(torch.cat([kept, *condition], self.axis)), self.widths[1], self.axis
        )
        return self.clamp * torch.tanh(log_scale), shift


class Flow(nn.Module):
    """Couplings in a row.

    Args:
        channels: C, at least 2.
        subnets: of each coupling.
        clamp, axis: as of `Coupling`.
    """

    def __init__(self, channels: int, subnets: Sequence[Subnet], clamp: float, axis: int):
        super().__init__()
        if channels < 2:
            raise OptionError("a flow cannot be learned of a level with a single channel: choose other levels")
        self.channels, self.axis = channels, axis
        self.couplings = nn.ModuleList(Coupling(channels, subnet, clamp, axis) for subnet in subnets)

    def forward(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, Tensor]:
        """z as x, and log |det ∂z/∂x| of each position."""
        total = torch.zeros((), device=x.device)
        for coupling in self.couplings:
            x, log_det = coupling(x, *condition)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, *condition: Tensor) -> Tensor:
        """The x that `forward` makes z of."""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z, *condition)  # type: ignore[operator]
        return z

    def distance(self, x: Tensor, *condition: Tensor) -> Tensor:
        """½‖z‖² / C of each position: −log N(z; 0, I) / C without its constant."""
        z, _ = self(x, *condition)
        distance: Tensor = 0.5 * z.square().mean(self.axis)
        return distance

    def surprise(self, x: Tensor, *condition: Tensor) -> Tensor:
        """−log p(x) / C of each position: log p(x) = log N(z; 0, I) + log |det ∂z/∂x|."""
        z, log_det = self(x, *condition)
        log_normal = -0.5 * (z.square().sum(self.axis) + self.channels * math.log(2 * math.pi))
        surprise: Tensor = -(log_normal + log_det) / self.channels
        return surprise


def mean_inside(values: Tensor, inside: Tensor) -> Tensor:
    """The mean of values of those positions that are `inside`: 1 there, 0 elsewhere, and broadcast to the values."""
    inside = inside.expand_as(values)
    return (values * inside).sum() / inside.sum().clamp(min=1)
