"""How small a defect each image size still sees: `python -m benchmarks.resolution ROOT --sets tire,hazelnut_toy`.

A model learns from the good training images. On every good test image a round spot of each diameter is drawn at a
random place, darker or lighter than its surroundings by `CONTRAST` grey levels, and the share of rejected images is
counted at a target false-alarm rate of 1 %. Diameters are given in pixels of the input and of the inspected image.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.data import Sample, read_image
from patchbank.data.datasets import GOOD, open_dataset

RESULTS = Path(__file__).parent / "results" / "resolution.json"
DIAMETERS = (3, 4, 6, 8, 12, 16, 24, 32)  # pixels of the inspected image
CONTRAST = 60.0


def with_spot(rgb: np.ndarray, diameter: float, rng: np.random.Generator) -> np.ndarray:
    """A copy with one antialiased spot of a diameter in pixels, in the middle four fifths."""
    height, width = rgb.shape[:2]
    y, x = (rng.uniform(0.1, 0.9) * side for side in (height, width))
    rows, columns = np.mgrid[:height, :width]
    inside = np.clip(diameter / 2 + 0.5 - np.hypot(rows - y, columns - x), 0, 1)[:, :, None].astype(np.float32)
    sign = 1 if cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[int(y), int(x)] < 128 else -1
    return np.clip(rgb + sign * CONTRAST * inside, 0, 255).astype(np.uint8)


def row(model: PatchCore, images: list[np.ndarray], diameter: float, seed: int) -> float:
    """The share of images that a spot of a diameter in inspected pixels makes the model reject."""
    rng, found = np.random.default_rng(seed), []
    for rgb in images:
        view = model.extractor.geometry.view(*rgb.shape[:2])
        scale = min(view.input_size) / min(view.inspected)
        found.append(model.predict(with_spot(rgb, diameter * scale, rng)).is_anomalous)
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resolution", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", default="tire,hazelnut_toy,cubes")
    parser.add_argument("--sizes", default="256,384,512")
    parser.add_argument("--shots", type=int, default=80, help="training images at most")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found: dict[str, Any] = {"environment": environment(), "contrast": CONTRAST, "shares": {}}
    for name in given.sets.split(","):
        dataset = open_dataset(given.root / name)
        dataset = dataset.with_shots(min(given.shots, len(dataset.train)), 0)
        good = [read_image(Sample.of(str(s.path), s.path)) for s in dataset.test if s.defect == GOOD]
        for size in map(int, given.sizes.split(",")):
            model = PatchCore(image_size=size, thumbnails_mb=0).fit(dataset.train)
            view = model.extractor.geometry.view(*good[0].shape[:2])
            shares = {d: row(model, good, d, 0) for d in DIAMETERS}
            scale = min(view.input_size) / min(view.inspected)
            found["shares"][f"{name}/{size}"] = {"input_pixels_per_inspected": scale, "images": len(good), **shares}
            print(name, size, round(scale, 2), shares, flush=True)
            given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
