"""The methods: one file each over the shared flow of `base`."""

from patchbank.detectors.base import Detector
from patchbank.detectors.patchcore import PatchCore

DETECTORS: dict[str, type[Detector]] = {detector.method: detector for detector in (PatchCore,)}

__all__ = ["DETECTORS", "Detector", "PatchCore"]
