"""The pixel metrics of an evaluation: gathered per kind of defect, exact or binned, with intervals and reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchbank._system.ram import available_bytes
from patchbank.data.datasets import GOOD
from patchbank.evaluation.results import Curve
from patchbank.metrics import PixelMetrics, PixelResult
from patchbank.metrics.aupimo import unresolved
from patchbank.metrics.binned import BITS
from patchbank.metrics.pieces import PieceCollector, PixelPieces
from patchbank.metrics.resampling import draws, percentiles

LEAST_IMAGES = 5  # of a kind: fewer drawn again and again say nothing of others
MOST_SHIFT = 0.02  # of a number by the bins of the images: with more they say nothing of its error
NAMES = {
    "pixel_auroc": "auroc",
    "pixel_ap": "average_precision",
    "aupro": "aupro",
    "pixel_f1_max": "f1_max",
    "pixel_f1_threshold": "f1_threshold",
    "aupimo": "aupimo",
}
_AT_THRESHOLD = ("iou_at_threshold", "region_recall_at_threshold")
_INTERVALS = ("pixel_auroc_interval", "aupro_interval")
KEYS = (*NAMES, *_AT_THRESHOLD, *_INTERVALS, "pixel_bounds")


class PixelRun:
    """Takes the map and mask of each test image. `map_threshold`: where a pixel is marked, +inf for never; `memory`:
    the bytes that pixel scores may take before they are kept in bins, None: half of what is free now."""

    def __init__(self, map_threshold: float, memory: int | None = None) -> None:
        self.memory = available_bytes() // 2 if memory is None else memory
        self.threshold = map_threshold if np.isfinite(map_threshold) else None
        self.kinds: dict[str, PixelMetrics] = {}
        self.collector = PieceCollector()
        self.without_mask: Counter[str] = Counter()
        self.aupimo: dict[int, float] = {}  # by image
        self._images: dict[str, list[int]] = {}
        self._count = 0
        self._is_binned = False

    def add(self, kind: str, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> None:
        """The next image; no mask or an empty one for a defect: nobody outlined it, its pixels are neither defective
        nor free of defects."""
        image, self._count = self._count, self._count + 1
        if mask is None or (kind != GOOD and not mask.any()):
            self.without_mask[kind] += 1
            self.collector.skip()
            return
        if kind not in self.kinds:
            self.kinds[kind] = PixelMetrics(self.threshold, binned=self._is_binned)
        self.kinds[kind].update(anomaly_map, mask)
        self._images.setdefault(kind, []).append(image)
        self.collector.update(anomaly_map, mask)
        if sum(each.nbytes for each in self.kinds.values()) > self.memory:
            self._is_binned = True
            for each in self.kinds.values():
                each.to_bins()

    def pieces(self) -> PixelPieces:
        """What each image adds, zeros for one that does not count."""
        return self.collector.pieces()

    def metrics(self, pieces: PixelPieces, notes: dict[str, str], curves: dict[str, Curve]) -> dict[str, Any]:
        """Every key of `KEYS`; None with the reason in `notes` for what cannot be computed."""
        if self.without_mask:
            count = sum(self.without_mask.values())
            notes["masks"] = (
                f"{count} defective images have no (or an empty) mask: they count for the image metrics only"
            )
        kinds = sorted(self.kinds)
        try:
            first, *others = [self.kinds[kind] for kind in kinds] or [PixelMetrics(self.threshold)]
            result = first.compute(*others)
        except ValueError as error:
            notes |= dict.fromkeys((*NAMES, *_AT_THRESHOLD, *_INTERVALS), str(error))
            return dict.fromkeys(KEYS)
        curves |= {"pixel_roc": result.roc, "pixel_pr": result.pr, "pro": result.pro}
        if result.aupimo_per_image is not None:
            images = [image for kind in kinds if kind != GOOD for image in self._images[kind]]
            self.aupimo = dict(zip(images, result.aupimo_per_image.tolist(), strict=True))
        self._explain(result, notes)
        bounds = {key: list(result.bounds[name]) for key, name in NAMES.items() if name in result.bounds}
        values = {key: getattr(result, name) for key, name in NAMES.items()}
        values["pixel_f1_threshold"] = _finite(result.f1_threshold)
        values |= dict.fromkeys(_AT_THRESHOLD)
        if result.at_threshold:
            values |= dict(
                zip(_AT_THRESHOLD, (result.at_threshold.iou, result.at_threshold.region_recall), strict=True)
            )
        return values | self._intervals(values, pieces, notes) | {"pixel_bounds": bounds or None}

    def of_kind(self, kind: str) -> dict[str, float | None]:
        """Pixel AUROC, AUPRO and recall of regions of one kind of defect against all good images."""
        names = ("pixel_auroc", "aupro", "region_recall_at_threshold")
        if kind not in self.kinds:
            return dict.fromkeys(names)
        good = [self.kinds[GOOD]] if GOOD in self.kinds else []
        try:
            result = self.kinds[kind].compute(*good)
        except ValueError:  # such as a kind that lies outside the inspected part
            return dict.fromkeys(names)
        recall = result.at_threshold.region_recall if result.at_threshold else None
        return dict(zip(names, (result.auroc, result.aupro, recall), strict=True))

    def _explain(self, result: PixelResult, notes: dict[str, str]) -> None:
        if result.n_regions_not_inspected:
            notes["not_inspected"] = (
                f"{result.n_regions_not_inspected} defect regions lie wholly outside the inspected part: AUPRO leaves "
                "them out"
            )
        if result.aupimo is None:
            notes["aupimo"] = unresolved(result.n_good_pixels)
        if self.threshold is None:
            notes |= dict.fromkeys(_AT_THRESHOLD, "the calibration gives no finite map threshold")
        if result.bounds:
            notes["pixel_bounds"] = (
                f"The scores of all pixels take more than {self.memory / 1e9:.2g} GB of memory, so the pixel metrics "
                f"come from 2^{BITS} bins; each exact value lies between its two bounds in metrics.json"
            )

    def _intervals(self, values: dict[str, Any], pieces: PixelPieces, notes: dict[str, str]) -> dict[str, Any]:
        used = pieces.of(pieces.counting())
        is_defective = used.is_defective()
        n_defective, n_good = int(np.sum(is_defective)), int(np.sum(~is_defective))
        if n_defective < LEAST_IMAGES or 0 < n_good < LEAST_IMAGES:
            notes |= dict.fromkeys(_INTERVALS, too_few(n_good, n_defective))
            return dict.fromkeys(_INTERVALS)
        drawn = [used.metrics(weights) for weights in draws(is_defective)]
        whole = used.metrics(np.ones((1, is_defective.size), np.float32))
        intervals: dict[str, Any] = {}
        for key in ("pixel_auroc", "aupro"):
            shift, name = values[key] - whole[key][0], f"{key}_interval"
            near = abs(shift) <= MOST_SHIFT
            intervals[name] = list(percentiles(np.concatenate([d[key] for d in drawn]), shift)) if near else None
            if not near:
                notes[name] = "the scores of pixels vary too little for their size to be kept in bins"
        return intervals


def too_few(n_good: int, n_defective: int) -> str:
    """Why there is no interval."""
    return (
        f"an interval takes at least {LEAST_IMAGES} images of each kind, and there are {n_good} good and {n_defective} "
        "defective ones"
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
