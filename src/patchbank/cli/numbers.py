"""Odd numbers on the command line: what no option takes is refused for all of them, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from patchbank._system.numbers import MOST_THREADS as MOST_THREADS
from patchbank.errors import OptionError

LARGEST_SEED = 2**32 - 1
MOST_SECONDS = 86_400.0  # a day: timers of the system overflow at far more
_LARGEST = 2**63 - 1


def refuse_odd(values: Mapping[str, Any]) -> None:
    """Raise `OptionError` for numbers that are infinite, none, or larger than the system counts."""
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"{option} takes a finite number, not {value}")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise OptionError(f"{option} is too large: {value}")
