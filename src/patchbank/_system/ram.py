"""How much memory there is, and how much is used."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


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
        free.append(max(int(text) - int(used.read_text()) + _reclaimable(), 0))
    return min(free) if free else None


def _reclaimable() -> int:
    """File pages that the container's count includes and that can be had back at any time."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        return int(rows["inactive_file"])
    return 0


def rss_bytes() -> int:
    """Memory of this process that is resident now; 0 where the system does not say."""
    return int((_status("VmRSS") or 0) * 1e6)


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
