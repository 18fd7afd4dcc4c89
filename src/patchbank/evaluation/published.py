"""Numbers that the papers print, as they print them. Where a figure has no readable numbers there are none here.

PatchCore: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", arXiv 2106.08265v1 (2021).
FAPM: Kim et al., "FAPM: Fast Adaptive Patch Memory for Real-time Industrial Anomaly Detection" (2023), arXiv
2211.07381.
LMF-Core: Liu, "LMF-Core: A Training-Free Coreset for Industrial Anomaly Detection".
Sampler page: "Coreset sampling" in the documentation of the PatchCore authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

ALL = "all"  # of a data set, where it has categories their mean


class Value(NamedTuple):
    """A printed number, and the standard deviation where one is printed."""

    mean: float
    std: float | None = None


Published: TypeAlias = Mapping[str, Mapping[str, Value]]  # metric → category, or ALL → what is printed

MVTEC = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip


def _row(numbers: str) -> dict[str, Value]:
    """A line of a table: the mean, then the categories in the order of MVTEC."""
    return {name: Value(float(n)) for name, n in zip((ALL, *MVTEC), numbers.split(), strict=True)}


def printed(**metrics: float | tuple[float, float]) -> Published:
    """Means over all data: a number, or a number and its standard deviation, of each metric."""
    return {m: {ALL: Value(*v) if isinstance(v, tuple) else Value(v)} for m, v in metrics.items()}


# PatchCore, Table 1 (misclassifications) and Tables S1 (image AUROC), S2 (pixel AUROC), S3 (PRO), by share of the bank
PATCHCORE: Mapping[float, Published] = {
    0.25: {
        "image_auroc": _row("99.1 100 99.5 98.1 98.7 98.2 100 100 100 96.6 98.1 98.7 100 100 99.2 99.4"),
        "pixel_auroc": _row("98.1 98.6 98.4 98.8 99.0 98.7 98.7 99.3 98.4 97.4 99.4 95.6 98.7 96.3 95.0 98.8"),
        "aupro": _row("93.4 96.2 92.5 95.5 96.6 96.0 93.8 98.9 91.4 93.2 97.9 87.3 91.5 83.7 89.4 97.1"),
        "misclassified": {ALL: Value(42)},
    },
    0.1: {
        "image_auroc": _row("99.0 100 99.4 97.8 98.7 97.9 100 100 100 96.0 97.0 98.9 99.7 100 99.0 99.5"),
        "pixel_auroc": _row("98.1 98.6 98.5 98.9 99.1 98.7 98.7 99.3 98.4 97.6 99.4 95.9 98.7 96.4 95.1 98.9"),
        "aupro": _row("93.5 96.1 92.6 95.5 96.6 95.9 93.9 98.9 91.3 94.1 97.9 87.4 91.4 83.5 89.6 97.1"),
        "misclassified": {ALL: Value(47)},
    },
    0.01: {
        "image_auroc": _row("99.0 100 99.3 98.0 98.0 98.6 100 100 99.7 97.0 96.4 99.4 100 99.9 99.2 99.2"),
        "pixel_auroc": _row("98.0 98.5 98.2 98.8 98.9 98.6 98.6 99.3 98.4 97.1 99.2 96.1 98.5 94.9 95.1 98.8"),
        "aupro": _row("93.1 95.9 91.6 95.5 96.5 96.1 93.8 98.9 91.2 92.9 97.1 88.3 90.2 81.2 89.5 97.0"),
        "misclassified": {ALL: Value(49)},
    },
}

# PatchCore, Table 4: scores and seconds an image
SPEED: Mapping[str, Published] = {
    "PatchCore-100": printed(image_auroc=99.1, pixel_auroc=98.0, aupro=93.3, seconds=0.6),
    "PatchCore-10": printed(image_auroc=99.0, pixel_auroc=98.1, aupro=93.5, seconds=0.22),
    "PatchCore-1": printed(image_auroc=99.0, pixel_auroc=98.0, aupro=93.1, seconds=0.17),
    "PatchCore-100 + IVFPQ": printed(image_auroc=98.0, pixel_auroc=97.9, aupro=93.0, seconds=0.2),
    "SPADE": printed(image_auroc=85.3, pixel_auroc=96.6, aupro=91.5, seconds=0.66),
    "PaDiM": printed(image_auroc=95.4, pixel_auroc=97.3, aupro=91.8, seconds=0.19),
}

# PatchCore, §4.4.2: striding instead of subsampling, image AUROC only
STRIDES: Mapping[int, Published] = {2: printed(image_auroc=97.6), 3: printed(image_auroc=96.8)}
# sampler page, "Performance vs. Sampling Rate": image AUROC, "typical"
RANDOM_10 = printed(image_auroc=97.8)

# PatchCore, Table S4, by method and shots: image AUROC, pixel AUROC, PRO
SHOTS = (1, 2, 5, 10, 16, 20, 50)
_LOW_SHOT = {
    "spade": (
        "71.6±0.7 73.4±1.3 75.2±1.5 77.5±1.1 78.9±0.9 79.6±0.8 81.1±0.4",
        "91.9±0.3 93.1±0.2 94.5±0.1 95.4±0.1 95.7±0.2 95.7±0.2 96.2±0.0",
        "83.5±0.4 85.8±0.1 88.3±0.2 89.6±0.1 90.1±0.2 90.1±0.3 90.8±0.1",
    ),
    "padim": (
        "76.1±0.4 78.9±0.6 81.0±0.2 83.2±0.7 85.5±0.6 86.5±0.3 90.1±0.3",
        "88.2±0.3 90.5±0.2 92.5±0.1 93.9±0.1 94.8±0.1 95.1±0.1 96.3±0.0",
        "72.4±1.2 77.8±0.7 82.7±0.2 85.9±0.2 87.5±0.2 88.2±0.2 90.4±0.1",
    ),
    "patchcore 0.1": (
        "83.4±0.6 86.4±0.9 90.8±0.8 93.6±0.6 95.4±0.7 95.8±0.6 97.5±0.3",
        "92.0±0.2 93.1±0.2 94.8±0.1 96.2±0.1 96.8±0.3 96.9±0.3 97.8±0.0",
        "82.4±0.3 85.1±0.3 88.7±0.2 90.9±0.1 91.8±0.2 92.0±0.2 93.0±0.1",
    ),
    "patchcore 0.25": (
        "84.1±0.7 87.2±1.0 91.0±0.9 93.8±0.5 95.5±0.6 95.9±0.6 97.7±0.4",
        "92.4±0.3 93.3±0.2 94.8±0.1 96.1±0.1 96.8±0.3 96.9±0.3 97.7±0.0",
        "83.7±0.5 86.0±0.3 88.8±0.2 90.9±0.1 91.7±0.1 91.9±0.2 92.8±0.0",
    ),
}


def low_shot(method: str, shots: int) -> Published:
    """Table S4: `method` is a key of its rows, "patchcore 0.1" for PatchCore-10."""
    column = SHOTS.index(shots)
    cells = [row.split()[column].split("±") for row in _LOW_SHOT[method]]
    names = ("image_auroc", "pixel_auroc", "aupro")
    return {name: {ALL: Value(float(mean), float(std))} for name, (mean, std) in zip(names, cells, strict=True)}


# PatchCore, Table S5, by backbone and share: image AUROC, pixel AUROC, PRO
_BACKBONES = {
    ("resnet50", 0.1): (99.0, 98.1, 93.3), ("resnet50", 0.01): (98.7, 97.8, 93.3),
    ("wide_resnet50", 0.1): (98.9, 98.1, 93.5), ("wide_resnet50", 0.01): (99.0, 98.0, 93.1),
    ("resnet101", 0.1): (98.6, 97.9, 92.5), ("resnet101", 0.01): (98.7, 97.8, 92.2),
    ("wide_resnet101", 0.1): (99.1, 98.2, 93.4), ("wide_resnet101", 0.01): (99.0, 98.1, 93.0),
    ("resnext101", 0.1): (98.9, 98.0, 92.8), ("resnext101", 0.01): (98.7, 97.8, 92.6),
}  # fmt: skip
BACKBONES: Mapping[tuple[str, float], Published] = {
    key: printed(image_auroc=image, pixel_auroc=pixel, aupro=pro) for key, (image, pixel, pro) in _BACKBONES.items()
}

# PatchCore, Table 5
MTD = printed(image_auroc=97.9)
MSTC = printed(pixel_auroc=91.8)

# FAPM, Table 1 (its categories in another order) and Table 2
_FAPM_1 = {
    "carpet": (99.3, 98.9), "grid": (98.0, 97.8), "leather": (100, 99.0), "tile": (99.4, 95.2), "wood": (99.3, 94.0),
    "bottle": (100, 98.2), "cable": (99.5, 98.5), "capsule": (98.6, 99.0), "hazelnut": (100, 98.6),
    "metal_nut": (100, 98.2), "pill": (96.0, 98.0), "screw": (95.2, 99.0), "toothbrush": (100, 98.7),
    "transistor": (100, 98.2), "zipper": (99.5, 98.6), ALL: (99.0, 98.0),
}  # fmt: skip
FAPM: Published = {
    "image_auroc": {name: Value(image) for name, (image, _) in _FAPM_1.items()},
    "pixel_auroc": {name: Value(pixel) for name, (_, pixel) in _FAPM_1.items()},
    "images_per_second": {ALL: Value(44.1)},
}
PATCHCORE_IN_FAPM = printed(images_per_second=23.4)  # "implemented on our system for fair speed comparison"
FAPM_ABLATION: Mapping[str, Published] = {
    "A": printed(image_auroc=98.9, pixel_auroc=98.1, images_per_second=23.4),
    "B": printed(image_auroc=98.5, pixel_auroc=97.5, images_per_second=34.1),
    "C": printed(image_auroc=98.3, pixel_auroc=97.1, images_per_second=35.7),
    "D": printed(image_auroc=98.4, pixel_auroc=97.8, images_per_second=46.0),
    "E": printed(image_auroc=99.0, pixel_auroc=98.0, images_per_second=44.1),
}

# LMF-Core, Table 4 (one seed), Table 5 and Table 6 (five seeds)
LMF: Published = {
    "image_auroc": _row("96.4 100.0 98.8 92.5 99.5 94.1 99.4 100.0 96.3 87.1 86.4 98.3 98.1 99.8 98.3 97.2"),
    "pixel_auroc": _row("96.8 97.4 97.6 98.2 98.4 95.3 97.6 98.6 97.9 95.8 97.2 93.9 98.3 97.4 91.8 96.5"),
}
LMF_ABLATION: Mapping[str, Published] = {
    "baseline": printed(image_auroc=(96.17, 0.10), pixel_auroc=(96.32, 0.04), bank_thousands=16.4, bank_mb=8.4),
    "VG-Fusion": printed(image_auroc=(96.33, 0.23), pixel_auroc=(96.82, 0.07), bank_thousands=16.4, bank_mb=8.4),
    "full": printed(image_auroc=(96.29, 0.25), pixel_auroc=(96.82, 0.07), bank_thousands=17.1, bank_mb=8.8),
}
# κ, d', r; the last two are in the text of §6.3 without a standard deviation
LMF_SENSITIVITY: Mapping[tuple[float, int, float], Published] = {
    (0.25, 128, 0.10): printed(image_auroc=(96.0, 0.23)),
    (0.50, 128, 0.10): printed(image_auroc=(96.3, 0.25)),
    (1.00, 128, 0.10): printed(image_auroc=(95.8, 0.18)),
    (0.50, 64, 0.10): printed(image_auroc=(96.1, 0.22)),
    (0.50, 256, 0.10): printed(image_auroc=(96.6, 0.20)),
    (0.50, 128, 0.25): printed(image_auroc=(97.4, 0.11)),
    (0.50, 128, 0.01): printed(image_auroc=91.7),
    (0.50, 128, 0.50): printed(image_auroc=97.5),
}
