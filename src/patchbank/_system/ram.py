"""How much memory there is, and how much is used."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import psutil


def available_bytes() -> int:
    """Memory that can be had without swapping, within the container's limit (cgroup 2), which psutil does not know."""
    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, max(int(text) - int(used.read_text()) + _reclaimable(), 0))
    return free


def _reclaimable() -> int:
    """File pages that the container's count includes and that can be had back at any time."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        return int(rows["inactive_file"])
    return 0


def rss_bytes() -> int:
    """Memory of this process that is resident now."""
    return int(psutil.Process().memory_info().rss)


def private_bytes() -> int:
    """Memory that this process alone takes: without libraries, and without what other processes map too."""
    return int(psutil.Process().memory_full_info().uss)


def trim_heap() -> None:
    """Give memory that was freed back to the system (glibc; elsewhere nothing is done). Large tensors with small ones
    made in between leave gaps that glibc keeps, and that the next large tensor does not fit into."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)


def peak_rss_mb() -> float:
    """Peak resident memory of this process, in MB, since its start or the last `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: the one that can be reset, which psutil does not have
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in rows:
            return int(rows["VmHWM"].split()[0]) * 1024 / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset_peak() -> float:
    """Start measuring the peak anew where the system can (Linux); the resident memory now, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return rss_bytes() / 1e6
