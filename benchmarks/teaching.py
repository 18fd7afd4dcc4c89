"""What teaching false alarms does to other parts: `python -m benchmarks.teaching ROOT`.

PatchCore at 224 pixels learns the training images. False alarms are good training parts with a lamp's reflection in
them that the model rejects. It is taught 1, 5 and 20 of them, once with the threshold kept (`add`) and once with the
scores of the taught pictures in the calibration (`add(representative=True)`). The table has the recall of the
defective test parts, the false-alarm rate of the good ones, and that of other pictures with a reflection.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import environment
from patchbank import PatchCore
from patchbank.data import Sample, read_image
from patchbank.data.datasets import GOOD, open_dataset
from patchbank.errors import PatchbankWarning

RESULTS = Path(__file__).parent / "results"
TAUGHT = (0, 1, 5, 20)


def with_reflection(path: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A good part with a bright spot, a sixteenth to an eighth of the shorter side wide, somewhere in the picture."""
    rgb = read_image(Sample.of(str(path), path)).astype(np.float32)
    height, width = rgb.shape[:2]
    y, x = np.mgrid[:height, :width]
    at_y, at_x = rng.uniform(0.1, 0.9) * height, rng.uniform(0.1, 0.9) * width
    radius = min(height, width) * rng.uniform(1 / 16, 1 / 8)
    spot = 180 * np.exp(-(((y - at_y) / radius) ** 2 + ((x - at_x) / radius) ** 2))
    return np.asarray(np.clip(rgb + spot[..., None], 0, 255), dtype=np.uint8)


def share_rejected(model: PatchCore, images: list[Any]) -> float:
    """The share of images that the model rejects."""
    return float(np.mean([prediction.is_anomalous for prediction in model.predict_many(images)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teaching", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    dataset, rng = open_dataset(arguments.root), np.random.default_rng(0)
    warnings.simplefilter("ignore", PatchbankWarning)
    fitted = PatchCore(image_size=224, threads=arguments.threads).fit(list(dataset.train))
    drawn = rng.choice(len(dataset.train), 4 * max(TAUGHT))
    pictures = [with_reflection(dataset.train[i], rng) for i in drawn]
    alarms = [picture for picture in pictures if fitted.predict(picture).is_anomalous]
    taught, others = alarms[: max(TAUGHT)], alarms[max(TAUGHT) :][: max(TAUGHT)]
    good = [sample.path for sample in dataset.test if sample.defect == GOOD]
    defective = [sample.path for sample in dataset.test if sample.defect != GOOD]
    rows = []
    for representative in (False, True):
        model, before = copy.copy(fitted), 0
        for count in TAUGHT:
            if count > len(taught):
                break
            if count:
                model.add(taught[before:count], representative=representative)
            before = count
            rows.append(
                {
                    "threshold": "learns" if representative else "stays",
                    "taught": count,
                    "value": model.calibration_.threshold,
                    "recall": share_rejected(model, defective),
                    "false_alarm_rate": share_rejected(model, good),
                    "taught_rejected": share_rejected(model, taught[:count]) if count else None,
                    "others_rejected": share_rejected(model, others),
                    "vectors": len(model.bank_),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    document = {"rows": rows, "alarms": len(alarms), "environment": environment()}
    (RESULTS / f"teaching-{dataset.name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
