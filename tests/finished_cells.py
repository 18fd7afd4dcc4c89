"""Folders of finished cells as a benchmark leaves them, made without running one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_cell(
    output: Path,
    dataset: str = "parts",
    method: str = "patchcore",
    seed: int = 0,
    *,
    options: dict[str, Any] | None = None,
    backbones: tuple[str, ...] = (),
    pictures: int = 0,
    **metrics: Any,
) -> Path:
    """One cell's metrics.json, and so many pictures of each kind; its folder. `metrics` replace the usual ones;
    `backbones`: those of an ensemble."""
    options = {"backbone": "efficientnet_lite0", "coreset": None, "image_size": 384, **(options or {}), "seed": seed}
    said = "-".join(f"{key}{value}" for key, value in options.items()).replace("/", "_")
    folder = output / f"{dataset}-{method}-{said}"
    folder.mkdir(parents=True)
    if backbones:
        members = [{"method": "patchcore", **options, "backbone": name} for name in backbones]
        method, options = "ensemble", {"members": members, "roi": None}
        metrics["backbone"] = "+".join(backbones)
    document = {
        "dataset": dataset, "method": method, "seed": seed, "options": options, "n_train": 28,
        "n_good": 12, "n_anomalous": 25,
        "image_auroc": 0.9, "pixel_auroc": 0.95, "aupro": 0.8, "recall_at_threshold": 0.75, "false_alarm_rate": 0.02,
        "latency_ms_p50": 20.0, "fit_seconds": {"features": 3.0, "total": 4.0}, "bank_mb": 6.1, "peak_rss_mb": 700.0,
        "per_defect": {"crack": {"n": 5, "image_auroc": 0.85}, "hole": {"n": 5, "image_auroc": 0.95}},
        "environment": {"processor": "made up", "threads": 2, "python": "3.12.1", "gpu": None},
        **metrics,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(document))
    if pictures:
        _write_pictures(folder, pictures)
    return folder


def _write_pictures(folder: Path, each: int) -> None:
    rng = np.random.default_rng(len(folder.name))
    (folder / "gallery").mkdir()
    shots = []
    for kind in ("found", "missed", "false alarm"):
        for i in range(each):
            file = f"gallery/{kind.replace(' ', '-')}-{i + 1}.jpg"
            Image.fromarray(rng.integers(100, 156, (160, 320, 3), np.uint8)).save(folder / file, quality=80)
            shots.append({"file": file, "kind": kind, "image": f"crack/{i}.png", "defect": "crack"})
            shots[-1] |= {"score": 3.25, "ratio": 1.3}
    (folder / "gallery" / "gallery.json").write_text(json.dumps(shots))
