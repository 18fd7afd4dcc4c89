"""A few small pictures of one evaluation, kept beside its numbers so that the report of a grid needs no models."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchbank._system.files import replacing, write_text
from patchbank.data import opened
from patchbank.errors import ImageError
from patchbank.evaluation.results import Evaluation, Panel
from patchbank.pictures.labels import short_path
from patchbank.report.html import data_uri, inline, jpeg, narrowed

KINDS = ("found", "missed", "false alarm")
_EACH = 3  # pictures of each kind
_WIDTH, _QUALITY = 640, 80


@dataclass(frozen=True)
class Shot:
    """One picture of a gallery: the file in the cell's folder, and what its caption needs. `kind`: one of `KINDS`;
    `image`: name of the test image; `ratio`: its score over the threshold, None where there is no threshold."""

    file: str
    kind: str
    image: str
    defect: str
    score: float
    ratio: float | None


def write_gallery(evaluation: Evaluation, folder: Path) -> None:
    """The clearest finds, the worst misses and the worst false alarms: `folder`/gallery/*.jpg, gallery.json last."""
    clearest = sorted(evaluation.examples, key=lambda panel: -panel.case.score)
    shots = []
    for old in read_gallery(folder):  # of an earlier run
        if old.file.startswith("gallery/") and ".." not in old.file:
            (folder / old.file).unlink(missing_ok=True)
    for kind, panels in zip(KINDS, (clearest, evaluation.misses, evaluation.false_alarms), strict=True):
        for rank, panel in enumerate(panels[:_EACH], 1):
            shots.append(_shot(panel, kind, f"gallery/{kind.replace(' ', '-')}-{rank}.jpg", evaluation.threshold))
            with replacing(folder / shots[-1].file) as temporary:
                picture = np.ascontiguousarray(panel.picture[: panel.overlay_height])
                temporary.write_bytes(jpeg(narrowed(picture, _WIDTH), _QUALITY))
    text = json.dumps([asdict(shot) for shot in shots], indent=1)
    write_text(folder / "gallery" / "gallery.json", text.encode("utf-8", "replace").decode() + "\n")


def _shot(panel: Panel, kind: str, file: str, threshold: float) -> Shot:
    case = panel.case
    ratio = case.score / threshold if 0 < threshold < math.inf and math.isfinite(case.score) else None
    return Shot(file, kind, short_path(case.path), case.defect, case.score, ratio)


def read_gallery(folder: Path) -> list[Shot]:
    """What `write_gallery` left in a cell's folder; nothing where it did not run or its list is damaged."""
    try:
        return [Shot(**entry) for entry in json.loads((folder / "gallery" / "gallery.json").read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def embedded(path: Path, budget: int) -> dict[str, Any] | None:
    """A JPEG file as a data URI of at most `budget` characters, scaled down where it must be; None where that is not
    enough or the file cannot be read."""
    try:
        data = path.read_bytes()
        with opened(data) as image:
            picture = np.asarray(image.convert("RGB"))
    except (ImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    whole = data_uri(data, picture.shape[1], picture.shape[0])
    if len(whole["source"]) <= budget:
        return whole
    smaller = inline(picture, budget)
    return smaller if len(smaller["source"]) <= budget else None
