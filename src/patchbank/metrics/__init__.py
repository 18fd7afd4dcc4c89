"""How good a model is: by one score per image (`image`), per pixel (`pixel`), per defect region (`region`).

Arrays in, numbers out. All metrics are exact and use raw scores; what cannot be computed raises `ValueError`.
"""

from patchbank.metrics.curves import AtThreshold, PixelResult
from patchbank.metrics.image import F1Max, auroc, average_precision, f1_max, precision_recall_curve, roc_curve
from patchbank.metrics.pixel import PixelMetrics
from patchbank.metrics.region import aupro, label_regions, mean_overlap

__all__ = [
    "AtThreshold",
    "F1Max",
    "PixelMetrics",
    "PixelResult",
    "aupro",
    "auroc",
    "average_precision",
    "f1_max",
    "label_regions",
    "mean_overlap",
    "precision_recall_curve",
    "roc_curve",
]
