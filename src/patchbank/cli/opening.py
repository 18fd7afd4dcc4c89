"""A model file as the detector that a command works with."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from patchbank.cli.console import detail, is_verbose, say
from patchbank.cli.options import Machine

if TYPE_CHECKING:
    from patchbank.detector import Detector


def open_model(model: Path, weights: str | None, machine: Machine, roi: Path | None = None) -> Detector:
    """Load a model for this machine and restrict it to a region of interest; --verbose says what runs it."""
    from patchbank.loading import load

    started = time.perf_counter()
    detector = load(model, weights=weights, **machine.options())
    if roi is not None:
        detector.restrict(roi)
    if is_verbose():
        detail(f"{model}: {engine_words(detector)}; loaded in {time.perf_counter() - started:.1f} s")
    return detector


def say_if_undecided(model: Path, detector: Detector, threshold: float | None = None, *, takes: bool = True) -> bool:
    """Whether a model has no threshold, which is then said. `threshold`: what was given instead of the model's, by a
    command that `takes` one."""
    undecided = threshold is None and math.isinf(detector.calibration_.threshold)
    if undecided:
        fit, calibrate = "fit at least two good parts", "run patchbank calibrate with more of them"
        remedies = f"{fit}, {calibrate}, or give --threshold" if takes else f"{fit}, or {calibrate}"
        say(f"{model}: has no threshold, so no part is rejected: {remedies}", err=True)
    return undecided


def engine_words(detector: Detector) -> str:
    """The method, and what runs its networks: backbone, engine, device and threads."""
    from patchbank._system.threads import thread_count

    networks = []
    for part in detector.parts():
        backbone = part.extractor.backbone
        networks.append(f"{part.backbone} by {backbone.runtime} on {part.torch_device}")
    threads = detector.threads or thread_count()
    return f"{detector.method}, {', '.join(dict.fromkeys(networks))}, {threads} threads"
