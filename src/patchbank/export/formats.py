"""A graph → the file of a format. Files depend on the graph alone: no times, names or places of the machine."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from patchbank._system.environment import import_openvino
from patchbank._system.files import reserve
from patchbank.errors import MissingPackageError, OptionError
from patchbank.export.graph import Graph
from patchbank.features.backbones.engines import interrupted_later, is_available, to_openvino

_OPSET = 17
_ASKED = 64_000_000  # bytes
_PROTOBUF_BYTES = 2_000_000_000  # what one ONNX file can hold


def check_format(to: str) -> None:
    """Raise `OptionError` for a format that does not exist, `MissingPackageError` for one not installed."""
    if to not in WRITERS:
        raise OptionError(f"the format must be one of {', '.join(WRITERS)}, not {to!r}")
    runtime = {"onnx": "onnxruntime", "openvino": "openvino"}.get(to, "torch")
    if not is_available(runtime):
        install = {"openvino": "openvino", "onnxruntime": "patchbank[onnx]"}[runtime]
        raise MissingPackageError(f"exporting to {to} needs packages that are missing: `pip install {install}`")


def write_onnx(graph: Graph, folder: Path) -> str:
    """`model.onnx`."""
    inside = [] if graph.external else list(graph.memory.values())
    if sum(t.numel() * t.element_size() for t in inside) > _PROTOBUF_BYTES:
        raise OptionError("the memory does not fit into an ONNX file, which ends at 2 GB: use --bank external")
    dynamic: dict[str, dict[int, str]] = {name: {0: "batch"} for name in ("image", *graph.output_names)}
    if graph.external:
        dynamic |= {name: {axis: f"{name}_length"} for name, axis in graph.growing.items()}
    with interrupted_later(), _quietly(), torch.no_grad():
        torch.onnx.export(
            graph, graph.example(), str(folder / "model.onnx"), input_names=graph.input_names,
            output_names=graph.output_names, dynamic_axes=dynamic, opset_version=_OPSET, dynamo=False,
            do_constant_folding=False,  # the runtime folds when it loads; here it would store the bank twice
        )  # fmt: skip
    return "model.onnx"


def write_openvino(graph: Graph, folder: Path) -> str:
    """`model.xml`, and `model.bin` beside it."""
    ov = import_openvino()
    example = graph.example()
    with interrupted_later(), _quietly():
        model = to_openvino(_traced(graph), example)
    shapes = {}
    for port, name, tensor in zip(model.inputs, graph.input_names, example, strict=True):
        shape = list(tensor.shape)
        if name == "image":
            shape[0] = -1
        elif graph.external and name in graph.growing:
            shape[graph.growing[name]] = -1
        shapes[port] = ov.PartialShape(shape)
    model.reshape(shapes)
    # names count through the process: name all by their order
    model.set_friendly_name("patchbank")
    for i, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}{i}")
        for output in operation.outputs():
            output.get_tensor().set_names(set())
    for ports, names in ((model.inputs, graph.input_names), (model.outputs, graph.output_names)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    try:
        ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    except RuntimeError:  # it does not say what the system said: ask again
        reserve(folder / "model.bin", _ASKED)
        raise
    return "model.xml"


def write_torchscript(graph: Graph, folder: Path) -> str:
    """`model.pt`."""
    buffer = io.BytesIO()
    traced = _traced(graph)
    with _quietly():
        torch.jit.save(traced, buffer)
    buffer.seek(0)
    reader: Any = torch._C.PyTorchFileReader(buffer)
    reserve(folder / "model.pt", buffer.getbuffer().nbytes)  # the writer ends the process where the disk is full
    # the archive is named after the file; without the notes on which lines of which files it was traced from
    writer: Any = torch._C.PyTorchFileWriter(str(folder / "model.pt"))
    # the version says what the operations mean; the writer's own is an old one, which divides whole numbers otherwise
    writer.set_min_version(int(reader.get_record("version")))
    for record in reader.get_all_records():
        if not (record.endswith(".debug_pkl") or record in ("version", "byteorder", ".data/serialization_id")):
            content = reader.get_record(record)
            writer.write_record(record, content, len(content))
    writer.write_end_of_file()
    return "model.pt"


WRITERS: dict[str, Callable[[Graph, Path], str]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "torchscript": write_torchscript,
}


def _traced(graph: Graph) -> Any:
    """A function, not a module: its weights are constants, and no class of the process gets into the file."""
    with torch.no_grad(), _quietly():
        return torch.jit.trace(  # type: ignore[no-untyped-call]
            lambda *inputs: graph(*inputs), graph.example(), check_trace=False
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """The tracer warns about every Python branch on a shape, and of its successor, which needs a compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
