"""The peak is what was used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from patchbank._system import ram as memory
from patchbank.cli.options import parse_bytes
from patchbank.errors import OptionError

_PEAKS = """
import numpy as np
from patchbank._system import ram as memory
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
