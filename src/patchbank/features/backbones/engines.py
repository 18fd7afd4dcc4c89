"""What runs a network: OpenVINO at float32 on a CPU; torch elsewhere and where OpenVINO is missing; ONNX Runtime.

All take B×3×H×W float32 in 0..255, normalise with the backbone's own mean and std, and return the maps of the levels,
or what the `head` makes of them. All are traced or exported once and then run at any image size.
"""

from __future__ import annotations

import importlib.util
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from patchbank._system.environment import import_openvino
from patchbank._system.threads import thread_count
from patchbank.errors import MissingPackageError, OptionError

RUNTIMES = ("auto", "openvino", "onnxruntime", "torch")
PRECISIONS = ("float32", "bfloat16", "float16")
TOLERANCE = 1e-3  # largest difference of features from torch float32, relative to the largest feature
Run: TypeAlias = Callable[[Tensor], list[Tensor]]
Head: TypeAlias = Callable[[Sequence[Tensor]], Tensor]


class Normalised(nn.Module):
    """Scale by mean and std (in units of 0..255), the network, and the head: one graph, so a runtime can fuse them."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], head: Head | None = None):
        super().__init__()
        self.network, self.head = network, head
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.network((x - self.mean) / self.std)
        return (self.head(maps),) if self.head else maps


def is_available(runtime: str) -> bool:
    """Whether the packages of a runtime are installed."""
    packages = {"onnxruntime": ("onnxruntime", "onnx")}.get(runtime, (runtime,))
    return all(importlib.util.find_spec(package) is not None for package in packages)


def choose(device: torch.device, runtime: str) -> str:
    """The runtime that `auto` means on this device.

    Raises `OptionError` for one that does not exist or not there, `MissingPackageError` for one not installed.
    """
    if runtime not in RUNTIMES:
        raise OptionError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if runtime == "auto":
        return "openvino" if device.type == "cpu" and is_available("openvino") else "torch"
    if not is_available(runtime):
        install = {"openvino": "openvino", "onnxruntime": "patchbank[onnx]"}[runtime]
        raise MissingPackageError(f"the engine {runtime} needs packages that are missing: `pip install {install}`")
    if runtime != "torch" and device.type != "cpu":
        raise OptionError(f"the engine {runtime} runs on the CPU, not on {device}: use torch")
    return runtime


def torch_runtime(network: Normalised, device: torch.device, precision: str = "float32") -> Run:
    """Eager torch, channels last, no gradients; on a GPU in `precision` where that is asked for."""
    network = network.to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    narrow = precision != "float32"

    def run(batch: Tensor) -> list[Tensor]:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, getattr(torch, precision) if narrow else None, enabled=narrow),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=narrow),  # float32 means float32
        ):
            maps = network(batch.to(device).contiguous(memory_format=torch.channels_last))
            # out of inference mode and channels-last: later stages are ordinary tensor code
            return [m.float().contiguous().clone() for m in maps]

    return run


@contextmanager
def interrupted_later() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: an exception on the way through the converter, which calls Python from
    C++, is lost or ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *received: caught.append(received))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught and callable(before):
        before(*caught[0])


def openvino_runtime(network: Normalised, example: Tensor) -> Run:
    """OpenVINO on the CPU, traced on `example`. Its default precision here may be bf16, which changes features:
    float32 is set."""
    ov = import_openvino()
    with interrupted_later(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every Python branch on a shape
        # tracing once is enough: torch would trace again to compare, and features are compared below
        traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        model = to_openvino(traced, (example,))
    model.reshape([-1, 3, -1, -1])
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(model, "CPU", options | {"INFERENCE_NUM_THREADS": thread_count()})

    def run(batch: Tensor) -> list[Tensor]:
        # the results are views into the runtime's own buffers, which the next call overwrites
        outputs = compiled([batch.numpy()], share_inputs=True).values()
        return [torch.from_numpy(output.copy()) for output in outputs]

    return run


def to_openvino(traced: Any, example: tuple[Tensor, ...]) -> Any:
    """A traced network → an OpenVINO model. By its front end: `openvino.convert_model` does the same, and reports its
    use over the network where the program has imported OpenVINO by itself."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must live until all is converted
    loaded = front_end.load(decoder)
    return front_end.convert(loaded)


def onnx_runtime(network: Normalised, example: Tensor) -> Run:
    """ONNX Runtime on the CPU, exported once from `example`."""
    import onnxruntime

    names = [f"output{i}" for i in range(len(network(example)))]
    sides = {0: "batch", 2: "height", 3: "width"}
    dynamic = {"image": sides} | {name: {0: "batch", 1: "a", 2: "b", 3: "c"} for name in names}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = Path(folder, "network.onnx")
        torch.onnx.export(
            network.eval(), (example,), str(exported), input_names=["image"], output_names=names,
            dynamic_axes=dynamic, dynamo=False,
        )  # fmt: skip
        graph = exported.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # idle threads that spin would take the processor from the search
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {"image": batch.numpy()})]

    return run


def difference(run: Run, network: Normalised, batch: Tensor) -> float:
    """Largest difference of the features of a batch from those of torch at float32, over the largest feature."""
    with torch.inference_mode():
        references = network(batch)
    worst = 0.0
    for feature, reference in zip(run(batch), references, strict=True):
        scale = float(reference.abs().max()) or 1.0
        worst = max(worst, float((feature - reference).abs().max()) / scale)
    return worst
