"""The calibration of an ensemble, from those of its members."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest

from patchbank import PaDiM, PatchCore, load
from patchbank.calibration.calibration import CORRECTED, Calibration
from patchbank.errors import OptionError
from patchbank.methods import Ensemble
from patchbank.scoring.combined import combined
from tests.conftest import good_image

NAMES = tuple(f"{i}.png" for i in range(40))
HELD = (3, 8, 11, 17, 20, 28, 33, 39)


def member(seed: int, order: list[int]) -> Calibration:
    """Peaks that are corrected, cells that are too high, and what some images reach apart."""
    cells = np.random.default_rng(seed).gamma(9, 1, (40, 4, 5)).astype(np.float32)
    cells[:, 0, seed] = -np.inf  # not inspected by this member
    apart = (2 + 0.6 * cells[list(HELD)]).astype(np.float32)
    peaks = 2 + 0.6 * cells.max(axis=(1, 2)).astype(np.float64)
    new = apart.max(axis=(1, 2)).astype(np.float64)
    some = Calibration(new, new, 0.1, images=tuple(NAMES[i] for i in HELD), cells=apart)
    return Calibration(peaks, peaks, 0.1, how=CORRECTED, images=NAMES, cells=cells, apart=some).in_order(
        [NAMES[i] for i in order]
    )


def highest(members: list[Calibration], of: list[Calibration], name: str) -> float:
    """The highest place of the mean of the standardised maps of one image, place by place."""
    most = -math.inf
    for row in range(4):
        for column in range(5):
            seen = []
            for each, scale in zip(of, members, strict=True):
                assert each.cells is not None
                value = float(each.cells[each.images.index(name), row, column])
                if math.isfinite(value):
                    mean, spread = statistics.mean(scale.peaks.tolist()), statistics.stdev(scale.peaks.tolist())
                    seen.append((value - mean) / spread)
            if seen:
                most = max(most, statistics.mean(seen))
    return most


@pytest.mark.parametrize("corrects", [2, 1])
def test_the_peaks_of_the_mean_map_are_corrected_by_those_apart(corrects: int) -> None:
    """`corrects`: members with a correction; the others' leave-one-out maps are as those of new images."""
    members = [member(1, list(range(40))), member(2, list(range(40))[::-1])]
    members = [each if i < corrects else dataclasses.replace(each, apart=None) for i, each in enumerate(members)]
    found, by_mean_map = combined(members)
    assert by_mean_map
    assert found.images == members[0].images
    assert found.cells is None
    assert found.apart is None
    left_out = [highest(members, members, name) for name in found.images]
    held = [NAMES[i] for i in HELD]
    x = [left_out[found.images.index(name)] for name in held]
    y = [highest(members, [each.apart or each for each in members], name) for name in held]
    slope = min(1.0, max(0.5, math.exp(0.5 / math.sqrt(7)) * statistics.pstdev(y) / statistics.pstdev(x)))
    offset = statistics.mean(y) - slope * statistics.mean(x)
    assert found.scores.tolist() == pytest.approx([slope * score + offset for score in left_out], rel=1e-5)
    assert found.peaks.tolist() == found.scores.tolist()
    assert found.threshold < np.quantile(left_out, 0.9)


def test_without_a_correction_the_peaks_stay() -> None:
    members = [dataclasses.replace(member(seed, list(range(40))), apart=None) for seed in (1, 2)]
    found, _ = combined(members)
    assert found.scores.tolist() == pytest.approx([highest(members, members, name) for name in NAMES], rel=1e-5)


def test_members_must_know_the_same_images() -> None:
    first = member(1, list(range(40)))
    other = dataclasses.replace(first, images=tuple(f"other {name}" for name in NAMES))
    with pytest.raises(OptionError, match="the members of an ensemble were calibrated on other images each"):
        combined([first, other])


def test_a_fitted_ensemble_keeps_no_cells(tmp_path: object) -> None:
    shared = {"image_size": 64, "weights": "random", "threads": 1, "thumbnails_mb": 0.0}
    images = [good_image(i) for i in range(24)]
    for second in (PatchCore(**shared, bank_size=40, levels=(2,)), PaDiM(**shared)):
        model = Ensemble(members=[PatchCore(**shared, bank_size=40), second]).fit(images)
        assert model.calibration_.how == CORRECTED
        for each in (model, *model.members):
            assert each.calibration_.cells is None
            assert each.calibration_.apart is None
        model.save(f"{tmp_path}/m.patchbank")
        assert load(f"{tmp_path}/m.patchbank").calibration_.threshold == model.calibration_.threshold
