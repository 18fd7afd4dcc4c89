"""Anomalies in feature space: Gaussian noise, relative to how far each feature spreads over good parts."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_like(features: Tensor, spread: Tensor, relative_sigma: float, generator: torch.Generator) -> Tensor:
    """Draw the noise that makes good features anomalous (SimpleNet, Liu et al. 2023, equation 4).

    The published σ = 0.015 is for features of one network. A share of each feature's own spread means the same for all.

    Args:
        features: …×D.
        spread: D standard deviations of each feature over good parts, or one for all.
        relative_sigma: standard deviation of the noise, as a share of the spread.
        generator: the only source of randomness; the noise is the same on every device if it is on the CPU.

    Returns:
        …×D noise to be added to the features.
    """
    drawn = torch.randn(features.shape, generator=generator, device=generator.device)
    return drawn.to(features) * (relative_sigma * spread.to(features))
