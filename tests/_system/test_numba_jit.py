"""Compiled loops are used again by the kernels that they were compiled from, and by no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchbank._system import numba_jit

_MODULE = """
import sys
from patchbank._system import numba_jit
numba_jit.stamp = lambda: sys.argv[1]

@numba_jit.jit()
def double(x):
    return 2 * x

assert double(3) == 6
print(sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""


def run(script: Path, by: str) -> str:
    done = subprocess.run([sys.executable, str(script), by], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_kept_under_a_stamp(tmp_path: Path) -> None:
    script = tmp_path / "kernels.py"
    script.write_text(_MODULE)
    assert run(script, "1") == "0 1"
    assert run(script, "1") == "1 0"
    assert run(script, "2") == "0 1"  # the file is the same; a kernel elsewhere, or the package, is not
    assert run(script, "2") == "1 0"


def test_the_stamp_is_of_all_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = numba_jit.stamp()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/kernel.py").write_text("x = 1")
    monkeypatch.setattr(numba_jit, "_KERNELS", (tmp_path,))
    stamps = []
    for text in ("x = 1", "x = 2"):
        (tmp_path / "deep/kernel.py").write_text(text)
        numba_jit.stamp.cache_clear()
        stamps.append(numba_jit.stamp())
    numba_jit.stamp.cache_clear()
    assert len({before, *stamps}) == 3


def test_all_compiled_loops_are_in_the_stamp() -> None:
    for path in numba_jit._PACKAGE.rglob("*.py"):
        if "numba_jit import" in path.read_text(encoding="utf-8"):
            assert any(folder in path.parents for folder in numba_jit._KERNELS), path
