"""What this machine and installation are: beside every measured number, and for `patchbank doctor`."""

from __future__ import annotations

import platform
import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from patchbank._system.threads import cores, thread_count

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
    """The library, without what reports its use over the network: importing it does so, unasked, wherever the package
    `openvino_telemetry` is found, which is installed with it. That package is out of sight for the import alone."""
    if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
        return import_module("openvino")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # not to be found
    try:
        return import_module("openvino")
    finally:
        del sys.modules["openvino_telemetry"]


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
