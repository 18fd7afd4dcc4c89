"""A part that is turned in the plane is seen the same in the channel curvature."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank import PatchCore
from patchbank.demo.solid import draw_solid
from patchbank.demo.solid_body import Raster
from patchbank.shape import Pinhole, Shape
from patchbank.shape.images import curvature_image
from patchbank.shape.surface import surface_of

SIZE = 128


def drawn(seed: int, defect: str | None = None) -> Shape:
    return draw_solid("ring", defect, np.random.default_rng(seed), SIZE).shape


def quarter_turned(shape: Shape) -> Shape:
    """Exactly: the same numbers in other places, and the camera with them."""
    camera = shape.camera
    assert isinstance(camera, Pinhole)
    turned = Pinhole(camera.fy, camera.fx, camera.cy, shape.size[1] - 1 - camera.cx)
    return Shape(np.rot90(shape.z).copy(), np.rot90(shape.valid).copy(), turned)


def without_holes(shape: Shape) -> Shape:
    nearest = surface_of(shape).nearest
    return Shape(shape.z.ravel()[nearest], np.ones(shape.size, bool), shape.camera)


@pytest.fixture(scope="module")
def model() -> PatchCore:
    """Of rings in other poses, without holes: a sensor's shadow does not turn with the part."""
    parts = [{"xyz": without_holes(drawn(seed)).xyz()} for seed in range(12)]
    return PatchCore(image_size=SIZE, threads=1, channels=("curvature",)).fit(parts)


def score(model: PatchCore, shape: Shape) -> float:
    return model.predict({"xyz": without_holes(shape).xyz()}).score


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_a_quarter_turn_turns_the_picture(seed: int) -> None:
    """To one grey level where there are points. Elsewhere the nearest point is shown, and of several one is chosen."""
    shape = drawn(seed)
    before, after = (curvature_image(surface_of(each), 10.0).astype(int) for each in (shape, quarter_turned(shape)))
    differences = np.abs(np.rot90(before) - after)
    assert differences[np.rot90(shape.valid)].max() <= 1


@pytest.mark.parametrize("seed", [100, 101, 102])
@pytest.mark.parametrize("turn", [0.0, np.pi / 6])
def test_scores_of_a_part_in_another_pose(
    model: PatchCore, seed: int, turn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good ring turned by 90° exactly, or by 30° as it is drawn anew, scores as before to within the spread (largest
    less smallest) of the scores that the rings learned from have when they are left out."""
    before = score(model, drawn(seed))
    posed = Raster.posed
    if turn:
        monkeypatch.setattr(Raster, "posed", lambda self, at, angle: posed(self, at, angle + turn))
    after = score(model, drawn(seed) if turn else quarter_turned(drawn(seed)))
    assert after != before
    assert abs(after - before) < np.ptp(model.calibration_.scores)
