"""Networks with first weights of their own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from patchbank.features.backbones.registry import materialise
from patchbank.features.storage import column_moments

Network = TypeVar("Network", bound=nn.Module)
_LEAST_SCALE = 1e-6
_DRAWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def build(make: Callable[[], Network], seed: int) -> Network:
    """The network that a function makes, with weights drawn by a seed of their own.

    Linear and convolutional layers are drawn as torch draws them (Kaiming uniform), normalising layers begin as the
    identity. Another module with parameters or buffers of its own must have a method `reset(generator)` that fills
    them. The global random state is neither used nor changed.
    """
    with torch.device("meta"):  # where nothing is drawn
        network = make()
    materialise(network)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _DRAWN):
            bound = (1 / module.weight[0].numel()) ** 0.5
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    drawn = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
                    parameter.data.copy_(drawn)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()  # which draws nothing; without it they would hold whatever lay in memory
        elif hasattr(module, "reset"):
            module.reset(generator)  # type: ignore[operator]
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise TypeError(f"{type(module).__name__} has values of its own, and no method reset(generator)")
    return network


def convolution(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """A convolution that keeps the sides, or divides them by `stride`; batch normalisation; ReLU."""
    conv = nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


class Standard(nn.Module):
    """Features → mean 0 and standard deviation 1 over good parts, in each of D dimensions (the last axis)."""

    offset: Tensor
    scale: Tensor

    def __init__(self, dimension: int):
        super().__init__()
        self.register_buffer("offset", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))

    def reset(self, generator: torch.Generator) -> None:
        """As before anything is learned."""
        self.offset.zero_()
        self.scale.fill_(1.0)

    def learn(self, *parts: Tensor) -> None:
        """Mean and deviation of N×D features, read in blocks; D may come in parts."""
        found = [column_moments(part) for part in parts]
        self.hold(torch.cat([mean for mean, _ in found]), torch.cat([variance for _, variance in found]))

    def hold(self, mean: Tensor, variance: Tensor) -> None:
        """Take D means and D variances over."""
        self.offset.copy_(mean)
        self.scale.copy_(variance.sqrt().clamp(min=_LEAST_SCALE))

    def with_noise(self, x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        """Features with Gaussian noise of so many of their standard deviations. A density that is learned from them is
        smoother, and holds better for new parts (Rothfuss et al. 2019, "Noise Regularization for Conditional Density
        Estimation", arXiv 1907.08982)."""
        if not sigma:
            return x
        return x + sigma * self.scale * torch.randn(x.shape, generator=generator).to(x.device)

    def of_maps(self, maps: Tensor) -> Tensor:
        """As `forward`, of maps B×D×h×w."""
        found: Tensor = self(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale
