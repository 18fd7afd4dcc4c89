"""What runs a network: OpenVINO at float32 on a CPU, torch elsewhere and where OpenVINO is missing.

Both take B×3×H×W float32 in 0..255, normalise with the backbone's own mean and std, and return the maps of the levels.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

RUNTIMES = ("auto", "openvino", "torch")
Run: TypeAlias = Callable[[Tensor], list[Tensor]]


class Normalised(nn.Module):
    """Scale by mean and std (in units of 0..255), then the network: one graph, so a runtime can fuse the two."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.network((x - self.mean) / self.std)
        return maps


def openvino_available() -> bool:
    """Whether the openvino package is installed."""
    return importlib.util.find_spec("openvino") is not None


def choose(device: torch.device, runtime: str) -> str:
    """The runtime that `auto` means on this device."""
    if runtime != "auto":
        return runtime
    return "openvino" if device.type == "cpu" and openvino_available() else "torch"


def torch_runtime(network: Normalised, device: torch.device) -> Run:
    """Eager torch, channels last, no gradients."""
    network = network.to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(batch: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            maps = network(batch.to(device).contiguous(memory_format=torch.channels_last))
            # out of inference mode and channels-last: later stages are ordinary tensor code
            return [m.float().contiguous().clone() for m in maps]

    return run


def openvino_runtime(network: Normalised, example: Tensor, threads: int | None) -> Run:
    """OpenVINO on the CPU, traced on `example`, for any image size. Its default precision here may be bf16, which
    changes features: float32 is set."""
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    import openvino as ov

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every Python branch on a shape
        logging.getLogger("openvino").setLevel(logging.ERROR)
        # tracing once is enough: torch would trace again to compare, and the tests compare the features
        traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        model = ov.convert_model(traced, example_input=example)
    model.reshape([-1, 3, -1, -1])
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(model, "CPU", options)

    def run(batch: Tensor) -> list[Tensor]:
        # the results are views into the runtime's own buffers, which the next call overwrites
        outputs = compiled([batch.numpy()], share_inputs=True).values()
        return [torch.from_numpy(output.copy()) for output in outputs]

    return run
