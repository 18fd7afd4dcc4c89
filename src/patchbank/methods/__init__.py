"""The methods: one file each, which is its paper. Importing this package registers them."""

from patchbank.methods.anomaly_dino import AnomalyDINO
from patchbank.methods.btf import BTF
from patchbank.methods.cflow import CFLOW
from patchbank.methods.cfm import CFM
from patchbank.methods.cpmf import CPMF
from patchbank.methods.draem import DRAEM
from patchbank.methods.easynet import EasyNet
from patchbank.methods.efficientad import EfficientAD
from patchbank.methods.ensemble import Ensemble
from patchbank.methods.fapm import FAPM
from patchbank.methods.fastflow import FastFlow
from patchbank.methods.hyads import HyADS
from patchbank.methods.lmf_core import LMFCore
from patchbank.methods.local_scale import LocalScale
from patchbank.methods.m3dm import M3DM
from patchbank.methods.mahalanobis_ad import MahalanobisAD
from patchbank.methods.padim import PaDiM
from patchbank.methods.patchcore import PatchCore
from patchbank.methods.rd4ad import RD4AD
from patchbank.methods.simplenet import SimpleNet
from patchbank.methods.spade import SPADE
from patchbank.methods.subspace_ad import SubspaceAD
from patchbank.registry import METHODS, create, find_method, list_methods

__all__ = [
    "BTF",
    "CFLOW",
    "CFM",
    "CPMF",
    "DRAEM",
    "FAPM",
    "M3DM",
    "METHODS",
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
    "SimpleNet",
    "SubspaceAD",
    "create",
    "find_method",
    "list_methods",
]
