"""The methods: one file each over the shared flow of `base`."""

from patchbank.methods.base import Detector
from patchbank.methods.ensemble import Ensemble
from patchbank.methods.fapm import FAPM
from patchbank.methods.lmf_core import LMFCore
from patchbank.methods.mahalanobis_ad import MahalanobisAD
from patchbank.methods.padim import PaDiM
from patchbank.methods.patchcore import PatchCore
from patchbank.methods.spade import SPADE
from patchbank.methods.subspace_ad import SubspaceAD

DETECTORS: dict[str, type[Detector]] = {
    detector.method: detector for detector in (PatchCore, PaDiM, FAPM, LMFCore, SPADE, MahalanobisAD, SubspaceAD)
}
LOADABLE: dict[str, type[Detector]] = {**DETECTORS, Ensemble.method: Ensemble}

__all__ = [
    "DETECTORS",
    "FAPM",
    "LOADABLE",
    "SPADE",
    "Detector",
    "Ensemble",
    "LMFCore",
    "MahalanobisAD",
    "PaDiM",
    "PatchCore",
    "SubspaceAD",
]
