"""What a map is divided by at each place, against the definition in `calibration.position_scale`, written slowly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import patchbank
from patchbank import PatchCore, create
from patchbank.calibration.calibration import CORRECTED, Calibration, folds_of
from patchbank.calibration.position_scale import (
    BLUR,
    CELLS,
    LEAST_IMAGES,
    SHRINK,
    SPREADS,
    PositionScale,
    PositionStatistics,
    coarse,
)
from patchbank.errors import OptionError
from tests.conftest import bad_image, good_image

SMALL = {"image_size": 64, "bank_size": 200, "threads": 1, "runtime": "torch", "enlarge": False, "neighbours": 0}
LEFT_OUT = "leave-one-out"


def literal(maps: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Cell by cell: mean plus `SPREADS` standard deviations; then the Gaussian, the mean of 1, and the shrinking."""
    reached = np.empty((CELLS, CELLS))
    for row in range(CELLS):
        for column in range(CELLS):
            values = [float(each[row, column]) for each in maps]
            mean = sum(values) / len(values)
            reached[row, column] = mean + SPREADS * (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    # OpenCV cuts a Gaussian of σ of floating-point values at 4σ
    smooth = gaussian_filter(reached, BLUR, mode="reflect", truncate=4)
    return (1 - SHRINK) * smooth / smooth.mean() + SHRINK


def some_maps(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    ridge = 1 + 2 * np.exp(-((np.arange(CELLS) - 20) ** 2) / 50)
    return [np.float32(ridge[:, None] * rng.uniform(0.5, 1.5, (CELLS, CELLS))) for _ in range(count)]


def test_the_field() -> None:
    maps = some_maps(30)
    found = PositionStatistics.of(maps).scale().field
    np.testing.assert_allclose(found, literal(maps), rtol=1e-3)
    assert found.mean() == pytest.approx(1, abs=1e-5)
    assert found[20].mean() > 1.3 > 0.9 > found[60].mean()


@pytest.mark.parametrize("shift", [1.0, 2.5, 20.0])
def test_maps_with_a_sign_have_no_scale(shift: float) -> None:
    """A ratio of numbers around 0 says nothing: it turned maps over."""
    rng = np.random.default_rng(0)
    maps = [np.float32(rng.normal(0, 0.1, (CELLS, CELLS)) - shift + np.linspace(0, 3, CELLS)) for _ in range(30)]
    assert (PositionStatistics.of(maps).scale().field == 1).all()


def test_images_are_taken_out_again() -> None:
    maps = some_maps(30)
    statistics = PositionStatistics.of(maps)
    without = statistics.scale(without=[3, 7]).field
    fresh = PositionStatistics.of([m for i, m in enumerate(maps) if i not in (3, 7)]).scale().field
    np.testing.assert_allclose(without, fresh, rtol=1e-5)
    assert not np.array_equal(without, statistics.scale().field)


def test_maps_without_any_distance() -> None:
    nothing = [np.zeros((CELLS, CELLS), np.float32)] * 24
    assert np.array_equal(PositionStatistics.of(nothing).scale().field, np.ones((CELLS, CELLS)))


def test_places_that_are_not_inspected_count_as_the_mean_of_the_others() -> None:
    inspected = np.zeros((128, 128), bool)
    inspected[:64] = True
    map_ = np.where(inspected, np.float32(2), np.float32(99))
    assert np.array_equal(coarse(map_, inspected), np.full((CELLS, CELLS), 2, np.float32))


def test_places_are_relative() -> None:
    scale = PositionScale(np.float32(1) + np.arange(CELLS * CELLS, dtype=np.float32).reshape(CELLS, CELLS) / 4096)
    assert scale.at((CELLS, CELLS)) == pytest.approx(scale.field)
    wide = scale.at((96, 320))
    assert wide.shape == (96, 320)
    assert wide[48, 160] == pytest.approx(scale.field[32, 32], abs=0.01)


# ---- in a detector ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return PatchCore(**SMALL).fit([good_image(i, (64, 64)) for i in range(LEAST_IMAGES)])


def test_a_map_is_divided_by_the_field(model: PatchCore) -> None:
    fitted = model.require_fitted()
    assert fitted.post.scale is not None
    image = bad_image(3, (64, 64))
    plain = PatchCore(**SMALL)
    plain.fitted = replace(fitted, post=replace(fitted.post, scale=None))
    here, there = model.predict(image), plain.predict(image)
    np.testing.assert_allclose(here.map, there.map / fitted.post.scale.at((64, 64)), rtol=1e-5)
    assert here.score == pytest.approx(np.nanmax(here.map), rel=1e-5)


def test_no_image_is_calibrated_on_a_scale_that_it_is_part_of(model: PatchCore) -> None:
    """The calibration again, by hand: leave-one-out maps of all, and for each the field of the others."""
    exact = PatchCore(**SMALL, calibration="leave-one-out").fit([good_image(i, (64, 64)) for i in range(LEAST_IMAGES)])
    fitted = exact.require_fitted()
    plain = replace(fitted.post, scale=None)
    maps = []
    for i, item in enumerate(
        exact.extractor.stream(exact.gather([good_image(i, (64, 64)) for i in range(LEAST_IMAGES)]))
    ):
        points = fitted.scorer.prepare(item.vectors)
        maps.append(plain.score(fitted.scorer, points, item.grid, item.view, None, exclude=i).smoothed)
    coarse_maps = [coarse(each, None) for each in maps]
    for i, score in enumerate(exact.calibration_.scores):
        others = PositionStatistics.of([m for j, m in enumerate(coarse_maps) if j != i]).scale()
        assert score == pytest.approx((maps[i] / others.at((64, 64))).max(), rel=1e-4)


def test_scores_are_corrected_as_if_the_held_images_were_new() -> None:
    """The correction again, by hand: a model fitted to the other images alone, with a scale of its own, inspects those
    that were held out."""
    images = [good_image(i, (64, 64)) for i in range(LEAST_IMAGES + 8)]
    options = {**SMALL, "balance_levels": False}
    corrected, alone = (PatchCore(**options, calibration=c).fit(images).calibration_ for c in (CORRECTED, LEFT_OUT))
    held = folds_of([False] * len(images), 0)[0]
    others = PatchCore(**options, calibration=LEFT_OUT).fit([x for i, x in enumerate(images) if i not in held])
    assert others.require_fitted().post.scale is not None
    seen = [others.predict(images[i]) for i in held]
    apart = Calibration(
        np.array([p.score for p in seen]), np.array([np.nanmax(p.map) for p in seen], np.float64), 0.01,
        images=tuple(alone.images[i] for i in held),
    )  # fmt: skip
    expected = alone.corrected(apart)
    np.testing.assert_allclose(corrected.scores, expected.scores, rtol=1e-4)
    np.testing.assert_allclose(corrected.peaks, expected.peaks, rtol=1e-4)


def test_it_is_in_the_file(model: PatchCore, tmp_path: Path) -> None:
    model.save(tmp_path / "m.patchbank")
    again = patchbank.load(tmp_path / "m.patchbank", threads=1, runtime="torch")
    assert again.predict(bad_image(3, (64, 64))).score == model.predict(bad_image(3, (64, 64))).score
    scale = again.require_fitted().post.scale
    assert scale is not None
    assert np.array_equal(scale.field, model.require_fitted().post.scale.field)  # type: ignore[union-attr]


def test_too_few_images_have_none() -> None:
    few = PatchCore(**SMALL).fit([good_image(i, (64, 64)) for i in range(LEAST_IMAGES - 1)])
    assert few.require_fitted().post.scale is None


@pytest.mark.parametrize("calibration", ["held-out", "k-fold"])
def test_other_calibrations(calibration: str) -> None:
    found = PatchCore(**SMALL, calibration=calibration).fit([good_image(i, (64, 64)) for i in range(30)])
    assert (found.require_fitted().post.scale is not None) == (calibration == "k-fold")  # six were held out
    assert found.calibration_.how == calibration


def test_merged_models_have_the_mean(model: PatchCore) -> None:
    other = PatchCore(**SMALL).fit([good_image(i, (64, 64)) for i in range(40, 40 + 2 * LEAST_IMAGES)])
    mine, theirs = (m.require_fitted().post.scale for m in (model, other))
    assert mine is not None
    assert theirs is not None
    merged = PatchCore(**SMALL)
    merged.fitted = model.fitted
    merged.merge(other)
    scale = merged.require_fitted().post.scale
    assert scale is not None
    np.testing.assert_allclose(scale.field, (mine.field + 2 * theirs.field) / 3, rtol=1e-5)


def test_what_does_not_go_together() -> None:
    with pytest.raises(OptionError, match="position_scale goes with the image score smoothed, not max"):
        PatchCore(image_score="max", position_scale=True).check()
    assert not PatchCore(image_score="max").scales_by_position(("rgb",))
    assert not create("patchcore.paper").scales_by_position(("rgb",))
    assert not create("anomalydino").scales_by_position(("rgb",))
    assert not PatchCore().scales_by_position(("rgb", "normals"))
    assert PatchCore(position_scale=True).scales_by_position(("rgb", "normals"))
    with pytest.raises(OptionError, match="no effect on mahalanobis"):
        create("mahalanobis", position_scale=True).check()


def test_where_many_wait(model: PatchCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distances that wait are bounded: the first images that are enough make the scale of the rest."""
    monkeypatch.setattr("patchbank.calibration.good_scores._WAITING", 1)
    found = PatchCore(**SMALL).fit([good_image(i, (64, 64)) for i in range(LEAST_IMAGES + 6)])
    first = PatchCore(**SMALL, calibration="leave-one-out")
    assert found.require_fitted().post.scale is not None
    assert len(found.calibration_) == LEAST_IMAGES + 6
    assert first.scales_by_position(("rgb",))
