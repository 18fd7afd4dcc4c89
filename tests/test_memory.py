"""The forecast refuses politely, and the peak is what was used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from patchbank import memory
from patchbank.cli.options import parse_bytes
from patchbank.errors import MemoryBudgetError, OptionError


def test_what_cannot_fit_is_refused_with_the_ways_out() -> None:
    memory.check_budget(1000, 1000, "work", "do less")
    with pytest.raises(MemoryBudgetError, match=r"work needs about 2 GB .* the memory budget \(1 GB\): do less"):
        memory.check_budget(2 * 10**9, 10**9, "work", "do less")


def test_without_a_budget_most_of_the_free_memory_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 10**9)
    memory.check_budget(8 * 10**9, None, "work", "do less")
    with pytest.raises(MemoryBudgetError, match="80% of the memory that is free"):
        memory.check_budget(9 * 10**9, None, "work", "do less")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.check_budget(10**18, None, "work", "do less")


_PEAKS = """
import numpy as np
from patchbank import memory
before = memory.reset_peak()
block = np.ones(25_000_000)  # 200 MB
high = memory.peak_rss_mb() - before
del block
memory.reset_peak()
print(high, memory.peak_rss_mb() - before)
"""


def test_the_peak_grows_with_what_is_touched() -> None:
    # in a process of its own: other tests leave room in this one that the block could go to
    done = subprocess.run([sys.executable, "-c", _PEAKS], capture_output=True, text=True, check=True)
    high, after_reset = map(float, done.stdout.split())
    assert 150 < high < 300
    if memory.available_bytes() is not None:  # Linux: the peak can be measured anew
        assert after_reset < 100


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("123", 123), ("7b", 7)]
)
def test_sizes_as_people_write_them(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "much", "4 TBs", "GB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="such as 4GB"):
        parse_bytes(text)
