"""Synthetic anomalies on pictures: what is drawn, where, and from which random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch

from patchbank._system.threads import RuntimeContext
from patchbank.errors import DatasetError, OptionError
from patchbank.training.anomalies import PICTURE_KINDS, Anomalies, DepthAnomalies, GeneratedTextures, SolidAnomalies
from patchbank.training.anomalies.masks import changed_pixels
from patchbank.training.anomalies.pasting import patch, scar
from tests.conftest import good_image


@dataclass(frozen=True)
class OneValue:
    """Textures of one value."""

    value: float

    def texture(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.full_like(picture, self.value)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, channels: int = 3, side: int = 64) -> torch.Tensor:
    images = [torch.from_numpy(good_image(i, (side, side))).permute(2, 0, 1) for i in range(count)]
    return torch.stack(images)[:, :channels].float() / 255


def everywhere(height: int = 64, width: int = 64) -> np.ndarray:
    return np.ones((height, width), bool)


# ---- blends and pastes -----------------------------------------------------------------------------------------------


def test_a_blend_has_up_to_four_fifths_of_the_original() -> None:
    picture, region = np.full((16, 16, 3), 0.25, np.float32), np.zeros((16, 16), bool)
    region[3:9, 4:7] = True
    drawing, rng = Anomalies(textures=OneValue(1.0)), np.random.default_rng(0)
    shares = []
    for _ in range(300):
        after = drawing.blended(picture, region, rng)
        assert np.array_equal(after[~region], picture[~region])
        assert np.ptp(after[region]) == 0
        shares.append((1 - float(after[3, 4, 0])) / 0.75)  # β of (1 − β)·1 + β·0.25
    assert min(shares) >= 0
    assert max(shares) <= 0.8
    assert np.quantile(shares, (0.25, 0.5, 0.75)) == pytest.approx((0.2, 0.4, 0.6), abs=0.06)


def ramps(side: int) -> np.ndarray:
    """A picture whose values tell row and column."""
    row, column = np.mgrid[:side, :side] / (side - 1)
    return np.stack([row, column, np.zeros_like(row)], axis=2).astype(np.float32)


def test_a_patch_is_a_rectangle() -> None:
    side, areas, aspects = 128, [], []
    picture = ramps(side)
    for seed in range(80):
        after, region = patch(picture, everywhere(side, side), 0.0, np.random.default_rng(seed))
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        assert region.sum() == len(rows) * len(columns)
        assert np.array_equal(after[~region], picture[~region])
        if not {0, side - 1} & {rows[0], rows[-1], columns[0], columns[-1]}:  # not cut off by the edge
            areas.append(region.mean())
            aspects.append(len(columns) / len(rows))
    assert 0.015 < min(areas) < 0.04
    assert 0.1 < max(areas) < 0.16
    assert 0.28 < min(aspects) < 0.5
    assert 2 < max(aspects) < 3.6


def test_a_patch_is_an_exact_copy_from_elsewhere() -> None:
    side, shifts = 128, set()
    picture, foreground = ramps(side), np.zeros((side, side), bool)
    foreground[50:78, 50:78] = True  # so far inside that no piece reaches over the edge
    for seed in range(20):
        after, region = patch(picture, foreground, 0.0, np.random.default_rng(seed))
        moved = (after - picture)[region][:, :2] * (side - 1)
        assert np.ptp(moved, axis=0).max() < 1e-3
        np.testing.assert_allclose(moved[0], np.rint(moved[0]), atol=1e-3)
        shifts.add(tuple(np.rint(moved[0]).tolist()))
    assert len(shifts) > 15


def test_a_piece_is_jittered() -> None:
    picture, gains = np.full((64, 64, 3), (0.2, 0.4, 0.5), np.float32), []
    for seed in range(100):
        after, region = patch(picture, everywhere(), 0.1, np.random.default_rng(seed))
        gains.append(after[region][0] / picture[0, 0])
    assert np.min(gains) > 0.899
    assert np.max(gains) < 1.101
    assert np.std(gains, axis=0).min() > 0.04
    assert np.abs(np.corrcoef(np.transpose(gains))[~np.eye(3, dtype=bool)]).max() < 0.4  # each channel apart


def test_a_scar_is_thin_and_tilted() -> None:
    side, sizes, tilts = 256, [], []
    picture, foreground = ramps(side), np.zeros((side, side), bool)
    foreground[60:-60, 60:-60] = True
    for seed in range(120):
        after, region = scar(picture, foreground, 0.0, np.random.default_rng(seed))
        if region[60].any() or region[-61].any() or region[:, 60].any() or region[:, -61].any():
            continue  # cut by the edge of the foreground
        _, size, _ = cv2.minAreaRect(np.argwhere(region).astype(np.float32))
        sizes.append(sorted(side + 1 for side in size))
        inside = np.argwhere(region)
        source = after[region][:, :2] * (side - 1)
        fit, *_ = np.linalg.lstsq(np.c_[inside, np.ones(len(inside))], source, rcond=None)
        turn = fit[:2]
        np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-3)  # a rotation: nothing is stretched
        tilts.append(math.degrees(math.atan2(turn[0, 1], turn[0, 0])))
    widths, lengths = np.array(sizes).T
    assert 2 <= widths.min() < 4
    assert widths.max() <= 18
    assert lengths.min() >= 9
    assert 20 < lengths.max() <= 27.5
    assert min(tilts) < -30
    assert max(tilts) > 30
    assert max(map(abs, tilts)) <= 45.1


def test_a_scar_grows_with_the_picture() -> None:
    small, large = (scar(ramps(n), everywhere(n, n), 0.0, np.random.default_rng(5))[1].sum() for n in (256, 1024))
    assert large / small == pytest.approx(16, rel=0.25)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PICTURE_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_has_all_that_changed(kind: str, channels: int) -> None:
    before = pictures(6, channels)
    kept = before.clone()
    after, mask = Anomalies((kind,), normal=0).applied(before, generator())
    assert torch.equal(before, kept)
    assert (after.shape, mask.shape) == (before.shape, (6, 1, 64, 64))
    assert (after.dtype, mask.dtype) == (torch.float32, torch.float32)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1
    change = (after - before).abs().amax(1, keepdim=True)
    assert float(change[mask == 0].max()) == 0
    for number in range(6):
        assert int(mask[number].sum()) >= 12
        assert float(change[number][mask[number] > 0].mean()) >= 0.03


def test_some_pictures_stay_normal() -> None:
    before = pictures(1).expand(200, -1, -1, -1)
    after, mask = Anomalies(("scar",), normal=0.3).applied(before, generator())
    damaged = mask.flatten(1).any(1)
    assert 0.6 < float(damaged.float().mean()) < 0.8
    assert torch.equal(after[~damaged], before[~damaged])


def test_the_generator_alone_decides() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (the global state, which must not matter)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    drawing, batch = Anomalies(normal=0.2), pictures()
    with RuntimeContext(threads=1).active():
        first = drawing.applied(batch, generator(1))
    with RuntimeContext(threads=3).active():
        second = drawing.applied(batch, generator(1))
    other = drawing.applied(batch, generator(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[1], other[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    following = generator(1)
    one, two = drawing.applied(batch, following), drawing.applied(batch, following)
    assert not torch.equal(one[1], two[1])


@pytest.mark.parametrize("kind", PICTURE_KINDS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_picture_of_one_value_gets_an_anomaly(kind: str, value: float) -> None:
    before = torch.full((3, 3, 48, 48), value)
    after, mask = Anomalies((kind,), OneValue(value), normal=0).applied(before, generator())
    for number in range(3):
        inside = mask[number, 0] > 0
        assert int(inside.sum()) >= 12
        assert float((after - before)[number, :, inside].abs().min()) > 0.01


def test_a_mask_marks_what_is_seen() -> None:
    before, region = np.full((32, 32, 3), 0.5, np.float32), np.zeros((32, 32), bool)
    region[4:20, 4:28] = True
    step = region[..., None] * np.float32([0, 1, 0]) / 255  # in one channel
    assert np.array_equal(changed_pixels(before, before + 12 * step, region), region)
    assert not changed_pixels(before, before - 2 * step, region).any()
    speckled = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    holes = np.zeros_like(region)
    holes[8:17:4, 8:25:4] = True
    after = np.where((region & ~holes)[..., None], 1 - speckled, speckled)
    assert np.array_equal(changed_pixels(speckled, after, region), region)
    noise = np.where(np.indices((32, 32)).sum(0) % 2, 6, -6)[..., None] * step  # no mean changes so much
    assert not changed_pixels(before, before + noise, region)[5:19, 5:27].any()


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_what_nobody_notices_is_drawn_again(kind: str) -> None:
    before = torch.linspace(0.47, 0.53, 64).expand(20, 3, 64, 64)
    after, mask = Anomalies((kind,), OneValue(0.5), normal=0).applied(before, generator())
    for number in range(20):
        change = (after - before)[number, :, mask[number, 0] > 0]
        assert float(change.abs().mean()) >= 0.03


@pytest.mark.parametrize("form", [(64, 64), (4, 64, 64), (4, 1, 64, 64)])
@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_anomalies_stay_within_the_foreground(kind: str, form: tuple[int, ...]) -> None:
    foreground = torch.zeros(64, 64, dtype=torch.bool)
    foreground[10:30, 40:60] = True
    after, mask = Anomalies((kind,), normal=0).applied(pictures(), generator(), foreground.expand(form))
    assert mask.flatten(1).any(1).all()
    assert float(mask[:, 0, ~foreground].max()) == 0
    assert torch.equal(after[..., ~foreground], pictures()[..., ~foreground])


def test_an_empty_foreground_is_refused() -> None:
    foreground = torch.ones(4, 64, 64)
    foreground[2] = 0
    with pytest.raises(DatasetError, match=r"^picture 3 of the batch: its foreground has no pixel.* leave this sample"):
        Anomalies().applied(pictures(), generator(), foreground)
    with pytest.raises(DatasetError, match=r"^a picture: its foreground has no pixel"):
        Anomalies().damaged(ramps(16), np.random.default_rng(0), np.zeros((16, 16), bool))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(OptionError, match=r"^kinds must be some of perlin, cutpaste, scar, not 'dents'$"):
        Anomalies(("perlin", "dents"))
    with pytest.raises(OptionError, match=r"^texture kinds must be some of clouds.*, not nothing$"):
        GeneratedTextures(())


@pytest.mark.parametrize("kind", [Anomalies, DepthAnomalies, SolidAnomalies])
@pytest.mark.parametrize("normal", [-0.1, 2.0, float("nan")])
def test_a_share_that_is_none_is_refused(kind: type[Anomalies], normal: float) -> None:
    with pytest.raises(OptionError, match=r"^normal must be a probability in 0\.\.1, not"):
        kind(normal=normal)
