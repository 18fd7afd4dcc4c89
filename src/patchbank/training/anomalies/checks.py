"""Options that cannot be used, said when they are given."""

from __future__ import annotations

from collections.abc import Sequence

from patchbank.errors import OptionError


def check_kinds(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise `OptionError` unless kinds were given and all of them are known. `option`: what they are called."""
    unknown = [kind for kind in given if kind not in known]
    if unknown or not given:
        what = repr(unknown[0]) if unknown else "nothing"
        raise OptionError(f"{option} must be some of {', '.join(known)}, not {what}")


def check_probability(option: str, value: float) -> None:
    """Raise `OptionError` unless a value lies in 0..1. `option`: what it is called."""
    if not 0 <= value <= 1:
        raise OptionError(f"{option} must be a probability in 0..1, not {value}")
