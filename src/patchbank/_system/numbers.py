"""Which values are numbers that make sense: what users compute can be NaN, infinite, or of another type."""

from __future__ import annotations

import math
import types
import typing
from numbers import Integral, Real
from typing import Any

from patchbank.errors import OptionError

MOST_THREADS = 1024
_LARGEST = 2**63 - 1  # what the system counts


def why_no_number(value: Any, hint: Any) -> str | None:
    """What a value of a type hint of numbers and booleans must be, in words, where it is not that; None where it is, or
    where the hint has another type too that it could be."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    wanted = []
    for kind in kinds:
        if kind is type(None):
            continue
        if typing.get_origin(kind) is tuple:
            if isinstance(value, (list, tuple)):
                found = [why for item in value if (why := why_no_number(item, typing.get_args(kind)[0]))]
                return f"a sequence in which each is {found[0]}" if found else None
            wanted.append("a sequence of numbers")
        elif kind is bool:
            if type(value).__name__ in ("bool", "bool_"):
                return None
            wanted.append("True or False")
        elif kind is int:
            if is_whole(value):
                return None
            wanted.append("a whole number")
        elif kind is float:
            if is_finite(value):
                return None
            wanted.append("a finite number")
        elif kind is str:
            if isinstance(value, str):
                return None
        else:
            return None  # checked by who takes it
    return " or ".join(wanted) or None


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, not a boolean, that the system counts."""
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) <= _LARGEST


def is_finite(value: Any) -> bool:
    """Whether a value is a real number, not a boolean, and neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floating-point ones
        return False


def check_threads(count: Any) -> None:
    """Raise `OptionError` for a number of threads that no machine has; None is all right."""
    if count is not None and not (is_whole(count) and 1 <= count <= MOST_THREADS):
        raise OptionError(f"threads must be at least 1, at most {MOST_THREADS}, not {count}")
