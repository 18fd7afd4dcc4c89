"""The values that an option can have, for help, completion and errors; kept as words, so that torch is not imported.

`tests/cli/test_choices.py` compares each list with what the library has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from patchbank.errors import OptionError

METHODS = (
    "patchcore", "anomalydino", "btf", "cflow", "cfm", "cpmf", "draem", "easynet", "efficientad", "fapm", "fastflow",
    "hyads", "lmf", "localscale", "m3dm", "mahalanobis", "padim", "rd4ad", "simplenet", "spade", "subspace",
)  # fmt: skip
PRESET_METHODS = (
    "btf.paper", "cpmf.paper", "m3dm.lite", "patchcore.best", "patchcore.fast", "patchcore.paper",
)  # fmt: skip
BACKBONES = (
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18", "resnet34", "resnet50", "resnet101",
    "wide_resnet50", "wide_resnet101", "resnext101",
)  # fmt: skip
PRESETS = (
    "patchcore-table1", "patchcore-speed", "patchcore-neighbourhood", "patchcore-levels", "patchcore-subsampling",
    "patchcore-lowshot", "patchcore-backbones", "patchcore-resolution", "patchcore-mtd", "patchcore-mstc",
    "fapm-table1", "fapm-ablation", "lmf-table4", "lmf-ablation", "lmf-sensitivity",
)  # fmt: skip
CHANNELS = ("rgb", "height", "normals", "curvature", "shading", "fpfh", "holes", "valid", "relief")
ANOMALIES = ("perlin", "cutpaste", "scar", "dents", "bumps", "missing")
QUALITIES = ("fast", "balanced", "best")
GEOMETRIES = ("whole", "paper")
FUSIONS = ("map-sum", "max", "learned", "concat")
DEPTH_AXES = ("depth", "height")
DEPTH_UNITS = ("um", "mm", "cm", "m", "in")
LAYOUTS = ("auto", "folder", "mvtec", "mvtec3d", "mtd", "visa")
DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("auto", "openvino", "onnxruntime", "torch")
FORMATS = ("onnx", "openvino", "torchscript")
BANKS = ("inside", "external")


def choice(values: Sequence[str], name: str, *, help: str, panel: str | None = None) -> Any:
    """An option that takes one of `values`: they are its metavar, its completion and its error."""
    return typer.Option(
        name, metavar="|".join(values), help=help, rich_help_panel=panel, callback=_checker(values, name),
        autocompletion=_completer(values),
    )  # fmt: skip


def known(values: Sequence[str], name: str, *, help: str, metavar: str, panel: str | None = None, **more: Any) -> Any:
    """An option that completes `values`, and takes others too."""
    return typer.Option(
        name, metavar=metavar, help=help, rich_help_panel=panel, autocompletion=_completer(values), **more
    )


def _checker(values: Sequence[str], name: str) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and value not in values and not (values is DEVICES and value.startswith("cuda:")):
            raise OptionError(f"{name} must be one of {', '.join(values)}, not {value!r}")
        return value

    return check


def _completer(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Completes the last name of a list that is separated by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in values if value.startswith(last)]

    return complete
