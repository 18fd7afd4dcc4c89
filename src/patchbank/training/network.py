"""Networks with first weights of their own seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from patchbank.features.storage import in_blocks

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
    network.to_empty(device="cpu")
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
        widths = [part.shape[1] for part in parts]
        offsets, scales = torch.split(self.offset, widths), torch.split(self.scale, widths)
        for part, offset, scale in zip(parts, offsets, scales, strict=True):
            total, squares = torch.zeros(2, part.shape[1], dtype=torch.float64, device=part.device)
            for _, block in in_blocks(part):
                values = block.double()
                total += values.sum(0)
                squares += values.square().sum(0)
            mean = total / len(part)
            offset.copy_(mean)
            scale.copy_((squares / len(part) - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale
