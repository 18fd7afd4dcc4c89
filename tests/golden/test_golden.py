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
TOLERANCE, OF_EXPORTS = 1e-6, 1e-5  # relative; graphs compute in float32, in an order of their own


def differences(old: Any, new: Any, where: str, tolerance: float = TOLERANCE) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            if key == "memory":  # a file may hold more than it did
                lost = [
                    one for one in old[key] if all(any(differences(one, other, "", tolerance)) for other in new[key])
                ]
                yield from (f"{where}.memory: {one} is lost" for one in lost)
                continue
            yield from differences(old.get(key), new.get(key), f"{where}.{key}", tolerance)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        if any(isinstance(x, float) for x in old) and all(isinstance(x, float | int) for x in old + new):
            scale = max(abs(x) for x in old)  # sums of many numbers, beside their squares
            yield from (
                f"{where}[{i}]: {a} was, {b} is"
                for i, (a, b) in enumerate(zip(old, new, strict=True))
                if abs(a - b) > tolerance * max(abs(a), 1e-2 * scale)
            )
            return
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{where}[{i}]", tolerance)
    elif isinstance(old, float) and isinstance(new, float | int):
        if abs(old - new) > tolerance * max(abs(old), 1e-3):
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
    tolerance = OF_EXPORTS if name.startswith("export") else TOLERANCE
    assert not list(differences(GOLDEN["cases"][name], record(name), name, tolerance))[:10]
