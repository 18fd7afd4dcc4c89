"""The peak is what was used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchbank._system import ram as memory
from patchbank.cli.values import parse_bytes
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
    if sys.platform == "linux":  # the peak can be measured anew
        assert after_reset < 100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_numbers_are_the_systems() -> None:
    def kib(path: str, field: str) -> int:
        (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1])

    free = memory.available_bytes()
    assert isinstance(free, int)
    assert 0 <= free <= 1.2 * 1024 * kib("/proc/meminfo", "MemAvailable")  # others use the machine too
    assert memory.rss_bytes() == pytest.approx(1024 * kib("/proc/self/status", "VmRSS"), rel=0.1)
    assert memory.peak_rss_mb() == pytest.approx(1024 * kib("/proc/self/status", "VmHWM") / 1e6, rel=0.1)


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"memory.max": "3000000", "memory.current": "2500000", "memory.stat": "anon 7\ninactive_file 200000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / Path(path).name)
    assert memory.available_bytes() == 700_000
    (tmp_path / "memory.max").write_text("max")
    assert memory.available_bytes() > 700_000


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("0", 0), ("7b", 7)]
)
def test_sizes_as_people_write_them(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "much", "4 TBs", "GB", "123"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="such as 4GB"):
        parse_bytes(text)


def test_a_bare_number_is_bytes_where_that_is_said() -> None:
    assert parse_bytes("123", bare=True) == 123
