"""int8 for the backbone of an ONNX export: its convolutions in eight bits, the comparison in float32."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from patchbank.data import Sample
from patchbank.edge.runtime import ExportedGraph, Feeds, Run

# with the activations, whose range is that of the convolution before them: on a set of hazelnuts distances to the bank
# were off by 11 % then, by 51 % without
_KINDS = ("Conv", "Clip", "Relu")
_RUNS = 20  # timed, of which the median counts


def quantise(exported: ExportedGraph, graph: Path, sources: Sequence[Sample]) -> list[Feeds]:
    """Put an int8 graph in the place of a float one, its ranges from these images; returns the inputs made of them."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    inputs = [exported.feeds(source)[0] for source in sources]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    quantised = graph.with_name("int8.onnx")
    with _without_advice():
        quantize_static(
            graph, quantised, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(_KINDS), nodes_to_quantize=_of_the_network(graph),
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    quantised.replace(graph)
    return inputs


def milliseconds(run: Run, inputs: Sequence[Feeds]) -> float:
    """Median time of a graph for one image."""
    run(inputs[0])
    times = []
    for i in range(_RUNS):
        started = time.perf_counter()
        run(inputs[i % len(inputs)])
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def _of_the_network(graph: Path) -> list[str]:
    """The operations in eight bits; sums stay in float32, and so does what follows the network."""
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return [node.name for node in nodes if node.op_type in _KINDS and "/network/" in node.name]


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser advises, through the root logger, to prepare graphs that need no preparation."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
