"""patchbank: show it good parts, and it finds the bad ones.

>>> import patchbank
>>> model = patchbank.PatchCore(seed=0).fit("parts/good")
>>> model.predict("parts/0042.png").is_anomalous
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchbank.errors import PatchbankError
    from patchbank.loading import load
    from patchbank.methods import (
        BTF,
        CFLOW,
        CFM,
        CPMF,
        DRAEM,
        FAPM,
        M3DM,
        RD4AD,
        SPADE,
        AnomalyDINO,
        EasyNet,
        EfficientAD,
        Ensemble,
        FastFlow,
        HyADS,
        LMFCore,
        LocalScale,
        MahalanobisAD,
        PaDiM,
        PatchCore,
        SimpleNet,
        SubspaceAD,
    )
    from patchbank.prediction import Prediction

try:
    __version__ = version("patchbank")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "BTF",
    "CFLOW",
    "CFM",
    "CPMF",
    "DRAEM",
    "FAPM",
    "M3DM",
    "RD4AD",
    "SPADE",
    "AnomalyDINO",
    "EasyNet",
    "EfficientAD",
    "Ensemble",
    "FastFlow",
    "HyADS",
    "LMFCore",
    "LocalScale",
    "MahalanobisAD",
    "PaDiM",
    "PatchCore",
    "PatchbankError",
    "Prediction",
    "SimpleNet",
    "SubspaceAD",
    "__version__",
    "create",
    "list_methods",
    "load",
]

_HOMES = {  # the others: patchbank.methods
    "PatchbankError": "patchbank.errors",
    "Prediction": "patchbank.prediction",
    "load": "patchbank.loading",
}


def __getattr__(name: str) -> Any:
    # on first use: `patchbank --help` must answer before torch could even be imported
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "patchbank.methods")), name)
    raise AttributeError(f"module 'patchbank' has no attribute {name!r}")
