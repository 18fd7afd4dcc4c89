"""What alignment brings, on a dataset as it is and on moved copies of it: `python -m benchmarks.alignment ROOT`.

Every image of the copy is turned by up to ±10°, scaled by up to ±5 % and shifted by up to ±5 % of its sides, uniformly
by the seed, and its mask with it; the border mirrors the image. Each method learns with and without alignment and is
scored on the images and pixels that both inspect; what alignment refuses or does not inspect is counted apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks.record import environment
from patchbank.data import Sample, read_image
from patchbank.data.datasets import GOOD, Dataset, LabelledImage, open_dataset, read_mask
from patchbank.detector import Detector
from patchbank.errors import ImageError
from patchbank.methods import METHODS
from patchbank.metrics import PixelMetrics, auroc
from patchbank.prediction import Prediction

RESULTS = Path(__file__).parent / "results"
ANGLE, SCALE, SHIFT = 10.0, 0.05, 0.05  # the most that an image is moved


@dataclass
class Collected:
    """Scores, labels, verdicts and pixels of the images that were tested."""

    labels: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    rejected: list[bool] = field(default_factory=list)
    pixels: PixelMetrics = field(default_factory=PixelMetrics)

    def add(self, sample: LabelledImage, prediction: Prediction, seen: np.ndarray, mask: np.ndarray | None) -> None:
        """Take an image in, of which only the pixels `seen` count."""
        self.labels.append(sample.defect != GOOD)
        self.scores.append(prediction.score)
        self.rejected.append(prediction.is_anomalous)
        if mask is not None and (sample.defect == GOOD or mask.any()):
            self.pixels.update(np.where(seen, prediction.map, np.float32(np.nan)), mask)

    def row(self) -> dict[str, float]:
        """The numbers of the table."""
        labels, rejected, result = np.array(self.labels), np.array(self.rejected), self.pixels.compute()
        return {
            "image_auroc": auroc(labels, np.array(self.scores)),
            "pixel_auroc": result.auroc,
            "aupro": result.aupro,
            "false_alarms": float(rejected[~labels].mean()),
            "found": float(rejected[labels].mean()),
        }


def moved(dataset: Dataset, folder: Path, seed: int) -> Dataset:
    """A copy in `folder` whose images are moved at random."""
    rng = np.random.default_rng(seed)

    def write(pixels: np.ndarray, name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
        return path

    def move(path: Path) -> tuple[np.ndarray, np.ndarray]:
        rgb = read_image(Sample.of(str(path), path)).astype(np.uint8, copy=False)
        height, width = rgb.shape[:2]
        angle, scale = rng.uniform(-ANGLE, ANGLE), 1 + rng.uniform(-SCALE, SCALE)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
        matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * (width, height)
        return cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), matrix

    train = [write(move(path)[0], f"train/good/{i:04}.jpg") for i, path in enumerate(dataset.train)]
    test = []
    for i, sample in enumerate(dataset.test):
        rgb, matrix = move(sample.path)
        path, mask = write(rgb, f"test/{sample.defect}/{i:04}.jpg"), None
        if sample.mask:
            size = (rgb.shape[0], rgb.shape[1])
            given = read_mask(sample, dataset.mask_above, size)
            assert given is not None
            turned = cv2.warpAffine(given.astype(np.uint8) * 255, matrix, size[::-1], flags=cv2.INTER_NEAREST)
            mask = write(turned, f"ground_truth/{sample.defect}/{i:04}_mask.png")
        test.append(LabelledImage(path, sample.defect, mask))
    return replace(dataset, name=f"{dataset.name}, moved", train=tuple(train), test=tuple(test), mask_above=0)


def compared(dataset: Dataset, plain: Detector, aligned: Detector) -> list[dict[str, Any]]:
    """Rows without and with alignment, on the images and pixels that both inspect."""
    refused_training: list[str] = []
    plain.fit(dataset.train)
    aligned.fit(dataset.train, on_error=lambda name, error: refused_training.append(name))
    found, refused, unseen = (Collected(), Collected()), 0, list[float]()
    for sample in dataset.test:
        try:
            predictions = plain.predict(sample.path), aligned.predict(sample.path)
        except ImageError:
            refused += 1
            continue
        seen = ~np.isnan(predictions[1].map)
        mask = read_mask(sample, dataset.mask_above, (seen.shape[0], seen.shape[1]))
        unseen.append(1 - float(seen.mean()))
        for collected, prediction in zip(found, predictions, strict=True):
            collected.add(sample, prediction, seen, mask)
    lost = {
        "refused": refused,
        "refused_training": len(refused_training),
        "not_inspected": float(np.mean(unseen)),
        "defects_not_inspected": found[1].pixels.compute().n_regions_not_inspected,
    }
    named = {"dataset": dataset.name, "method": plain.method}
    return [named | {"align": False} | found[0].row(), named | {"align": True} | found[1].row() | lost]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--methods", default="padim,fapm,patchcore")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--shots", type=int, help="learn from so many images, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    dataset, rows = open_dataset(given.root).with_shots(given.shots, given.seed), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for one in (moved(dataset, Path(folder), given.seed), dataset):
            for method in given.methods.split(","):
                plain, aligned = (
                    METHODS[method](image_size=given.image_size, threads=given.threads, seed=given.seed, align=align)
                    for align in (False, True)
                )
                for row in compared(one, plain, aligned):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    document = {**vars(given), "root": given.root.name, "rows": rows, "environment": environment()}
    (RESULTS / f"alignment-{dataset.name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
