"""The loop that methods share whose scorer learns weights: from stored patches, with seeds of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from patchbank.errors import DatasetError, Progress

Network = TypeVar("Network", bound=nn.Module)
_LAST = 20  # steps whose mean loss is reported


@runtime_checkable
class Trainable(Protocol):
    """A scorer with weights of its own."""

    def training_step(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """The loss, a scalar, of B×D prepared patches; `generator` for all that is random."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True)
class Training:
    """How weights are learned.

    Attributes:
        steps: of Adam.
        batch: patches at each step, drawn with replacement.
        learning_rate: of Adam.
        seed: of the draws.
    """

    steps: int = 200
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


def train(scorer: Trainable, patches: Tensor, training: Training, progress: Progress | None = None) -> float:
    """Fit a scorer's weights to N×D prepared patches, and freeze them. Returns the mean loss of the last steps.

    The global random state is neither used nor changed. Raises `DatasetError` where the loss is no number.
    """
    generator = torch.Generator().manual_seed(training.seed)
    parameters = list(scorer.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser, losses = torch.optim.Adam(parameters, lr=training.learning_rate), list[float]()
    with torch.enable_grad():
        for step in range(training.steps):
            rows = torch.randint(len(patches), (training.batch,), generator=generator).to(patches.device)
            loss = scorer.training_step(patches[rows], generator)
            if not torch.isfinite(loss):
                raise DatasetError(f"the loss is {float(loss)} after {step} steps: use a smaller learning rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
            if progress:
                progress("training", step + 1, training.steps)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return sum(losses[-_LAST:]) / len(losses[-_LAST:])


def build(make: Callable[[], Network], seed: int) -> Network:
    """The network that a function makes, its linear and convolutional layers drawn by a seed of their own (Kaiming
    uniform), its normalising layers the identity. The global random state is neither used nor changed."""
    with torch.device("meta"):  # where nothing is drawn
        network = make()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            bound = (1 / module.weight[0].numel()) ** 0.5
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    drawn = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
                    parameter.data.copy_(drawn)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()  # which draws nothing; without it they would hold whatever lay in memory
    return network
