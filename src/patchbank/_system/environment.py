"""What this machine and installation are: beside every measured number, and for `patchbank doctor`."""

from __future__ import annotations

import os
import platform
import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "patchbank",
    "torch",
    "openvino",
    "onnxruntime",
    "numba",
    "faiss-cpu",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "safetensors",
)


def environment() -> dict[str, Any]:
    """Processor, cores and threads in use, GPU, system, Python and package versions."""
    import torch

    from patchbank._system.threads import thread_count

    return {
        "processor": processor(),
        "cores": cores(),
        "threads": thread_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: package_version(name) for name in _PACKAGES},
    }


def import_openvino() -> Any:
    """The library, without what reports its use over the network: its converter does so, unasked, wherever it finds the
    package `openvino_telemetry`, which is installed with it."""
    if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
        return import_module("openvino")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # not to be found
    try:
        return import_module("openvino")
    finally:
        del sys.modules["openvino_telemetry"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@lru_cache
def package_version(name: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
