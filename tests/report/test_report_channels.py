"""Which of picture and shape found a part unusual: in words, in pictures, in the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchbank.evaluation.evaluate import _seen_by
from patchbank.evaluation.results import Case, Evaluation
from patchbank.evaluation.scores import write_scores
from patchbank.pictures.channels import BOTH, PICTURE, SHAPE, in_words, meaning_of, seen_by, summary
from patchbank.pictures.drawing import overlay
from patchbank.pictures.labels import short_path
from patchbank.prediction import Prediction
from patchbank.report.html import found_by, write_report
from patchbank.shape.shown import NO_POINT, Shown

DENT = {"rgb": 1.04, "curvature": 14.2, "normals": 9.0}


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (DENT, SHAPE),
        ({"rgb": 8.0, "curvature": 1.0, "normals": -0.5}, PICTURE),
        ({"rgb": 8.0, "curvature": 4.0}, BOTH),
        ({"rgb": 8.0, "thermal": 4.0}, None),
        ({"curvature": 8.0, "normals": 4.0}, None),
        ({"rgb": -1.0, "curvature": -2.0}, None),
        ({}, None),
    ],
)
def test_what_shows_a_defect(channels: dict[str, float], expected: str | None) -> None:
    assert seen_by(channels) == expected
    assert bool(summary(channels, True)) == (expected is not None)


def test_words_name_the_largest_first() -> None:
    assert in_words(DENT) == "curvature: 14 standard deviations above good parts, normals: 9.0, rgb: 1.0"
    assert in_words({}) == ""
    assert summary(DENT, True).startswith("The shape shows it.")
    assert "accepted" in summary(DENT, False)


def test_channels_have_plain_meanings() -> None:
    assert meaning_of("views9") == "the part, drawn from 9 sides"
    assert meaning_of("rgb") == "the picture"
    assert meaning_of("thermal") == "thermal"


def test_folders_of_channels_do_not_hide_the_kind_of_defect() -> None:
    assert short_path("/data/ring/test/dent/rgb/001.png") == "dent/rgb/001.png"
    assert short_path("/data/ring/test/dent/001.png") == "dent/001.png"
    assert short_path("rgb/001.png") == "rgb/001.png"


def test_picture_surface_and_map_are_drawn_together(
    make_photo: Callable[..., Any], make_prediction: Callable[..., Prediction]
) -> None:
    photo, relief = make_photo(60, 80), np.full((60, 80, 3), 200, np.uint8)
    relief[10:20, 10:20] = NO_POINT
    prediction = make_prediction(np.full((60, 80), 30.0))
    plain = overlay(photo, prediction, panel_width=240)
    assert np.array_equal(plain, overlay(Shown(photo), prediction, panel_width=240))
    together = overlay(Shown(photo, relief), replace(prediction, channels=DENT), panel_width=240)
    assert together.shape[1] == plain.shape[1]
    assert together.shape[0] > 1.5 * plain.shape[0]
    assert (together == NO_POINT).all(axis=2).sum() > 500
    alone = overlay(Shown(relief, is_relief=True), prediction, panel_width=240)
    assert alone.shape == plain.shape
    wide = overlay(Shown(make_photo(20, 100), np.zeros((20, 100, 3), np.uint8)),
                   replace(make_prediction(np.zeros((20, 100))), channels=DENT), panel_width=240)  # fmt: skip
    assert wide.shape[1] == plain.shape[1]
    with pytest.raises(ValueError, match="shaded surface"):
        overlay(Shown(photo, relief[:30]), prediction)


def cases() -> list[Case]:
    return [
        Case("t/dent/rgb/0.png", "dent", 20.0, 0.01, True, channels=DENT),
        Case("t/dent/rgb/1.png", "dent", 12.0, 0.4, False, channels={"rgb": 2.0, "curvature": 2.0}),
        Case("t/stain/rgb/0.png", "stain", 25.0, 0.01, True, channels={"rgb": 9.0, "curvature": 0.0}),
        Case("t/good/rgb/0.png", "good", 10.0, 0.5, False, channels={"rgb": 0.1, "curvature": 0.2}),
    ]


def test_kinds_of_defect_are_counted() -> None:
    assert _seen_by(cases()[:2]) == {"seen_by": {PICTURE: 0, SHAPE: 1, BOTH: 0}}
    assert _seen_by([Case("a", "dent", 20.0, 0.01, True)]) == {}
    assert found_by(cases()).startswith("Of the 2 that it found, the shape alone shows 1, the picture alone 1")
    assert found_by([replace(case, channels={}) for case in cases()]) == ""


def test_the_report_says_what_showed_the_defects(make_evaluation: Callable[..., Evaluation], tmp_path: Path) -> None:
    plain = make_evaluation()
    write_report(plain, tmp_path / "plain.html")
    assert "3D sensor" not in (tmp_path / "plain.html").read_text()
    rows = {"dent": {"n": 2, "recall_at_threshold": 0.5, "seen_by": {PICTURE: 0, SHAPE: 1, BOTH: 0}}}
    metrics = {**plain.metrics, "per_defect": rows}
    both = replace(plain, cases=cases(), channels=("rgb", "curvature", "normals"), metrics=metrics)
    write_report(both, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "the shape alone shows 1" in page
    assert "surface under a lamp" in page
    alone = replace(plain, channels=("curvature",))
    write_report(alone, tmp_path / "alone.html")
    assert "The model looks at the shape of the part." in (tmp_path / "alone.html").read_text()
    write_scores(both, tmp_path)
    assert (tmp_path / "scores.csv").read_text().splitlines()[0].endswith(",channels")
    write_scores(plain, tmp_path)
    assert not (tmp_path / "scores.csv").read_text().splitlines()[0].endswith(",channels")
