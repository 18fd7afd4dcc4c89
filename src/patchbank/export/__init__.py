"""A fitted model as a graph of ONNX, OpenVINO or TorchScript, checked against the model on real images."""

from patchbank.export.folder import export
from patchbank.export.formats import WRITERS

FORMATS = tuple(WRITERS)

__all__ = ["FORMATS", "export"]
