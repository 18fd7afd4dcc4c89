"""The pictures of one evaluation: misses, false alarms, finds, and how images are cut."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from patchbank.data import Sample
from patchbank.data.datasets import Dataset, LabelledImage, read_mask
from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, OnError
from patchbank.evaluation.results import Case, Panel
from patchbank.pictures.drawing import overlay, read_again, tiling_picture
from patchbank.pictures.explanation import explanation_rows, finder_of
from patchbank.pictures.heat import Picture
from patchbank.shape.shown import shown

_EACH = 8  # pictures per gallery of the report


def galleries(
    detector: Detector, dataset: Dataset, tested: Sequence[tuple[Case, LabelledImage]], on_error: OnError
) -> dict[str, list[Panel]]:
    """The worst misses, the worst false alarms, and the clearest find of each kind, drawn; `on_error` hears of images
    that have gone since they were scored."""

    def drawn(chosen: Sequence[tuple[Case, LabelledImage]]) -> list[Panel]:
        panels = []
        for case, sample in chosen[:_EACH]:
            try:
                panels.append(_panel(detector, dataset, case, sample))
            except (ImageError, DatasetError) as error:  # the latter of a mask
                on_error(case.path, error)
        return panels

    misses = sorted((p for p in tested if p[0].is_miss), key=lambda p: p[0].score)
    alarms = sorted((p for p in tested if p[0].is_false_alarm), key=lambda p: -p[0].score)
    rejected = sorted((p for p in tested if p[0].is_defective and p[0].is_anomalous), key=lambda p: p[0].score)
    found = {p[0].defect: p for p in rejected}
    return {
        "misses": drawn(misses),
        "false_alarms": drawn(alarms),
        "examples": drawn([found[kind] for kind in sorted(found)]),
    }


def _panel(detector: Detector, dataset: Dataset, case: Case, sample: LabelledImage) -> Panel:
    source = _source(detector, sample)
    explanation = detector.explain(source)
    seen = read_again(source, explanation.prediction.map.shape, detector.values_)
    mask = read_mask(sample, dataset.mask_above, (seen.picture.shape[0], seen.picture.shape[1]))
    top = overlay(seen, explanation.prediction, mask)
    if not detector.keeps_patches:
        return Panel(case, top)
    rows = explanation_rows(seen, explanation, finder_of(detector), top.shape[1])
    return Panel(case, np.concatenate([top, *rows]), explanation.places[0], overlay_height=len(top))


def _source(detector: Detector, sample: LabelledImage) -> Sample:
    """A test image with its geometry, seen in the first channel of the detector."""
    (source,) = detector.gather(sample.path)
    return source


def tiling_of(detector: Detector, samples: Sequence[LabelledImage]) -> Picture | None:
    """The tiles of the first image that is still there."""
    for sample in samples:
        with contextlib.suppress(ImageError):
            return _tiled(detector, sample)
    return None


def _tiled(detector: Detector, sample: LabelledImage) -> Picture:
    rgb = shown(_source(detector, sample), detector.values_).picture
    extractor = detector.extractor
    assert extractor.tiling is not None
    view = extractor.loader.view(rgb, str(sample.path))
    return tiling_picture(view.laid(rgb).astype(np.uint8, copy=False), extractor.tiling, view.inspected)
