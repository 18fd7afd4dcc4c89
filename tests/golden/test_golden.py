"""No number has moved since the golden file was made (`python -m tests.golden`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.cases import CASES, record
from tests.golden.machine import machine

pytest.importorskip("onnxruntime")

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
TOLERANCE = 1e-6  # relative


def differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        if any(isinstance(x, float) for x in old) and all(isinstance(x, float | int) for x in old + new):
            scale = max(abs(x) for x in old)  # sums of many numbers, beside their squares
            yield from (
                f"{where}[{i}]: {a} was, {b} is"
                for i, (a, b) in enumerate(zip(old, new, strict=True))
                if abs(a - b) > TOLERANCE * max(abs(a), 1e-2 * scale)
            )
            return
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(old, float) and isinstance(new, float | int):
        if abs(old - new) > TOLERANCE * max(abs(old), 1e-3):
            yield f"{where}: {old} was, {new} is"
    elif old != new:
        yield f"{where}: {old} was, {new} is"


def test_all_cases_are_in_the_file() -> None:
    assert set(GOLDEN["cases"]) == set(CASES)


@pytest.mark.parametrize("name", list(CASES))
def test_no_number_has_moved(name: str) -> None:
    other = {key: value for key, value in machine().items() if GOLDEN["machine"][key] != value}
    if other:
        pytest.skip(f"made on another machine, whose last digits differ: {other}")
    assert not list(differences(GOLDEN["cases"][name], record(name), name))[:10]
