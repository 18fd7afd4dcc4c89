"""An export of every version since the first: it loads, and gives the scores that it gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchbank.edge.runtime import EXPORT_VERSION, load
from tests.conftest import bad_image

FILES = Path(__file__).parents[1] / "export_files"
SEEN = bad_image(3, (64, 96))
SCORES = {1: 27.90471839904785, 2: 28.129709243774414, 3: 37.31116485595703, 4: 30.37823667560651}


def test_there_is_an_export_of_every_version() -> None:
    documents = FILES.glob("v*/patchbank.json")
    assert {json.loads(path.read_text())["export_version"] for path in documents} == set(range(1, EXPORT_VERSION + 1))


@pytest.mark.parametrize("version", SCORES)
def test_it_gives_the_scores_that_it_gave(version: int) -> None:
    pytest.importorskip("onnxruntime")
    image = SEEN.astype(np.uint16) * 16 if version == 2 else SEEN  # 12 bits
    assert load(FILES / f"v{version}", threads=1).predict(image).score == pytest.approx(SCORES[version], rel=1e-4)


def test_files_are_small() -> None:
    assert all(path.stat().st_size < 150_000 for path in FILES.rglob("*") if path.is_file())
