"""How much memory there is, how much was used, and a polite refusal before a job that cannot fit."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from patchbank.errors import MemoryBudgetError

_SHARE = 0.8  # of the memory that is free now, where no budget is given


def available_bytes() -> int | None:
    """Memory that can be had without swapping, within the container's limit; None where the system does not say."""
    free: list[int] = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in rows:
            free.append(int(rows["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        free.append(max(int(text) - int(used.read_text()), 0))
    return min(free) if free else None


def check_budget(needed: int, budget: int | None, work: str, ways_out: str) -> None:
    """Raise `MemoryBudgetError` where `needed` bytes exceed `budget`, or most of what is free where that is None."""
    if budget is None:
        free = available_bytes()
        if free is None:
            return
        budget, source = int(_SHARE * free), f"{_SHARE:.0%} of the memory that is free"
    else:
        source = "the memory budget"
    if needed > budget:
        raise MemoryBudgetError(
            f"{work} needs about {needed / 1e9:.2g} GB of memory, more than {source} "
            f"({budget / 1e9:.2g} GB): {ways_out}"
        )


def peak_rss_mb() -> float:
    """Peak resident memory of this process, in MB, since its start or the last `reset_peak`."""
    if (value := _status("VmHWM")) is not None:
        return value
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset_peak() -> float:
    """Start measuring the peak anew where the system can (Linux); the resident memory now, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS") or peak_rss_mb()


def _status(field: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(rows[field].split()[0]) * 1024 / 1e6 if field in rows else None
