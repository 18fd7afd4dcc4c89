"""What is drawn at random, from generators that are passed in."""

from __future__ import annotations

import math

import numpy as np
import torch

from patchbank.training.anomalies.masks import Mask


def generators(generator: torch.Generator, count: int) -> list[np.random.Generator]:
    """Draw one independent numpy generator per sample of a batch.

    A sample's anomaly then depends on its own seed alone, not on the threads that draw the others.

    Args:
        generator: the only source of randomness; it advances by `count` draws.
        count: samples in the batch.
    """
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
    return [np.random.default_rng(seed) for seed in seeds.tolist()]


def random_pixel(mask: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """The (row, column) of a pixel of a mask, each with the same probability."""
    pixels = np.flatnonzero(mask)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
    return row, column


def log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """A number between two positive ones, whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
