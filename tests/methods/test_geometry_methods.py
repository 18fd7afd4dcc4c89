"""Every method on parts with geometry, and the ones that are made for it against slow literal forms."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchbank
from patchbank import Ensemble, PaDiM
from patchbank.data import gather
from patchbank.detector import Detector
from patchbank.errors import DatasetError, ImageError, OptionError, PatchbankError, WeightsError
from patchbank.features import point_mae
from patchbank.features.aggregation import Cells
from patchbank.features.backbones import PIXELS
from patchbank.features.channels import opened_points
from patchbank.features.point_mae import PointMAE, load_point_mae, point_features
from patchbank.methods import METHODS, find_method
from patchbank.scoring.maps import anomaly_map
from patchbank.scoring.one_class import fit_one_class
from patchbank.shape.decide import read_sample_shape
from patchbank.shape.features import SHAPE_FEATURES
from patchbank.shape.surface import Surface
from patchbank.training.scorer import TrainedScorer
from tests.conftest import small_solid

BOTH = ("rgb", "curvature")
QUICK: dict[str, dict[str, Any]] = {"m3dm": {"channels": BOTH}, "cpmf": {"views": 1}}


def of_trained(method: str) -> dict[str, Any]:
    """The quick options of a method that learns weights."""
    literal = importlib.import_module(f"tests.training.literal.{method}")
    kept = {name: value for name, value in literal.OPTIONS.items() if name not in ("image_size", "channels")}
    return {**kept, "epochs": 1, "batch": 1024}


def small(method: str, **options: Any) -> Detector:
    found, preset = find_method(method)
    name = method.partition(".")[0]
    learns = issubclass(METHODS[name].scorer_class, TrainedScorer)
    quick = QUICK.get(name) or (of_trained(name) if learns else {})
    return found(**{"image_size": 128, "threads": 1, **quick, **preset, **options})


@pytest.fixture(scope="module")
def files(solid: Path) -> list[str]:
    return sorted(str(path) for path in (solid / "train/good/rgb").glob("*.png"))[:4]


@pytest.fixture(scope="module")
def bad(solid: Path) -> str:
    return str(solid / "test/cut/rgb/000.png")


# ---- every method ----------------------------------------------------------------------------------------------------

OF_TWO = [name for name in METHODS if name not in ("cpmf", "easynet", "fapm", "subspace")]
OF_ITS_OWN = (
    "patchcore",
    "btf",
    "cpmf",
    "easynet",
    "m3dm",
)  # the others are asked with two channels alone, which takes less time


@pytest.mark.parametrize(
    ("method", "channels"), [*((name, None) for name in OF_ITS_OWN), *((name, BOTH) for name in OF_TWO)], ids=str
)
def test_a_method_keeps_the_contract(
    method: str, channels: tuple[str, ...] | None, files: list[str], bad: str, tmp_path: Path
) -> None:
    options = {} if channels is None else {"channels": channels}
    model = small(method, **options).fit(files)
    assert len(model.parameters()["channels"]) > 1
    assert np.isfinite(model.calibration_.scores).all()
    prediction = model.predict(bad)
    assert np.isfinite(prediction.score)
    assert prediction.map.shape == (128, 128)
    assert np.isfinite(prediction.map).all() == model.localizes
    assert all(np.isfinite(value) for value in prediction.channels.values())
    places = model.explain(bad).places
    assert all(place.neighbours for place in places) == model.keeps_patches or not places
    if model.keeps_patches:
        assert prediction.nearest(64, 64).image in files
        assert all(model.explain(files[0], without_image=0, at=(64, 64)).places[0].neighbours)
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank", threads=1)
    assert loaded.predict(bad) == prediction
    assert loaded.predict(bad).channels == prediction.channels
    if method in ("padim", "spade") or (model.scorer.learns_weights and method != "m3dm"):
        return  # slow, and tested with pictures
    again = loaded.fit(files)
    assert np.array_equal(again.calibration_.scores, model.calibration_.scores)
    assert again.predict(bad) == prediction


OF_PIXELS = [name for name, method in METHODS.items() if method.backbone == PIXELS]  # that learn from pictures
# which compare each level of the network at its own resolution
BY_LEVELS = [name for name in METHODS if isinstance(METHODS[name]().arrange(), Cells)]


@pytest.mark.parametrize(
    "method", [n for n in METHODS if n not in ("cpmf", "m3dm", "cfm", "btf", *BY_LEVELS, *OF_PIXELS)]
)
def test_features_side_by_side(method: str, files: list[str], bad: str) -> None:
    assert np.isfinite(small(method, channels=BOTH, fusion="concat").fit(files).predict(bad).score)


@pytest.mark.parametrize("method", [n for n in METHODS if n not in ("cpmf", "m3dm", *BY_LEVELS, *OF_PIXELS)])
def test_features_of_points(method: str, files: list[str], bad: str) -> None:
    assert np.isfinite(small(method, channels=("rgb", "fpfh")).fit(files).predict(bad).score)


@pytest.mark.parametrize("method", [name for name in OF_PIXELS if name != "easynet"])
@pytest.mark.parametrize("options", [{"channels": ("rgb", "fpfh")}, {"channels": BOTH, "fusion": "concat"}], ids=str)
def test_methods_that_take_the_values_of_pictures(method: str, options: dict[str, Any], files: list[str]) -> None:
    words = (
        f"^{method} sees pictures, which have 3 values for each pixel, not [0-9]+: leave out fusion=concat, and chan"
    )
    with pytest.raises(OptionError, match=words):
        small(method, **options).fit(files)


@pytest.mark.parametrize("method", BY_LEVELS)
def test_methods_that_take_pictures_alone(method: str, files: list[str]) -> None:
    with pytest.raises(OptionError, match="own resolution, and fpfh has no levels: take another method"):
        small(method, channels=("rgb", "fpfh")).fit(files)
    with pytest.raises(OptionError, match="own resolution: leave out fusion=concat"):
        small(method, channels=BOTH, fusion="concat").fit(files)


@pytest.mark.parametrize("method", ["btf", "cfm", "m3dm.lite"])
def test_pictures_alone_are_refused_in_one_sentence(method: str) -> None:
    failed: list[str] = []
    model = small(method)
    with pytest.raises(DatasetError, match="none of the 1 images could be read"):
        model.fit([np.zeros((64, 64, 3), np.uint8)], on_error=lambda name, error: failed.append(str(error)))
    assert len(failed) == 1
    assert failed[0].startswith("image 0: is one image, and the model inspects rgb and xyz")


def test_a_picture_is_no_geometry() -> None:
    failed: list[str] = []
    model = small("cpmf")
    with pytest.raises(DatasetError, match="none of the 1 images could be read"):
        model.fit([np.zeros((64, 64, 3), np.uint8)], on_error=lambda name, error: failed.append(str(error)))
    assert len(failed) == 1
    assert failed[0].startswith("image 0: has three channels of uint8, as a picture or a normal map has")


def test_memories_that_cannot_change_say_so(files: list[str], solid: Path) -> None:
    more = sorted(str(path) for path in (solid / "train/good/rgb").glob("*.png"))[4:6]
    padim = small("padim", channels=BOTH).fit(files)
    with pytest.raises(OptionError, match="padim has no bank that could grow or shrink"):
        padim.forget("000.png")
    with pytest.raises(OptionError, match="padim has no bank that could grow or shrink"):
        padim.add(files[:1])
    dino = small("mahalanobis", channels=BOTH).fit(files)
    with pytest.raises(OptionError, match="mahalanobis"):
        dino.forget("000.png")
    m3dm = small("m3dm").fit(files)
    with pytest.raises(OptionError, match="m3dm models cannot be merged: each has learned a fusion of its own"):
        m3dm.merge(small("m3dm").fit(more))
    m3dm.forget("000.png")
    m3dm.add(files[:1])
    assert len(m3dm.scorer.refs) == 4
    assert np.isfinite(m3dm.predict(files[0]).score)


def test_an_ensemble(files: list[str], bad: str, tmp_path: Path) -> None:
    model = Ensemble(members=[small_solid(), PaDiM(image_size=128, channels=("curvature",), threads=1)]).fit(files)
    prediction = model.predict(bad)
    assert np.isfinite(prediction.score)
    model.save(tmp_path / "e.patchbank")
    assert patchbank.load(tmp_path / "e.patchbank", threads=1).predict(bad) == prediction
    with pytest.raises(ImageError, match="has no channel 'curvature'"):
        model.predict({"rgb": np.zeros((128, 128, 3), np.uint8)})


# ---- BTF -------------------------------------------------------------------------------------------------------------


def surface_of(model: Detector, file: str, grid_size: tuple[int, int]) -> Surface:
    depths = model.values_.depths
    return depths.surface(read_sample_shape(gather(file)[0], depths).reduced(grid_size))


def literal_means(features: np.ndarray, mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    height, width = mask.shape
    found = np.zeros((*grid, features.shape[2]))
    for row in range(grid[0]):
        for column in range(grid[1]):
            pixels = [
                features[y, x]
                for y in range(height)
                for x in range(width)
                if y * grid[0] // height == row and x * grid[1] // width == column and mask[y, x]
            ]
            if pixels:
                found[row, column] = np.mean(pixels, axis=0)
    return found.reshape(-1, features.shape[2])


def test_btf_of_the_paper_is_one_bank_of_colour_and_fpfh(files: list[str], bad: str) -> None:
    model = small("btf.paper", image_size=112, coreset=1.0).fit(files)
    assert model.bank_.vectors.shape[1] == model.extractor.widths[0] + 33
    item = next(model.extractor.stream(gather(bad)))
    features, mask = SHAPE_FEATURES["fpfh"](surface_of(model, bad, item.view.resized), 1.0)
    (top, left), (height, width) = item.view.offset, item.view.inspected
    assert features.shape[:2] == item.view.resized
    crop = np.s_[top : top + height, left : left + width]
    expected = literal_means(features[crop], mask[crop], item.grid)
    np.testing.assert_allclose(item.vectors[:, -33:], expected, atol=1e-3)
    nearest = torch.cdist(item.vectors.double(), model.bank_.vectors.double()).amin(1)
    assert model.predict(bad).score == pytest.approx(float(nearest.max()), rel=1e-4)


def test_btf_has_a_memory_for_each_by_default(files: list[str], bad: str) -> None:
    model = small("btf", coreset=1.0).fit(files)
    item = next(model.extractor.stream(gather(bad)))
    features, mask = SHAPE_FEATURES["fpfh"](surface_of(model, bad, item.view.resized), 1.0)
    expected = literal_means(features, mask, item.grid)
    np.testing.assert_allclose(item.vectors[:, -33:], expected, atol=1e-3)
    distances = []
    for member, vectors in zip(model.scorer.members, item.vectors.split(model.extractor.widths, -1), strict=True):
        distances.append(torch.cdist((vectors * member.balance).double(), member.bank.vectors.double()).amin(1))
    post, scorer, fused = model.fitted.post, model.scorer, np.zeros(item.view.inspected)  # type: ignore[union-attr]
    for k, distance in enumerate(distances):
        standard = ((distance - scorer.fusion.offsets[k]) / scorer.fusion.scales[k]).reshape(item.grid).float()
        values = anomaly_map(standard, item.view.inspected, post.sigma, None, post.lattice)
        mean, spread = scorer.fusion.good_peaks[k].tolist()
        fused += np.log1p(np.exp((values - mean) / spread))
    assert model.predict(bad).score == pytest.approx(float(fused.max()), rel=1e-3)


# ---- CPMF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 9])
def test_cpmf_is_a_mean_over_views(views: int, files: list[str], bad: str) -> None:
    """Each point is looked up in each view in which it is seen, cell by cell."""
    model = small("cpmf", views=views).fit(files[:2])
    item, channel = next(model.extractor.stream(gather(bad))), model.extractor.loader.channels[0]
    drawn = model.extractor.loader.load(gather(bad)[0]).pieces[0]
    assert len(drawn.views) == views
    rows, columns = item.grid
    maps = [
        model.extractor._seen_by_network([view.image.transpose(2, 0, 1).astype(np.float32)], item.grid)[0].numpy()
        for view in drawn.views
    ]
    height, width = drawn.views[0].visible.shape
    total = np.zeros((rows, columns, maps[0].shape[2]))
    count = np.zeros((rows, columns, 1))
    for y in range(height):
        for x in range(width):
            seen = [k for k in range(views) if drawn.views[k].visible[y, x]]
            if seen:
                cell = y * rows // height, x * columns // width
                total[cell] += np.mean([_bilinear(maps[k], drawn.views[k], y, x) for k in seen], axis=0)
                count[cell] += 1
    means = total / np.maximum(count, 1)
    expected = means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
    found = item.vectors[:, :-33].reshape(rows, columns, -1)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert channel.name == f"views{views}"
    prepared = model.scorer.prepare(item.vectors)
    lengths = prepared[:, -33:].norm(dim=1)
    assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()


def _bilinear(features: np.ndarray, view: Any, y: int, x: int) -> np.ndarray:
    """Of a map over the whole view, at the place of a point; positions are rows and columns of the view."""
    (height, width), (rows, columns) = view.image.shape[:2], features.shape[:2]
    down, across = view.positions[y, x]
    row = np.clip((down + 0.5) * rows / height - 0.5, 0, rows - 1)
    column = np.clip((across + 0.5) * columns / width - 0.5, 0, columns - 1)
    r, c = int(row), int(column)
    r2, c2 = min(r + 1, rows - 1), min(c + 1, columns - 1)
    above = features[r, c] * (c + 1 - column) + features[r, c2] * (column - c)
    below = features[r2, c] * (c + 1 - column) + features[r2, c2] * (column - c)
    mixed: np.ndarray = above * (r + 1 - row) + below * (row - r)
    return mixed


# ---- M3DM ------------------------------------------------------------------------------------------------------------


def test_m3dm_weighs_three_memories(files: list[str]) -> None:
    """Leave-one-out scores are the weighted sum of the largest scaled distance in each memory."""
    model = small("m3dm.lite", calibration="leave-one-out").fit(files)
    scorer, largest, patches = model.scorer, [], []
    for i, item in enumerate(model.extractor.stream(gather(files))):
        a, b = item.vectors.split(model.extractor.widths, -1)
        a, b = a / scorer.channel_scales[0], b / scorer.channel_scales[1]
        of_image = []
        for member, points in zip(scorer.members, (a, b, scorer.network.fuse(a, b)), strict=True):
            others = member.bank.vectors[torch.from_numpy(member.bank.provenance[:, 0] != i)].double()
            of_image.append(torch.cdist(points.double(), others).amin(1).numpy())
        patches.append(np.stack(of_image, 1))
        largest.append(patches[-1].max(0))
    everything = np.concatenate(patches)
    means = everything.mean(0)
    np.testing.assert_allclose(scorer.fusion.scales, means, rtol=1e-3)
    of_images = fit_one_class(np.stack(largest) / means).weights
    np.testing.assert_allclose(scorer.image_weights, of_images, rtol=5e-3)
    np.testing.assert_allclose(scorer.fusion.weights, fit_one_class(everything / means).weights, rtol=5e-3)
    expected = (np.stack(largest) / means) @ of_images
    np.testing.assert_allclose(model.calibration_.scores, expected, rtol=5e-3)


def test_m3dm_with_points(files: list[str], bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(load_point_mae, centres=32, neighbours=16)
    monkeypatch.setattr(point_mae, "load_point_mae", few)
    torch.manual_seed(0)
    weights = tmp_path / "points.pth"
    torch.save({"base_model": PointMAE().state_dict()}, weights)
    with pytest.raises(OptionError, match="m3dm needs weights of Point-MAE: give their file as point_weights"):
        METHODS["m3dm"]().fit(files)
    model = METHODS["m3dm"](image_size=128, threads=1, point_weights=str(weights)).fit(files[:2])
    assert model.parameters()["channels"] == ("rgb", "points")
    item = next(model.extractor.stream(gather(bad)))
    surface = surface_of(model, bad, item.view.resized)
    literal, _ = point_features(
        few(weights), torch.from_numpy(surface.shape.xyz()), torch.from_numpy(surface.part), item.grid
    )
    np.testing.assert_allclose(item.vectors[:, -1152:], literal.flatten(0, 1), atol=1e-5)
    prediction = model.predict(bad)
    assert set(prediction.channels) == {"rgb", "points", "rgb+points"}
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank", threads=1).predict(bad) == prediction
    torch.save({"base_model": PointMAE().state_dict()}, weights)
    opened_points.cache_clear()
    with pytest.raises(WeightsError, match=r"was fitted with other weights than those in .*points\.pth now"):
        patchbank.load(tmp_path / "m.patchbank", threads=1)
    weights.unlink()
    opened_points.cache_clear()
    with pytest.raises(PatchbankError, match=r"points\.pth"):
        patchbank.load(tmp_path / "m.patchbank", threads=1)


# ---- CFM -------------------------------------------------------------------------------------------------------------


def test_cfm_is_never_calibrated_on_what_it_learned_from(files: list[str]) -> None:
    for scheme in ("auto", "leave-one-out"):
        assert small("cfm", calibration=scheme).fit(files).calibration_.how == "k-fold"
    assert small("cfm").fit(files[:1]).calibration_.threshold == np.inf
    held = small("cfm", calibration="held-out").fit(files)
    assert held.calibration_.how in ("k-fold", "held-out")


def test_cfm_scores_are_products_of_cosines(files: list[str], bad: str) -> None:
    model = small("cfm").fit(files)
    item, scorer = next(model.extractor.stream(gather(bad))), model.scorer
    statistics = scorer.network.statistics
    standard = (item.vectors - statistics.offset) / statistics.scale
    a, b = standard.double().split(model.extractor.widths, -1)
    mapping = scorer.network.mapping.double()
    try:
        one = 1 - torch.nn.functional.cosine_similarity(mapping.to_a(b), a)
        two = 1 - torch.nn.functional.cosine_similarity(mapping.to_b(a), b)
    finally:
        mapping.float()
    values = anomaly_map(
        (one * two).reshape(item.grid).float().detach(), item.view.inspected, model.option("sigma"), None,
        model.fitted.post.lattice,  # type: ignore[union-attr]
    )  # fmt: skip
    assert model.predict(bad).score == pytest.approx(float(values.max()), rel=1e-3)
