"""Learned proxies (PatchCore §4.4.2, Eq. 8): a bank of vectors that reconstruct the features, not of features."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from patchbank.features.storage import in_blocks, take
from patchbank.memory.coreset.samplers import BaseSampler, Features, Progress, covering_radius_of
from patchbank.memory.search import nearest

STEPS, BATCH = 300, 256  # the paper gives neither these nor the rate
RATE = 0.05  # of Adam, times the features' standard deviation


class ProxySampler(BaseSampler):
    """K proxies p, drawn from the features and moved so that the features m are well reconstructed:

    L(m) = ‖m − Σ_k w_k p_k‖², w = softmax(−‖m − p_k‖)   (Eq. 8)

    The paper prints the exponents without the minus, which would weigh the farthest proxy most, so that any proxies
    that lie together are a minimum; `sign=1` is that. Minimised by Adam over batches of the features. What is returned
    are the proxies; `indices_` are the features nearest to them, which a proxy is said to come from.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str = "cpu",
        *,
        count: int | None = None,
        seed: int = 0,
        steps: int = STEPS,
        sign: float = -1.0,
    ):
        super().__init__(percentage, count=count, seed=seed)
        self.device, self.steps, self.sign = torch.device(device), steps, sign

    def run(self, features: Features, progress: Progress | None = None) -> Features:
        """N×D → K×D proxies, none of which is one of the features. `progress` as of all samplers."""
        tensor = self._checked(features)
        count = min(self._count(len(tensor)), len(tensor))
        proxies = learn_proxies(tensor, count, self.seed, self.steps, self.device, self.sign, progress)
        self.indices_ = _nearest_to(tensor, proxies)
        self.covering_radius_ = covering_radius_of(tensor, proxies)
        if isinstance(features, np.ndarray):
            learned: Features = proxies.cpu().numpy().astype(features.dtype)
            return learned
        return proxies.to(features)


def reconstruction_loss(features: Tensor, proxies: Tensor, sign: float = -1.0) -> Tensor:
    """Eq. 8, averaged over N×D features; K×D proxies."""
    squared = features.square().sum(1)[:, None] - 2 * features @ proxies.T + proxies.square().sum(1)
    distances = squared.clamp(min=1e-12).sqrt()
    reconstructed = torch.softmax(sign * distances, 1) @ proxies
    return (features - reconstructed).square().sum(1).mean()


def learn_proxies(
    features: Tensor,
    count: int,
    seed: int,
    steps: int = STEPS,
    device: torch.device | None = None,
    sign: float = -1.0,
    progress: Progress | None = None,
) -> Tensor:
    """N×D features → `count` proxies, float32 on the device."""
    rng = np.random.default_rng(seed)
    start = torch.from_numpy(np.sort(rng.choice(len(features), count, replace=False)))
    proxies = take(features, start.to(features.device)).float().to(device).clone().requires_grad_()
    optimiser = torch.optim.Adam([proxies], lr=RATE * _spread(features))
    for step in range(steps):
        rows = torch.from_numpy(np.sort(rng.integers(0, len(features), min(BATCH, len(features)))))
        batch = take(features, rows.to(features.device)).float().to(device)
        optimiser.zero_grad()
        (proxies.grad,) = torch.autograd.grad(reconstruction_loss(batch, proxies, sign), proxies)
        optimiser.step()
        if progress:  # as many as are made, spread over the steps
            progress(count * (step + 1) // steps - count * step // steps)
    return proxies.detach()


def vector_bytes(dimension: int) -> int:
    """What learning takes for each proxy: itself, its gradient, the two states of Adam and its intermediate results,
    and the matrices of a batch with their gradients."""
    return 4 * (6 * dimension + 8 * BATCH)


def _spread(features: Tensor) -> float:
    """The standard deviation of N×D features about their mean, averaged over the dimensions."""
    mean = torch.stack([block.double().sum(0) for _, block in in_blocks(features)]).sum(0) / len(features)
    squares = sum(float((block.double() - mean).square().sum()) for _, block in in_blocks(features))
    return max(math.sqrt(squares / features.numel()), 1e-12)


def _nearest_to(features: Tensor, proxies: Tensor) -> Tensor:
    """The row of N×D features that is nearest to each proxy, on the CPU."""
    best = torch.full((len(proxies),), torch.inf)
    rows = torch.zeros(len(proxies), dtype=torch.int64)
    for block_rows, block in in_blocks(features, 8192):
        distances, found = (values.cpu() for values in nearest(proxies.to(features.device), block.float()))
        closer = distances < best
        best[closer], rows[closer] = distances[closer], found[closer] + block_rows.start
    return rows
