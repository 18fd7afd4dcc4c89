"""Synthetic anomalies of geometry, alone and together with a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchbank.errors import DatasetError, OptionError
from patchbank.training.anomalies import DEPTH_KINDS, DepthAnomalies, SolidAnomalies
from tests.training.test_anomalies import generator, pictures

SIDE = 64


def relief(count: int = 6, noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """A ramp from 0 to 10 mm with noise; some points are missing."""
    drawing = generator(7)
    ramp = torch.linspace(0, 10, SIDE).expand(count, 1, SIDE, SIDE)
    valid = torch.rand(count, 1, SIDE, SIDE, generator=drawing) > 0.1
    return torch.where(valid, ramp + noise * torch.randn(ramp.shape, generator=drawing), 0.0), valid


@pytest.mark.parametrize(("kind", "sign"), [("dents", -1), ("bumps", 1)])
def test_dents_and_bumps(kind: str, sign: int) -> None:
    heights, valid = relief()
    kept = heights.clone()
    after, left, mask = DepthAnomalies((kind,), normal=0).applied(heights, valid, generator())
    assert torch.equal(heights, kept)
    assert torch.equal(left, valid)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    change = sign * (after - heights)
    assert float(change.min()) > -1e-5
    for number in range(len(heights)):
        inside = (mask[number] > 0) & valid[number]
        largest = float(change[number].max())
        assert 0.5 * 0.1 * 9.4 < largest < 1.5 * 0.4 * 9.8  # 2 % of the heights at each end do not count
        assert float(change[number][inside].min()) > 0.09 * largest
        assert float(change[number][mask[number] == 0].max()) <= 0.101 * largest
        assert int(inside.sum()) >= 12


def test_missing_points() -> None:
    heights, valid = relief()
    after, left, mask = DepthAnomalies(("missing",), normal=0).applied(heights, valid, generator())
    lost = valid & ~left
    assert not (left & ~valid).any()
    assert torch.equal(after, torch.where(left, heights, 0.0))
    for number in range(len(heights)):
        assert int(lost[number].sum()) >= 12
        assert (mask[number] > 0)[lost[number]].all()
        assert float(lost[number][(mask[number] > 0) & valid[number]].float().mean()) > 0.7


def test_scale_of_the_training_parts() -> None:
    heights, valid = relief()
    small, large = (
        DepthAnomalies(("bumps",), normal=0, scale_mm=scale).applied(heights, valid, generator())[0] - heights
        for scale in (5.0, 50.0)
    )
    np.testing.assert_allclose(large.numpy(), 10 * small.numpy(), atol=1e-4)


def test_an_anomaly_of_a_flat_part_is_above_its_noise() -> None:
    noise = 0.2 * torch.randn(6, 1, SIDE, SIDE, generator=generator(1))
    valid = torch.ones(noise.shape, dtype=torch.bool)
    after, _, _ = DepthAnomalies(("dents",), normal=0, scale_mm=1e-6).applied(noise, valid, generator())
    assert [float((noise - after)[i].max()) for i in range(6)] == pytest.approx([6 * 0.2] * 6, rel=0.15)


def test_a_part_without_any_height_is_refused() -> None:
    heights, valid = torch.ones(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    with pytest.raises(DatasetError, match=r"heights of a part are all the same.*give scale_mm in millimetres$"):
        DepthAnomalies(("dents",), normal=0).applied(heights, valid, generator())
    after, _, _ = DepthAnomalies(("dents",), normal=0, scale_mm=2.0).applied(heights, valid, generator())
    assert 0.09 < float((heights - after).max()) < 1.21


@pytest.mark.parametrize("kind", DEPTH_KINDS)
def test_within_the_foreground(kind: str) -> None:
    heights, valid = relief()
    foreground = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    foreground[5:25, 30:50] = True
    after, left, mask = DepthAnomalies((kind,), normal=0).applied(heights, valid, generator(), foreground)
    assert mask.flatten(1).any(1).all()
    assert float(mask[:, 0, ~foreground].max()) == 0
    assert torch.equal(after[..., ~foreground], heights[..., ~foreground])
    assert torch.equal(left[..., ~foreground], valid[..., ~foreground])
    with pytest.raises(DatasetError, match=r"^a part: its foreground has no valid point"):
        DepthAnomalies(normal=0).applied(heights, valid & ~foreground, generator(), foreground)


def test_seeds_and_normal_parts() -> None:
    heights, valid = relief(40)
    first, second, other = (DepthAnomalies().applied(heights, valid, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[2], other[2])
    damaged = first[2].flatten(1).any(1)
    assert 10 <= int(damaged.sum()) <= 30
    assert torch.equal(first[0][~damaged], heights[~damaged])
    assert torch.equal(first[1][~damaged], valid[~damaged])


def test_options_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match=r"^kinds must be some of dents, bumps, missing, not 'scar'$"):
        DepthAnomalies(("scar",))
    for options in ({"scale_mm": 0.0}, {"scale_mm": float("nan")}, {"relative": (-0.1, 0.2)}):
        with pytest.raises(OptionError, match="must be a positive number"):
            DepthAnomalies(**options)  # type: ignore[arg-type]


def test_picture_and_geometry_show_one_or_both() -> None:
    before, (heights, valid) = pictures(1).expand(60, -1, -1, -1), relief(60)
    drawing = SolidAnomalies(normal=0.25)
    after, z, left, mask = drawing.applied(before, heights, valid, generator(), torch.ones(SIDE, SIDE))
    by_picture = (after - before).abs().amax(1, keepdim=True) > 0
    by_shape = (z - torch.where(valid, heights, 0.0)).abs() > 1e-6
    by_shape |= left != valid
    seen = [(bool(a.any()), bool(b.any())) for a, b in zip(by_picture, by_shape, strict=True)]
    counts = {which: seen.count(which) for which in set(seen)}
    assert set(counts) == {(False, False), (True, False), (False, True), (True, True)}
    assert min(counts.values()) >= 6
    assert not (by_picture & (mask == 0)).any()
    for number, which in enumerate(seen):
        assert bool(mask[number].any()) == any(which)
        if which == (True, True):  # in one place
            assert (by_picture[number] | (mask[number] == 0)).float().mean() > 0.9
    again = drawing.applied(before, heights, valid, generator(), torch.ones(SIDE, SIDE))
    assert all(torch.equal(a, b) for a, b in zip((after, z, left, mask), again, strict=True))
