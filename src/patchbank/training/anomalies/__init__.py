"""Synthetic anomalies: what a network learns from where there are good parts alone.

All are drawn from a generator that is passed in. The global random state is neither used nor changed.
"""

from patchbank.training.anomalies.depth import DEPTH_KINDS, DamagedDepth, DepthAnomalies
from patchbank.training.anomalies.features import noise_like
from patchbank.training.anomalies.perlin import perlin_mask, perlin_noise
from patchbank.training.anomalies.pictures import PICTURE_KINDS, Anomalies
from patchbank.training.anomalies.solid import SolidAnomalies
from patchbank.training.anomalies.textures import (
    TEXTURE_KINDS,
    GeneratedTextures,
    PictureTextures,
    Textures,
    read_textures,
    textures_of,
)

__all__ = [
    "DEPTH_KINDS",
    "PICTURE_KINDS",
    "TEXTURE_KINDS",
    "Anomalies",
    "DamagedDepth",
    "DepthAnomalies",
    "GeneratedTextures",
    "PictureTextures",
    "SolidAnomalies",
    "Textures",
    "noise_like",
    "perlin_mask",
    "perlin_noise",
    "read_textures",
    "textures_of",
]
