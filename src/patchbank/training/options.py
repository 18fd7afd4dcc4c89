"""The options that methods share which learn weights, checked once, and where their trainings are kept."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from patchbank._system.environment import package_version
from patchbank.errors import OptionError
from patchbank.training.checkpoint import Checkpoints
from patchbank.training.loop import Training

_MACHINE = ("memory_budget", "roi", "depth", "max_minutes")


def training_of(options: Any, **more: Any) -> Training:
    """How a method's options say that weights are learned: epochs, batch, max_minutes, patience, seed and precision.
    `more`: what the method itself knows, such as the schedule."""
    return Training(
        options.epochs, options.batch, options.seed, max_minutes=options.max_minutes, patience=options.patience,
        precision=options.precision, **more,
    )  # fmt: skip


def check_training(options: Any) -> None:
    """Raise `OptionError` for values of these options, or learning rates, that cannot be used."""
    for name in ("epochs", "batch"):
        if getattr(options, name) < 1:
            raise OptionError(f"{name} must be at least 1, not {getattr(options, name)}")
    if options.max_minutes is not None and options.max_minutes <= 0:
        raise OptionError(f"max_minutes must be more than 0, not {options.max_minutes}")
    if options.patience is not None and options.patience < 0:
        raise OptionError(f"patience must be at least 0 epochs, not {options.patience}")
    if not 0 < getattr(options, "learning_rate", 1.0) <= 1:
        raise OptionError(f"learning_rate must lie in (0, 1], not {options.learning_rate}")


def checkpoints_of(detector: Any, folder: str | PathLike[str] | None, resume: bool) -> Checkpoints | None:
    """Where the trainings of a detector are kept; None for nowhere.

    Raises:
        OptionError: there is nothing to go on with.
    """
    if folder is None:
        if resume:
            raise OptionError("resume needs the folder where the training is kept: give checkpoints")
        return None
    learns = any(part.scorer_class.learns_weights for part in detector.parts())
    if not learns:
        if resume:
            raise OptionError(f"{detector.method} learns no weights, so it has nothing to resume: leave out --resume")
        return None
    path = Path(folder)
    if resume and not any(path.glob("*.safetensors")):
        raise OptionError(f"{path}: keeps no unfinished training: leave out --resume")
    options = {name: value for name, value in detector.parameters().items() if name not in _MACHINE}
    versions = [f"{name}={package_version(name)}" for name in ("patchbank", "torch")]
    identity = json.dumps({"method": detector.method, "options": options, "versions": versions}, default=str)
    return Checkpoints(path, resume, identity)
