"""The methods: one file each over the shared flow of `base`."""

from patchbank.detectors.base import Detector
from patchbank.detectors.ensemble import Ensemble
from patchbank.detectors.fapm import FAPM
from patchbank.detectors.lmf_core import LMFCore
from patchbank.detectors.mahalanobis_ad import MahalanobisAD
from patchbank.detectors.padim import PaDiM
from patchbank.detectors.patchcore import PatchCore
from patchbank.detectors.spade import SPADE
from patchbank.detectors.subspace_ad import SubspaceAD

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
