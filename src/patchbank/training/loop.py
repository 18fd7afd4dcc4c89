"""The loop that all methods share whose scorer learns weights."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from patchbank._system.signals import undivided
from patchbank.errors import DatasetError
from patchbank.training.checkpoint import State
from patchbank.training.items import Items
from patchbank.training.session import Session

_EVERY = 120.0  # seconds from one checkpoint to the next
_KEPT = 10  # of the images, one is kept back to stop early by
_SMOOTH = 0.98  # of the loss that is shown
_LARGEST_EPOCH = 1_000_000  # so that no two epochs of two seeds have one order


class Task(Protocol):
    """What the loop trains."""

    @property
    def network(self) -> nn.Module:
        """Whose parameters and buffers change."""
        ...

    @property
    def items(self) -> Items:
        """What batches are drawn from."""
        ...

    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """All that move its parameters."""
        ...

    def loss(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch, a scalar, given the numbers of its items; all that is random comes from `generator`,
        which lies on the CPU."""
        ...


@dataclass(frozen=True)
class Training:
    """How weights are learned.

    Attributes:
        epochs: how often each item is seen.
        batch: items at each step.
        seed: of the first weights, the order and all that is random.
        schedule: of the learning rates: "constant", or "cosine", which falls to 0.
        warmup: epochs in which they rise from 0.
        drops: shares of all epochs after which a constant rate falls to a tenth.
        clip: largest length of the gradient; None for any.
        max_minutes: when the training ends, whether or not all epochs are done; learning rates that fall come down by
            then. What is learned depends on the machine.
        patience: end after so many epochs without a lower loss on a tenth of the images, which are kept back; None to
            learn from all, for all epochs.
        precision: of the arithmetic on a GPU, "float32" or "bfloat16".
    """

    epochs: int
    batch: int
    seed: int = 0
    schedule: str = "constant"
    warmup: float = 0.0
    drops: tuple[float, ...] = ()
    clip: float | None = None
    max_minutes: float | None = None
    patience: int | None = None
    precision: str = "float32"

    def rate(self, epoch: float) -> float:
        """The share of the learning rates after so many epochs, whole or not."""
        if epoch < self.warmup:
            return epoch / self.warmup
        if self.schedule == "constant":
            return 0.1 ** sum(epoch > share * self.epochs for share in self.drops)
        done = (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class Outcome:
    """What came of a training. `loss`: the mean of its last epoch; `ended`: by "epochs", "minutes" or "patience"."""

    loss: float
    epochs: int
    steps: int
    ended: str


@dataclass
class _Standing:
    """Where a training stands, between two steps."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    steps: int = 0
    total: float = 0.0  # of the losses of this epoch
    loss: float = math.nan  # the mean of the epoch before, or as far as it came
    shown: float = math.nan
    seconds: float = 0.0
    lowest: float = math.inf
    waited: int = 0  # epochs since then
    ended: str = ""


@dataclass
class _Trainer:
    """One training on its way."""

    task: Task
    training: Training
    session: Session
    learned: str
    standing: _Standing = field(default_factory=_Standing)

    def __post_init__(self) -> None:
        training, images = self.training, self.task.items.images
        self.optimisers = self.task.optimisers()
        self.rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.generator = torch.Generator().manual_seed(training.seed)
        kept = max(1, images // _KEPT) if training.patience is not None and images > 1 else 0
        order = torch.randperm(images, generator=torch.Generator().manual_seed(training.seed)).tolist()
        self.kept, self.images = sorted(order[:kept]), sorted(order[kept:])
        self.each = max(self.task.items.steps(training.batch, self.images), 1)  # steps of an epoch
        device = next(self.task.network.parameters()).device
        narrow = device.type == "cuda" and training.precision == "bfloat16"
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=narrow)

    def run(self) -> Outcome:
        """All epochs, or as many as the time allows."""
        checkpoints, standing = self.session.checkpoints, self.standing
        state = State(self.task.network, self.optimisers, self.generator)
        if checkpoints and checkpoints.load(self.learned, state):
            self.standing = standing = _Standing(**state.values)
            if standing.ended == "minutes" and not self._is_late():
                standing.ended = ""  # there are more of them now
        saved = started = time.monotonic()
        before = standing.seconds
        try:
            while not standing.ended:
                for numbers in self._rest_of_epoch():
                    with undivided():
                        self._step(numbers)
                        standing.seconds = before + time.monotonic() - started
                        if self._is_late():
                            standing.ended = "minutes"
                    if checkpoints and time.monotonic() - saved > _EVERY:
                        self._save(state)
                        saved = time.monotonic()
                    if standing.ended:
                        break
                else:
                    with undivided():
                        self._end_epoch()
        except KeyboardInterrupt:
            self._save(state)
            raise
        self._save(state)
        return Outcome(standing.loss, standing.epoch, standing.steps, standing.ended)

    def _save(self, state: State) -> None:
        if self.session.checkpoints:
            with undivided():
                state.values = vars(self.standing)
                self.session.checkpoints.save(self.learned, state)

    def _rest_of_epoch(self) -> Any:
        """The batches of this epoch that were not learned from yet. Their order hangs on seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.training.seed * _LARGEST_EPOCH + self.standing.epoch)
        done = self.standing.batch
        for number, numbers in enumerate(self.task.items.batches(self.training.batch, self.images, generator)):
            if number >= done:
                yield numbers

    def _step(self, numbers: Tensor) -> None:
        standing, share = self.standing, self.training.rate(self._epochs_done())
        for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
        with self.autocast:
            loss = self.task.loss(numbers, self.generator)
        if not torch.isfinite(loss):
            raise DatasetError(
                f"the loss is {float(loss.detach())} after {standing.steps} steps: use a smaller learning rate"
            )
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(self.task.network.parameters(), self.training.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        value = float(loss.detach())
        standing.batch += 1
        standing.steps += 1
        standing.total += value
        standing.loss = standing.total / standing.batch
        standing.shown = value if math.isnan(standing.shown) else _SMOOTH * standing.shown + (1 - _SMOOTH) * value
        self.session.tell(standing.shown, standing.steps, self.each * self.training.epochs)

    def _epochs_done(self) -> float:
        """After the step that comes. Where the time will end first: the same share of all epochs as of the time, so
        that the learning rates come down to their last values too."""
        done = self.standing.epoch + (self.standing.batch + 1) / self.each
        return max(done, min(self._share_of_time(), 1.0) * self.training.epochs)

    def _share_of_time(self) -> float:
        """How much of its minutes the training has had; 0 without a limit."""
        minutes = self.training.max_minutes
        return 0.0 if minutes is None else self.standing.seconds / (60 * minutes / self.session.trainings)

    def _is_late(self) -> bool:
        return self._share_of_time() > 1

    def _end_epoch(self) -> None:
        standing, training = self.standing, self.training
        standing.epoch, standing.batch, standing.total = standing.epoch + 1, 0, 0.0
        if self.kept and training.patience is not None:
            loss = self._loss_of_kept()
            standing.waited = 0 if loss < standing.lowest else standing.waited + 1
            standing.lowest = min(loss, standing.lowest)
            if standing.waited > training.patience:
                standing.ended = "patience"
        if standing.epoch >= training.epochs:
            standing.ended = "epochs"

    def _loss_of_kept(self) -> float:
        """With the same random numbers each time."""
        generator = torch.Generator().manual_seed(self.training.seed)
        batches = self.task.items.batches(self.training.batch, self.kept, generator)
        self.task.network.eval()
        with torch.no_grad(), self.autocast:
            losses = [float(self.task.loss(numbers, generator)) for numbers in batches]
        self.task.network.train()
        return sum(losses) / len(losses)


def train(task: Task, training: Training, session: Session | None = None, learned: str = "") -> Outcome:
    """Learn a network's weights, and freeze them. The last epoch is what comes out: nothing is picked.

    Two trainings with one seed give identical weights on a CPU, and so does one that was interrupted and resumed; with
    `max_minutes` they do not. The global random state is neither used nor changed.

    Args:
        task: what is trained.
        training: how.
        session: who hears of it, and where it is kept meanwhile.
        learned: names what it is learned from, for the checkpoint.

    Raises:
        DatasetError: the loss is no number.
        ModelFileError: the checkpoint that it was to go on with is damaged.
    """
    session = session or Session()
    session.number += 1
    task.network.train().requires_grad_(True)
    with torch.enable_grad():
        outcome = _Trainer(task, training, session, f"{session.number} {learned}").run()
    task.network.eval().requires_grad_(False)
    return outcome
