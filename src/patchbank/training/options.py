"""The options that methods share which learn weights, checked once, and where their trainings are kept."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from patchbank.errors import OptionError
from patchbank.training.checkpoint import Checkpoints
from patchbank.training.loop import Training

_ELSEWHERE = (
    "memory_budget",
    "threads",
    "thumbnails_mb",
    "max_minutes",
    "roi",
    "depth",
)  # or without effect on weights


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


def checkpoints_of(
    detector: Any, folder: str | PathLike[str] | None, resume: bool, in_shards: bool = False
) -> Checkpoints | None:
    """Where the trainings of a detector are kept, or with `in_shards` its selections; None for nowhere.

    Raises:
        OptionError: there is nothing to go on with.
    """
    if folder is None:
        if resume:
            raise OptionError("resume needs the folder where the training is kept: give checkpoints")
        return None
    learns = in_shards or any(part.scorer_class.learns_weights for part in detector.parts())
    if not learns:
        if resume:
            raise OptionError(f"{detector.method} learns no weights, so it has nothing to resume: leave out --resume")
        return None
    kept = Checkpoints(Path(folder), resume)
    if resume and kept.is_empty and in_shards:
        return Checkpoints(Path(folder))  # it ended before anything was selected
    if resume and kept.is_empty:
        raise OptionError(f"{folder}: keeps no unfinished training: leave out --resume")
    return kept


def identity_of(detector: Any, features: str) -> str:
    """All that decides what a detector learns from given images. `features`: what decides their features."""
    options = {name: detector.option(name) for name in detector.parameter_names() if name not in _ELSEWHERE}
    return json.dumps({"method": detector.method, "options": options, "features": features}, default=str)
