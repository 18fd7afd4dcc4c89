"""The channel "relief": heights as numbers, not grey levels, pixel by pixel beside the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import patchbank
from patchbank.data import gather
from patchbank.shape import DepthFormat, Shape
from tests.features.test_pixels import Colours, known
from tests.shape.analytic import PITCH, cameras, plane, scene, sphere, with_holes

__all__ = ["known"]
SIDE = 160


def detector(camera: str, side: int = SIDE, **options: object) -> Colours:
    depth = DepthFormat(unit="mm", camera=cameras(side)[camera])
    return Colours(**{"channels": ("rgb", "relief"), "depth": depth, "threads": 1, **options})  # type: ignore[arg-type]


def sample_of(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """A picture of noise, and depths in millimetres, 0 where there is none."""
    rgb = np.random.default_rng(seed).integers(0, 256, (*shape.size, 3), dtype=np.uint8)
    return {"rgb": rgb, "xyz": np.where(shape.valid, shape.z, np.float32(0))}


def relief_of(model: Colours, shape: Shape) -> Tensor:
    """rows×columns×2: heights in millimetres, and whether there is one."""
    item = next(model.extractor.stream(gather(sample_of(shape))))
    found = item.vectors.reshape(*item.grid, -1)[..., -2:].clone()
    found[..., 0] *= model.values_.depths.top_mm
    return found


def block(step: float, side: int = SIDE) -> Shape:
    """A block 10 mm high on a plane, whose lower half is `step` millimetres higher."""
    flat = scene(plane, "pitch", side).shape
    z = flat.z.copy()
    z[side // 4 : side // 2, side // 4 : -side // 4] -= 10
    z[side // 2 : -side // 4, side // 4 : -side // 4] -= np.float32(10 + step)
    return Shape(z, flat.valid, flat.camera)


@pytest.mark.parametrize("camera", ["pinhole", "pitch"])
def test_heights_are_those_of_the_surface(camera: str) -> None:
    """Of a sphere on a tilted plane, to a hundredth of a millimetre; the plane itself is 0."""
    truth = scene(sphere(), camera, SIDE, tilt=(0.1, -0.05))
    model = detector(camera).fit([sample_of(truth.shape, i) for i in range(4)])
    assert model.values_.depths.top_mm == pytest.approx(15, rel=0.01)
    found = relief_of(model, truth.shape)
    assert found.shape == (SIDE, SIDE, 2)
    assert found[..., 0].numpy() == pytest.approx(truth.height, abs=0.01)
    assert bool((found[..., 1] == 1).all())


def test_a_hundredth_of_a_millimetre_is_a_step() -> None:
    model = detector("pitch").fit([sample_of(block(0.0), i) for i in range(4)])
    found = relief_of(model, block(0.01))[..., 0]
    upper, lower = found[SIDE // 2 - 2, SIDE // 2], found[SIDE // 2 + 2, SIDE // 2]
    assert float(lower - upper) == pytest.approx(0.01, abs=1e-3)


def test_holes_of_the_part_have_no_height_and_holes_of_the_plane_do_not_count() -> None:
    whole = scene(sphere(), "pitch", SIDE)
    shape = with_holes(whole.shape, 0.1)
    model = detector("pitch").fit([sample_of(shape, i) for i in range(4)])
    found = relief_of(model, shape).numpy()
    inside, outside = whole.height > 5, np.hypot(*(np.indices((SIDE, SIDE)) - 79.5)) * PITCH > 16
    assert np.array_equal(found[inside, 1], shape.valid[inside])
    assert not found[inside & ~shape.valid].any()
    assert (found[outside] == (0, 1)).all()


def test_a_cell_has_the_mean_of_its_points() -> None:
    """Files of twice the inspected size, with points missing."""
    rng = np.random.default_rng(0)
    flat = scene(plane, "pitch", 2 * SIDE).shape
    heights = rng.uniform(5, 6, flat.size).astype(np.float32)
    heights[: SIDE // 2] = heights[-SIDE // 2 :] = 0
    valid = (rng.random(flat.size) > 0.4) | (heights == 0)
    shape = Shape(flat.z - heights, valid, flat.camera)
    model = detector("pitch", 2 * SIDE, image_size=SIDE).fit([sample_of(shape, i) for i in range(4)])
    found = relief_of(model, shape).numpy()
    cells = (SIDE, 2, SIDE, 2)
    counts = valid.reshape(cells).sum((1, 3))
    means = np.where(valid, heights, 0).reshape(cells).sum((1, 3)) / np.maximum(counts, 1)
    middle = np.s_[SIDE // 4 + 2 : -SIDE // 4 - 2]
    assert (counts[middle] == 0).any()
    assert np.array_equal(found[middle][..., 1], counts[middle] > 0)
    assert found[middle][..., 0] == pytest.approx(means[middle], abs=0.01)


def test_a_grid_finer_than_the_points_has_the_nearest() -> None:
    """A file of 100 pixels is inspected at 128."""
    truth = scene(sphere(8), "pitch", 100)
    model = detector("pitch", 100).fit([sample_of(truth.shape, i) for i in range(4)])
    found = relief_of(model, truth.shape)
    nearest = (np.arange(128) + 0.5) * 100 // 128
    assert found[..., 0].numpy() == pytest.approx(
        truth.height[np.ix_(nearest.astype(int), nearest.astype(int))], abs=0.01
    )


def test_both_channels_are_stored_apart(tmp_path: Path) -> None:
    shape = scene(sphere(), "pitch", SIDE).shape
    samples = [sample_of(shape, i) for i in range(4)]
    model = detector("pitch").fit(samples)
    store = model.extractor.collect(gather(samples))
    assert [part.shape for part in store.parts] == [(4 * SIDE**2, 3), (4 * SIDE**2, 2)]
    assert all(part.dtype == torch.float32 for part in store.parts)
    assert np.array_equal(store.parts[0][: SIDE**2].numpy(), samples[0]["rgb"].reshape(-1, 3).astype(np.float32) / 255)
    assert store.parts[1][: SIDE**2, 0].numpy() * model.values_.depths.top_mm == pytest.approx(
        relief_of(model, shape)[..., 0].numpy().ravel()
    )
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank").predict(samples[0]).score == model.predict(samples[0]).score
