"""One model on one labelled dataset: every number of `metrics.json`, and what the report shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from patchbank._system.environment import environment
from patchbank._system.ram import peak_rss_mb
from patchbank.calibration.calibration import Calibration
from patchbank.data.datasets import GOOD, Dataset, LabelledImage, check_tested
from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, OnError, Progress, notify, warn
from patchbank.evaluation.galleries import galleries, tiling_of
from patchbank.evaluation.masks import MaskReader
from patchbank.evaluation.pixels import KEYS as PIXEL_KEYS
from patchbank.evaluation.pixels import LEAST_IMAGES, PixelRun, too_few
from patchbank.evaluation.results import Case, Curve, Evaluation
from patchbank.features.cache import no_cache
from patchbank.metrics import auroc, average_precision, f1_max, precision_recall_curve, roc_curve
from patchbank.metrics.resampling import auroc_interval
from patchbank.pictures.channels import BOTH, PICTURE, SHAPE, meaning_of, seen_by
from patchbank.prediction import Prediction

_LATENCY_IMAGES = 50


@dataclass
class _Run:
    """What one pass over the test images leaves behind."""

    pixels: PixelRun
    cases: list[Case] = field(default_factory=list)
    samples: list[LabelledImage] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    masks: MaskReader = field(default_factory=MaskReader)
    seconds: float = 0.0


def evaluate(
    detector: Detector,
    dataset: Dataset,
    *,
    model_file: str | PathLike[str] | None = None,
    on_error: OnError = warn,
    progress: Progress | None = None,
    pictures: bool = True,
    pixel_memory: int | None = None,
) -> Evaluation:
    """Score every test image and compute all metrics; what cannot be computed is None, with the reason in `notes`.

    `pixel_memory`: bytes that the scores of pixels may take before the pixel metrics come from bins (None: half of what
    is free). Raises `DatasetError` where the dataset has no test images or none can be read.
    """
    check_tested(dataset)
    run = _Run(PixelRun(detector.calibration_.map_threshold, pixel_memory))
    _score(run, detector, dataset, on_error, progress)
    if not run.cases:
        raise DatasetError(f"{dataset.root}: none of the {len(dataset.test)} test images could be read")
    notes: dict[str, str] = {}
    curves: dict[str, Curve] = {}
    metrics = _image_metrics(run.cases, notes, curves)
    metrics |= _interval(run.cases, notes)
    pieces = run.pixels.pieces() if detector.localizes else None
    if pieces is not None:
        metrics |= run.pixels.metrics(pieces, notes, curves)
        run.cases = [replace(case, aupimo=run.pixels.aupimo.get(i)) for i, case in enumerate(run.cases)]
    else:
        notes |= dict.fromkeys(PIXEL_KEYS[:-1], f"{detector.method} scores whole images and gives no map")
        metrics |= dict.fromkeys(PIXEL_KEYS)
    metrics |= _decisions(run.cases, notes) | {"per_defect": _per_defect(run)}
    with no_cache(detector) as was_cached:
        metrics |= _costs(detector, run, model_file)
        if was_cached:  # the pass over all images was quicker than it can be
            metrics["images_per_second"] = _throughput(detector, run)
    metrics["passed_over"] = _passed_over(dataset, run.masks, notes)
    metrics |= {"unreadable": run.unreadable, "notes": notes, "environment": environment()}
    metrics |= {"threshold": _finite(detector.calibration_.threshold), "dataset": dataset.name}
    metrics |= {"map_threshold": _finite(detector.calibration_.map_threshold), "method": detector.method}
    metrics |= {"backbone": detector.backbone, "seed": detector.seed}
    metrics["false_alarm_rate_asked"] = detector.calibration_.false_alarm_rate
    tested = list(zip(run.cases, run.samples, strict=True))
    return Evaluation(
        metrics=metrics,
        cases=run.cases,
        threshold=detector.calibration_.threshold,
        calibration_scores=detector.calibration_.scores,
        curves=curves,
        how=_how(detector, dataset),
        root=dataset.root,
        channels=detector.inputs_.channels,
        pieces=pieces,
        tiling=tiling_of(detector, run.samples) if pictures and detector.tile else None,
        **(galleries(detector, dataset, tested, on_error) if pictures else {}),
    )


def _score(run: _Run, detector: Detector, dataset: Dataset, on_error: OnError, progress: Progress | None) -> None:
    def note_error(name: str, error: Exception) -> None:
        run.unreadable.append(name)
        on_error(name, error)

    for failed in dataset.test_found.failed:
        note_error(str(failed.path), failed.error)
    by_path = {str(sample.path): sample for sample in dataset.test}
    for prediction in _timed(run, detector.predict_many(list(by_path), on_error=note_error)):
        sample = by_path[prediction.path]
        mask = None
        if detector.localizes:
            mask = run.masks.read(sample, dataset, (prediction.map.shape[0], prediction.map.shape[1]), on_error)
            sample = sample if mask is not None else replace(sample, mask=None)
        run.samples.append(sample)
        run.cases.append(
            Case(
                prediction.path,
                sample.defect,
                prediction.score,
                prediction.p_value,
                prediction.is_anomalous,
                channels=prediction.channels,
            )
        )
        if detector.localizes:
            run.pixels.add(sample.defect, prediction.map, mask)
        if progress:
            progress("test images", len(run.cases), len(dataset.test))


def _passed_over(dataset: Dataset, masks: MaskReader, notes: dict[str, str]) -> list[dict[str, Any]]:
    """What lies beside the test images, and what is remarkable about their masks: said, and for metrics.json."""
    sentences = [*dataset.test_found.remarks, *masks.sentences()]
    if sentences:
        notes["mask_files"] = "; ".join(sentences)
    beside = dataset.test_found.sentence(dataset.root, "testing")
    for sentence in (*([beside] if beside else []), *(f"{dataset.root}: {remark}" for remark in sentences)):
        notify(sentence)
    return dataset.test_found.to_list()


def _timed(run: _Run, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """Adds up the time spent waiting for predictions, and only that."""
    while True:
        started = time.perf_counter()
        prediction = next(predictions, None)
        run.seconds += time.perf_counter() - started
        if prediction is None:
            return
        yield prediction


def _image_metrics(cases: Sequence[Case], notes: dict[str, str], curves: dict[str, Curve]) -> dict[str, Any]:
    labels = np.array([case.is_defective for case in cases])
    scores = np.array([case.score for case in cases])
    names = ("image_auroc", "image_ap", "image_f1_max", "image_f1_threshold", "misclassified")
    try:
        best = f1_max(labels, scores)
        values = (auroc(labels, scores), average_precision(labels, scores), *best)
        curves["roc"] = roc_curve(labels, scores)
        curves["pr"] = precision_recall_curve(labels, scores)
    except ValueError as error:
        notes |= dict.fromkeys(names, str(error))
        return dict.fromkeys(names)
    return dict(zip(names, values, strict=True))


def _interval(cases: Sequence[Case], notes: dict[str, str]) -> dict[str, Any]:
    labels = np.array([case.is_defective for case in cases])
    n_good, n_defective = int(np.sum(~labels)), int(np.sum(labels))
    if min(n_good, n_defective) < LEAST_IMAGES:
        notes["image_auroc_interval"] = too_few(n_good, n_defective)
        return {"image_auroc_interval": None}
    return {"image_auroc_interval": list(auroc_interval(labels, [case.score for case in cases]))}


def _decisions(cases: Sequence[Case], notes: dict[str, str]) -> dict[str, Any]:
    good = [case.is_anomalous for case in cases if not case.is_defective]
    bad = [case.is_anomalous for case in cases if case.is_defective]
    if not good:
        notes["false_alarm_rate"] = "there are no good test images"
    if not bad:
        notes["recall_at_threshold"] = "there are no defective test images"
    return {
        "n_good": len(good),
        "n_anomalous": len(bad),
        "false_alarm_rate": float(np.mean(good)) if good else None,
        "recall_at_threshold": float(np.mean(bad)) if bad else None,
    }


def _per_defect(run: _Run) -> dict[str, dict[str, Any]]:
    """Each kind of defect against all good images."""
    table = {}
    for defect in sorted({case.defect for case in run.cases} - {GOOD}):
        cases = [case for case in run.cases if case.defect in (GOOD, defect)]
        of_kind = [case for case in cases if case.is_defective]
        row: dict[str, Any] = {
            "n": len(of_kind),
            "recall_at_threshold": float(np.mean([c.is_anomalous for c in of_kind])),
        }
        row["image_auroc"] = _image_metrics(cases, {}, {})["image_auroc"]
        row |= run.pixels.of_kind(defect) | _seen_by(of_kind)
        table[defect] = row
    return table


def _seen_by(cases: Sequence[Case]) -> dict[str, Any]:
    """How many of the rejected parts the picture, the shape or both show; nothing for a model of one of these."""
    seen = [seen_by(case.channels) for case in cases if case.is_anomalous]
    return {"seen_by": {kind: seen.count(kind) for kind in (PICTURE, SHAPE, BOTH)}} if any(seen) else {}


def _costs(detector: Detector, run: _Run, model_file: str | PathLike[str] | None) -> dict[str, Any]:
    latencies = []
    for sample in _timed_samples(run):
        started = time.perf_counter()
        try:
            detector.predict(sample.path)
        except (ImageError, DatasetError):  # gone since it was scored
            continue
        latencies.append(1e3 * (time.perf_counter() - started))
    p50, p95 = np.percentile(latencies, (50, 95)).tolist() if latencies else (None, None)
    return {
        "latency_ms_p50": p50,
        "latency_ms_p95": p95,
        "images_per_second": len(run.cases) / run.seconds,
        "fit_seconds": detector.training_["fit_seconds"],
        "bank_vectors": detector.memory_vectors,
        "bank_mb": detector.memory_mb,
        "model_file_mb": Path(model_file).stat().st_size / 1e6 if model_file else None,
        "peak_rss_mb": peak_rss_mb(),
    }


def _timed_samples(run: _Run) -> list[LabelledImage]:
    return run.samples[:: max(1, len(run.samples) // _LATENCY_IMAGES)][:_LATENCY_IMAGES]


def _throughput(detector: Detector, run: _Run) -> float:
    """Images a second over the same images as the latencies."""
    paths, started = [sample.path for sample in _timed_samples(run)], time.perf_counter()
    count = sum(1 for _ in detector.predict_many(paths, on_error=lambda name, error: None))
    return count / (time.perf_counter() - started)


def _how(detector: Detector, dataset: Dataset) -> dict[str, str]:
    training, parts, channels = detector.training_, detector.parts(), detector.inputs_.channels
    method = detector.method + " with " + ", ".join(f"{k}={v}" for k, v in detector.parameters().items())
    return {
        "Method": method,
        "Backbone": f"{detector.backbone}, levels {training['levels']}, run by {training['runtime']}",
        "Weights": f"{training['weights']} (SHA-256 {training['weights_sha256'][:12]}…)",
        "Learned from": f"{training['images']} good images, {training['patches']} patches",
        **({"Looks at": ", ".join(_described(name) for name in channels)} if len(channels) > 1 else {}),
        "Threshold": _threshold_words(detector.calibration_),
        **({"Aligned with": parts[0].inputs_.reference.name} if parts[0].inputs_.reference else {}),
        **({"Inspected": "a region of interest only"} if parts[0].inputs_.roi else {}),
        "Tested on": f"{len(dataset.test)} images of {dataset.name} ({dataset.layout} layout)",
    }


def _described(channel: str) -> str:
    meaning = meaning_of(channel)
    return channel if meaning == channel else f"{channel} ({meaning})"


def _threshold_words(calibration: Calibration) -> str:
    if calibration.chosen is not None:
        return calibration.chosen_by
    parts = f" of {calibration.parts} parts" if calibration.groups else ""
    words = f"{calibration.how} scores of {len(calibration)} good images{parts}, quantile for "
    words += f"a target false-alarm rate of {100 * calibration.false_alarm_rate:.4g} %"
    return words if calibration.is_guaranteed else f"{words}, tail extrapolated"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
