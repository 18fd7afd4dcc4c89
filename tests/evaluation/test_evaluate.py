"""An evaluation has every number of metrics.json, and says why where it has not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from patchbank import PatchCore
from patchbank.cli.evaluate import write_evaluation
from patchbank.data.datasets import open_dataset, read_mask
from patchbank.errors import DatasetError, PatchbankWarning
from patchbank.evaluation.evaluate import evaluate
from patchbank.report import html

KEYS = [
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "image_f1_threshold",
    "misclassified",
    "pixel_auroc",
    "pixel_ap",
    "aupro",
    "pixel_f1_max",
    "pixel_f1_threshold",
    "iou_at_threshold",
    "region_recall_at_threshold",
    "aupimo",
    "image_auroc_interval",
    "pixel_auroc_interval",
    "aupro_interval",
    "pixel_bounds",
    "map_threshold",
    "method",
    "backbone",
    "seed",
    "n_good",
    "n_anomalous",
    "per_defect",
    "false_alarm_rate",
    "recall_at_threshold",
    "latency_ms_p50",
    "latency_ms_p95",
    "images_per_second",
    "fit_seconds",
    "bank_vectors",
    "bank_mb",
    "model_file_mb",
    "peak_rss_mb",
    "environment",
    "notes",
]


def test_every_key_is_there_and_right(fitted: PatchCore, parts: Path, model_file: Path) -> None:
    dataset = open_dataset(parts)
    evaluation = evaluate(fitted, dataset, model_file=model_file)
    metrics = evaluation.metrics
    assert set(KEYS) <= set(metrics)
    predictions = [fitted.predict(sample.path) for sample in dataset.test]
    labels = [sample.defect != "good" for sample in dataset.test]
    scores = [p.score for p in predictions]
    masks = np.concatenate([read_mask(s, dataset.mask_above, (96, 128)).ravel() for s in dataset.test])  # type: ignore[union-attr]
    pixels = np.concatenate([p.map.ravel() for p in predictions])
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert metrics["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(masks, pixels))
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(masks, pixels))
    marked = pixels >= np.float32(metrics["map_threshold"])
    assert metrics["iou_at_threshold"] == pytest.approx(jaccard_score(masks, marked))
    found = [p.map[40:60, 70:90].max() >= p.map_threshold for p in predictions[4:]]
    assert metrics["region_recall_at_threshold"] == np.mean(found)
    best = pixels >= np.float32(metrics["pixel_f1_threshold"])
    assert f1_score(masks, best) == pytest.approx(metrics["pixel_f1_max"])
    assert (metrics["image_auroc_interval"], metrics["aupro_interval"], metrics["aupimo"]) == (None, None, None)
    assert {"image_auroc_interval", "aupro_interval", "aupimo"} <= set(metrics["notes"])
    assert (metrics["n_good"], metrics["n_anomalous"]) == (4, 4)
    assert metrics["recall_at_threshold"] == np.mean([p.is_anomalous for p in predictions[4:]])
    assert set(metrics["fit_seconds"]) == {"features", "memory", "calibration", "thumbnails", "total"}
    assert metrics["model_file_mb"] == pytest.approx(model_file.stat().st_size / 1e6)
    assert metrics["peak_rss_mb"] > 100
    assert set(metrics["per_defect"]) == {"spot"}
    assert len(evaluation.examples) == 1
    assert [c.score for c in evaluation.cases] == scores


def test_one_class_only(fitted: PatchCore, parts: Path) -> None:
    dataset = open_dataset(parts)
    good = evaluate(fitted, replace(dataset, test=dataset.test[:4])).metrics
    assert good["image_auroc"] is None
    assert good["pixel_auroc"] is None
    assert good["recall_at_threshold"] is None
    assert {"image_auroc", "pixel_auroc", "recall_at_threshold"} <= set(good["notes"])
    bad = evaluate(fitted, replace(dataset, test=dataset.test[4:])).metrics
    assert bad["image_auroc"] is None
    assert bad["false_alarm_rate"] is None
    assert bad["pixel_auroc"] is not None


def test_without_masks(fitted: PatchCore, parts: Path) -> None:
    dataset = open_dataset(parts)
    without = replace(dataset, test=tuple(replace(sample, mask=None) for sample in dataset.test))
    metrics = evaluate(fitted, without).metrics
    assert metrics["image_auroc"] == 1
    assert metrics["aupro"] is None
    assert "4 defective images have no" in metrics["notes"]["masks"]


def test_unreadable_test_images_are_named(fitted: PatchCore, parts: Path, tmp_path: Path) -> None:
    dataset = open_dataset(parts)
    (tmp_path / "broken.png").write_text("no")
    with_broken = replace(dataset, test=(*dataset.test, replace(dataset.test[0], path=tmp_path / "broken.png")))
    heard: list[str] = []
    metrics = evaluate(fitted, with_broken, on_error=lambda name, error: heard.append(name)).metrics
    assert metrics["unreadable"] == heard == [str(tmp_path / "broken.png")]
    assert metrics["n_good"] == 4


def test_what_is_remarkable_about_masks_is_said(fitted: PatchCore, parts: Path, tmp_path: Path) -> None:
    dataset = open_dataset(parts)
    masks = {
        "turned.png": Image.new("L", (96, 128), 255), "empty.png": Image.new("L", (128, 96)),
        "inverted.png": Image.new("L", (128, 96), 255), "small.png": Image.new("L", (64, 48), 255),
    }  # fmt: skip
    for name, mask in masks.items():
        mask.save(tmp_path / name)
    bad = [replace(s, mask=tmp_path / name) for s, name in zip(dataset.test[4:], masks, strict=True)]
    good = [replace(dataset.test[0], mask=tmp_path / "small.png"), *dataset.test[1:4]]
    heard: list[str] = []
    with pytest.warns(PatchbankWarning, match="masks"):
        evaluation = evaluate(
            fitted, replace(dataset, test=(*good, *bad)), on_error=lambda name, error: heard.append(name)
        )
    assert heard == [str(tmp_path / "turned.png")]
    note = evaluation.metrics["notes"]["mask_files"]
    assert (
        f"1 masks cannot be used: their images count for the image metrics only (such as that of {bad[0].path})" in note
    )
    assert "1 masks of defective images are empty" in note
    assert "2 masks mark more than half of the image: are they inverted?" in note
    assert "1 good images have masks with marked pixels" in note
    assert "1 masks have another size than their images and are resized" in note
    assert evaluation.metrics["n_anomalous"] == 4


def test_what_lies_beside_the_test_images_is_said(fitted: PatchCore, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "d")
    for name in ("test/good/a.heic", "test/spot/notes.txt", "ground_truth/spot/lost_mask.png"):
        shutil.copy(parts / "ground_truth/spot/000_mask.png", tmp_path / "d" / name)
    heard: list[str] = []
    with pytest.warns(PatchbankWarning, match=r"passed over for testing: .*1 mask that belongs to no image"):
        metrics = evaluate(
            fitted, open_dataset(tmp_path / "d"), pictures=False, on_error=lambda name, _: heard.append(name)
        ).metrics
    assert metrics["unreadable"] == heard == [str(tmp_path / "d/test/good/a.heic")]
    assert {group["reason"]: group["count"] for group in metrics["passed_over"]} == {
        "images in formats that are not read": 1,
        "files that are no images": 1,
        "masks that belong to no image": 1,
    }


def test_nothing_to_evaluate(fitted: PatchCore, parts: Path) -> None:
    with pytest.raises(DatasetError, match="no test images"):
        evaluate(fitted, replace(open_dataset(parts), test=()))


def test_an_interruption_leaves_no_metrics_of_an_earlier_run(
    fitted: PatchCore, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = evaluate(fitted, open_dataset(parts), pictures=False)
    write_evaluation(evaluation, tmp_path)
    assert (tmp_path / "metrics.json").is_file()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(html, "write_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_evaluation(evaluation, tmp_path)
    assert (tmp_path / "scores.csv").is_file()
    assert not (tmp_path / "metrics.json").exists()
