"""The drawn solid parts: picture and depths belong together, and a defect shows in the channels it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from patchbank._system import threads
from patchbank.demo import solid_defects, solid_view
from patchbank.demo.drawing import Field
from patchbank.demo.solid import SHOWN_BY, SOLID_DEFECTS, SOLID_KINDS, SolidPart, draw_solid, write_solid_dataset
from patchbank.demo.solid_body import Body, Raster
from patchbank.demo.solid_ring import ring
from patchbank.errors import DatasetError, OptionError

SIZE = 128
BAD = [(kind, defect) for kind in SOLID_KINDS for defect in SOLID_DEFECTS]


def drawn(kind: str, defect: str | None, seed: int, size: int = SIZE) -> SolidPart:
    return draw_solid(kind, defect, np.random.default_rng(seed), size)


def height(part: SolidPart) -> Field:
    """mm above the plane through the border of the picture."""
    points, valid = part.shape.xyz().astype(np.float64), part.shape.valid
    border = np.ones_like(valid)
    border[4:-4, 4:-4] = False
    on_border = points[valid & border]
    design = np.column_stack([on_border[:, :2], np.ones(len(on_border))])
    a, b, c = np.linalg.lstsq(design, on_border[:, 2], rcond=None)[0]
    return np.asarray((a * points[..., 0] + b * points[..., 1] + c - points[..., 2]) / np.sqrt(a * a + b * b + 1))


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    side = 2 * pixels + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def pixels_of(path: Path) -> NDArray[Any]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- good parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_good_part(kind: str) -> None:
    part, other = drawn(kind, None, 0), drawn(kind, None, 1)
    assert part.rgb.dtype == np.uint8
    assert part.rgb.shape == (SIZE, SIZE, 3)
    assert part.shape.z.dtype == np.float32
    assert not part.mask.any()
    assert 30 < part.rgb.mean() < 150
    assert 600 < np.median(part.shape.z[part.shape.valid]) < 700
    assert np.abs(part.rgb.astype(int) - other.rgb).mean() > 5, "two parts that look the same"
    above = height(part)[part.shape.valid]
    assert 5 < np.quantile(above, 0.99) < 20
    assert 0.2 < np.mean(above > 1) < 0.6


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_shadows_and_speckle_take_points(kind: str) -> None:
    for seed in range(6):
        part = drawn(kind, None, seed)
        gone = ~part.shape.valid
        assert 0.10 <= gone.mean() <= 0.35
        single = gone & ~cv2.morphologyEx(gone.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).astype(bool)
        assert single.mean() > 0.02


def test_what_lies_to_the_right_of_a_wall_is_in_shadow() -> None:
    view = replace(solid_view.scene(np.random.default_rng(0), 200), axes=np.diag([1.0, 1.0, -1.0]))
    body = block(view.raster, height=10, half=20)
    hits = solid_view.trace(body, view)
    free = solid_view.reached(body, hits, view)
    beside = [free[100, np.abs(hits.u[100] - place).argmin()] for place in (-24, -20.5, 0, 19, 21, 22, 26)]
    # 10 mm high, 20 mm from the middle: the light of a projector 230 mm to its left and 650 mm above casts 3.6 mm.
    assert beside == [True, True, True, True, False, False, True]


def block(raster: Raster, height: float, half: float) -> Body:
    x, y = raster.posed((0.0, 0.0), 0.0)
    solid = np.asarray(np.maximum(np.abs(x), np.abs(y)) < half, dtype=np.float32)
    grey = np.full((*raster.shape, 3), 0.5, dtype=np.float32)
    return Body(solid * np.float32(height), solid, grey, gloss=0, stains=((1.0, 0.0, 0.0),), dents=(0.3, 0.8))


def test_rays_meet_what_slow_ones_meet() -> None:
    """Against a march in double precision along each ray, by a hundredth of a millimetre; half of them at walls."""
    rng = np.random.default_rng(3)
    view = solid_view.scene(rng, 200)
    body = ring(rng, view.raster)
    hits = solid_view.trace(body, view)
    steep = np.hypot(*np.gradient(hits.z))
    pixels = np.vstack([rng.integers(200, size=(60, 2)), rng.permutation(np.argwhere(steep > 2))[:60]])
    z = np.array([slow_depth(body, view, row, column) for row, column in pixels])
    error = np.abs(z - hits.z[pixels[:, 0], pixels[:, 1]])
    assert np.mean(error < 0.02) > 0.95
    assert np.mean(error < 0.1) > 0.98  # a ray that grazes an edge may miss it: coordinates are those of 1/32 pixel
    ray = np.array([(pixels[:, 1] - view.camera.cx) / view.camera.fx, (pixels[:, 0] - view.camera.cy) / view.camera.fy])
    points = hits.u[..., None] * view.axes[0] + hits.v[..., None] * view.axes[1] + hits.h[..., None] * view.axes[2]
    points = (points + view.ground)[pixels[:, 0], pixels[:, 1]]
    np.testing.assert_allclose(points[:, :2], (ray * points[:, 2]).T, atol=1e-3)
    np.testing.assert_allclose(points[:, 2], hits.z[pixels[:, 0], pixels[:, 1]], atol=1e-3)


def slow_depth(body: Body, view: solid_view.Scene, row: int, column: int) -> float:
    right, down, normal = view.axes
    ray = np.array([(column - view.camera.cx) / view.camera.fx, (row - view.camera.cy) / view.camera.fy, 1.0])
    z = float((normal @ view.ground + body.height.max()) / (normal @ ray))
    while True:
        point = z * ray - view.ground
        if normal @ point <= bilinear(body.height, point @ right, point @ down, view.raster):
            return z
        z += 0.01


def bilinear(field: Field, u: float, v: float, raster: Raster) -> float:
    column, row = raster.pixels(u, v)
    c, r = int(column), int(row)
    if not (0 <= c < raster.n - 1 and 0 <= r < raster.n - 1):
        return 0.0
    a, b = column - c, row - r
    near = field[r, c] * (1 - a) + field[r, c + 1] * a
    return float(near * (1 - b) + (field[r + 1, c] * (1 - a) + field[r + 1, c + 1] * a) * b)


def test_depths_have_the_noise_of_the_sensor() -> None:
    view = solid_view.scene(np.random.default_rng(5), SIZE)
    hits = solid_view.trace(block(view.raster, height=8, half=15), view)
    shape = solid_view.measure(hits, np.ones((SIZE, SIZE), dtype=bool), view, np.random.default_rng(0))
    assert 0.02 <= view.depth_noise <= 0.05
    assert np.std(shape.z - hits.z) == pytest.approx(view.depth_noise, rel=0.05)


# ---- defects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "defect"), BAD)
def test_a_defect_shows_in_its_channels_only(kind: str, defect: str) -> None:
    for seed in range(3):
        good, bad = drawn(kind, None, seed), drawn(kind, defect, seed)
        near = grown(bad.mask, 6)
        rgb = np.abs(bad.rgb.astype(int) - good.rgb).max(axis=2)
        z = np.abs(bad.shape.z - good.shape.z)
        if "rgb" in SHOWN_BY[defect]:
            assert rgb[bad.mask].max() >= 12, "a defect that nobody can see"
            assert np.mean(rgb[~near] > 2) < 0.01
        else:
            np.testing.assert_array_equal(bad.rgb, good.rgb)
        if "xyz" in SHOWN_BY[defect]:
            assert z[bad.mask].max() > 0.15
            assert np.mean(z[~near] > 0) < 0.01
        else:
            np.testing.assert_array_equal(bad.shape.z, good.shape.z)


@pytest.mark.parametrize(("kind", "defect"), BAD)
def test_the_mask_lies_on_the_part(kind: str, defect: str) -> None:
    for seed in range(3):
        good, bad = drawn(kind, None, seed), drawn(kind, defect, seed)
        assert 5 < bad.mask.sum() < 0.03 * bad.mask.size
        above = height(good)[bad.mask & good.shape.valid]
        assert np.mean(above > 0.5) > 0.95


def test_a_defect_is_placed_neither_in_a_hole_nor_at_an_edge() -> None:
    candidates = np.zeros((40, 40), dtype=bool)
    candidates[5:35, 5:35] = True
    candidates[18:21, 18:21] = False  # so small that closing fills it
    v, u = np.mgrid[:40, :40].astype(np.float32)
    hits = solid_view.Hits(u, v, u, u)
    rng = np.random.default_rng(0)
    places = np.array([solid_defects.place(candidates, hits, 10, rng) for _ in range(300)]).astype(int)
    assert candidates[places[:, 1], places[:, 0]].all()
    assert places.min() >= 13
    assert places.max() <= 26


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_missing_takes_points_in_the_mask_and_nowhere_else(kind: str) -> None:
    good, bad = drawn(kind, None, 2), drawn(kind, "missing", 2)
    assert not (bad.shape.valid & bad.mask).any()
    np.testing.assert_array_equal(bad.shape.valid[~bad.mask], good.shape.valid[~bad.mask])
    np.testing.assert_array_equal(bad.shape.z[~bad.mask], good.shape.z[~bad.mask])
    assert good.shape.valid[bad.mask].mean() > 0.5


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_a_dent_is_a_few_times_the_noise_deep(kind: str) -> None:
    for seed in range(4):
        good, bad = drawn(kind, None, seed, size=200), drawn(kind, "dent", seed, size=200)
        both = good.shape.valid & bad.shape.valid
        step = (bad.shape.z - good.shape.z)[both & bad.mask]
        assert 0.2 < np.quantile(np.abs(step), 0.95) < 2.6
        assert np.all(step > -0.01) or np.all(step < 0.01), "either a dent or a bump"


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_a_cut_is_deep_and_dark(kind: str) -> None:
    for seed in range(4):
        good, bad = drawn(kind, None, seed, size=200), drawn(kind, "cut", seed, size=200)
        both = good.shape.valid & bad.shape.valid & bad.mask
        if both.any():
            assert (bad.shape.z - good.shape.z)[both].max() > 0.5
        assert bad.rgb[bad.mask].mean() < 0.75 * good.rgb[bad.mask].mean()


# ---- files -----------------------------------------------------------------------------------------------------------


def test_layout_units_and_camera(tmp_path: Path) -> None:
    folder = write_solid_dataset(tmp_path / "ring", "ring", train=2, test_good=1, per_defect=1, size=SIZE)
    assert folder == tmp_path / "ring"
    names = {"train/good/rgb/000.png", "train/good/rgb/001.png", "train/good/xyz/000.tiff", "train/good/xyz/001.tiff"}
    names |= {"test/good/rgb/000.png", "test/good/xyz/000.tiff"}
    for defect in SOLID_DEFECTS:
        names |= {f"test/{defect}/{file}" for file in ("rgb/000.png", "xyz/000.tiff", "gt/000.png")}
    assert set(files_of(folder)) == names
    assert [path.name for path in tmp_path.iterdir()] == ["ring"]

    xyz = pixels_of(folder / "test/cut/xyz/000.tiff")[..., ::-1]
    assert xyz.dtype == np.float32
    valid = xyz[..., 2] > 0
    assert not xyz[~valid].any()
    assert 0.6 < np.median(xyz[valid][:, 2]) < 0.7
    row, column = np.nonzero(valid)
    focal, centre = 2700 * SIZE / 400, (SIZE - 1) / 2
    np.testing.assert_allclose(xyz[valid][:, 0], (column - centre) / focal * xyz[valid][:, 2], atol=1e-7)
    np.testing.assert_allclose(xyz[valid][:, 1], (row - centre) / focal * xyz[valid][:, 2], atol=1e-7)
    mask = pixels_of(folder / "test/cut/gt/000.png")
    assert set(np.unique(mask)) == {0, 255}
    assert pixels_of(folder / "test/cut/rgb/000.png").shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("kind", SOLID_KINDS)
def test_seed_decides_and_counts_and_threads_do_not(tmp_path: Path, kind: str) -> None:
    with threads.RuntimeContext(threads=1).active():
        few = write_solid_dataset(tmp_path / "few", kind, train=1, test_good=1, per_defect=1, size=64)
    more = write_solid_dataset(tmp_path / "more", kind, train=2, test_good=1, per_defect=1, size=64)
    other = write_solid_dataset(tmp_path / "other", kind, train=1, test_good=1, per_defect=1, size=64, seed=1)
    drawn = files_of(few)
    assert drawn.items() <= files_of(more).items()
    assert drawn.keys() == files_of(other).keys()
    assert all(data != files_of(other)[name] for name, data in drawn.items())
    assert drawn["train/good/rgb/000.png"] != drawn["test/good/rgb/000.png"]


def test_a_used_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        write_solid_dataset(tmp_path, "plate", train=1, test_good=0, per_defect=0, size=64)
    assert files_of(tmp_path) == {"mine.txt": b"mine"}


def test_unknown_kind_defect_size_and_count(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'bolt'; choose one of ring, plate, body"):
        drawn("bolt", None, 0)
    with pytest.raises(OptionError, match="ring has no defect 'scratch'; choose one of dent, stain, cut, missing"):
        drawn("ring", "scratch", 0)
    with pytest.raises(OptionError, match="size is 32"):
        drawn("ring", None, 0, size=32)
    with pytest.raises(OptionError, match="train is -1"):
        write_solid_dataset(tmp_path / "new", "ring", train=-1)
    assert not (tmp_path / "new").exists()
