"""The fused memory against slow literal forms of it, and all that a fitted model can be asked for."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchbank
from patchbank import PatchCore
from patchbank.audit import audit
from patchbank.data import gather
from patchbank.data.lattice import EVEN, Lattice
from patchbank.demo.solid import draw_solid
from patchbank.errors import ImageError, MemoryBudgetError, OptionError
from patchbank.features.cache import FeatureCache
from patchbank.memory.fused_scorer import FusedScorer
from patchbank.memory.fusion import weights_of
from patchbank.scoring.maps import anomaly_map
from patchbank.scoring.one_class import learned_weights
from tests.conftest import small_solid

CHANNELS = ("rgb", "curvature", "normals")


def pictures(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "rgb").glob("*.png"))


def same(one: patchbank.Prediction, other: patchbank.Prediction) -> bool:
    return one == other and one.channels == other.channels


@pytest.fixture(scope="module")
def bad(solid: Path) -> str:
    return str(solid / "test/cut/rgb/000.png")


# ---- literal forms ---------------------------------------------------------------------------------------------------


def literal_distances(model: PatchCore, files: list[str]) -> np.ndarray:
    """N×K×P: of each patch of each training image to the nearest of the bank of each channel that another image gave,
    by all differences in float64."""
    members, widths = model.scorer.members, model.extractor.widths
    found = []
    for i, item in enumerate(model.extractor.stream(gather(files))):
        of_image = []
        for member, vectors in zip(members, torch.split(item.vectors, widths, -1), strict=True):
            others = member.bank.vectors[torch.from_numpy(member.bank.provenance[:, 0] != i)].double()
            points = (vectors * member.balance).double()
            of_image.append(torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").amin(1))
        found.append(torch.stack(of_image))
    return torch.stack(found).numpy()


@pytest.mark.parametrize("fusion", ["map-sum", "max", "learned"])
def test_leave_one_out_scores_are_those_of_a_literal_fusion(solid: Path, fusion: str) -> None:
    model = small_solid(calibration="leave-one-out", fusion=fusion).fit(solid / "train/good")
    distances = literal_distances(model, pictures(solid / "train/good"))
    mean = distances.mean((0, 2))[:, None]
    standard = (distances - mean) / distances.transpose(1, 0, 2).reshape(3, -1).std(1)[:, None]
    post, view = model.fitted.post, model.extractor.geometry.view(128, 128)  # type: ignore[union-attr]

    def mapped(values: np.ndarray, lattice: Lattice) -> np.ndarray:
        grid = torch.from_numpy(values.reshape(model.extractor.grid(view))).float()
        return anomaly_map(grid, view.inspected, post.sigma, None, lattice)

    if fusion == "learned":
        weights = 3 * learned_weights(standard.max(2))
        maps = np.array([mapped((weights[:, None] * of_image).sum(0), post.lattice) for of_image in standard])
    else:  # −log p of a logistic distribution with the mean and the spread of the peaks
        weights = np.array([1, 0.5**0.5, 0.5**0.5]) if fusion == "map-sum" else np.ones(3)
        peaks = np.array([[mapped(one, EVEN).max() for one in of_image] for of_image in standard])
        spread = np.maximum(peaks.std(0) * 3**0.5 / np.pi, 0.05 * peaks.mean(0))
        every = np.array([[mapped(one, post.lattice) for one in of_image] for of_image in standard])
        logistic = 1 / (1 + np.exp((every - peaks.mean(0)[:, None, None]) / spread[:, None, None]))
        shares = -np.log(logistic) * weights[:, None, None]
        maps = shares.max(1) if fusion == "max" else shares.sum(1)
    np.testing.assert_allclose(model.calibration_.scores, maps.max((1, 2)), rtol=2e-3, atol=2e-3)
    if fusion == "learned":
        np.testing.assert_allclose(model.scorer.fusion.weights, weights, rtol=1e-3)
        assert set(model.training_["fusion_weights"]) == set(CHANNELS)


def test_concat_is_one_bank_of_features_side_by_side(solid: Path, bad: str) -> None:
    model = small_solid(calibration="leave-one-out", fusion="concat", neighbours=0).fit(solid / "train/good")
    assert not isinstance(model.scorer, FusedScorer)
    bank, post, expected = model.bank_, model.fitted.post, []  # type: ignore[union-attr]
    assert bank.vectors.shape[1] == sum(model.extractor.widths)
    for i, item in enumerate(model.extractor.stream(gather(pictures(solid / "train/good")))):
        others = bank.vectors[torch.from_numpy(bank.provenance[:, 0] != i)].double()
        points = (item.vectors * model.scorer.balance).double()
        nearest = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        values = nearest.reshape(item.grid).float()
        expected.append(anomaly_map(values, item.view.inspected, post.sigma, None, post.lattice).max())
    np.testing.assert_allclose(model.calibration_.scores, expected, rtol=1e-4)
    assert model.predict(bad).channels == {}


def test_the_channels_of_a_prediction(solid_model: PatchCore, solid: Path) -> None:
    """Standard deviations of good patches, around the peak: a stain shows in the picture, a dent in the geometry."""
    stain = solid_model.predict(str(solid / "test/stain/rgb/000.png")).channels
    assert list(stain) == list(CHANNELS)
    assert stain["rgb"] > max(stain["curvature"], stain["normals"])
    missing = solid_model.predict(str(solid / "test/missing/rgb/000.png")).to_dict()["channels"]
    assert set(missing) == set(CHANNELS)
    assert all(np.isfinite(value) for value in missing.values())


# ---- files, copies, threads, cache -----------------------------------------------------------------------------------


def test_a_loaded_model_and_copies_predict_the_same(solid_model: PatchCore, bad: str, tmp_path: Path) -> None:
    expected = solid_model.predict(bad)
    solid_model.save(tmp_path / "a.patchbank")
    loaded = patchbank.load(tmp_path / "a.patchbank", threads=1)
    assert loaded.values_ == solid_model.values_
    for other in (loaded, pickle.loads(pickle.dumps(solid_model)), copy.copy(solid_model), copy.deepcopy(solid_model)):
        assert same(other.predict(bad), expected)
    loaded.save(tmp_path / "b.patchbank")
    assert (tmp_path / "a.patchbank").read_bytes() == (tmp_path / "b.patchbank").read_bytes()
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_a_refit_is_identical_whatever_the_threads(solid_model: PatchCore, solid: Path, bad: str) -> None:
    expected = solid_model.predict(bad)
    for threads in (1, 2, 8):
        again = small_solid(threads=threads).fit(solid / "train/good")
        assert np.array_equal(again.calibration_.scores, solid_model.calibration_.scores)
        assert same(again.predict(bad), expected)


def test_a_loaded_model_can_be_fitted_again(solid_model: PatchCore, solid: Path, bad: str, tmp_path: Path) -> None:
    solid_model.save(tmp_path / "a.patchbank")
    again = patchbank.load(tmp_path / "a.patchbank", threads=1).fit(solid / "train/good")
    assert same(again.predict(bad), solid_model.predict(bad))


def test_the_cache_gives_equal_results(solid_model: PatchCore, solid: Path, bad: str, tmp_path: Path) -> None:
    for hits in (0, 11):
        model = small_solid()
        model.feature_cache = cache = FeatureCache(tmp_path / "cache", 10**9)
        model.fit(solid / "train/good")
        assert same(model.predict(bad), solid_model.predict(bad))
        assert cache.hits == hits
    other = small_solid(channels=("rgb", "normals", "curvature"))
    other.feature_cache = cache = FeatureCache(tmp_path / "cache", 10**9)
    other.fit(solid / "train/good")
    assert cache.hits == 0


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"geometry": "paper", "image_size": 112},
        {"bank_dtype": "float16"},
        {"bank_size": 1},
        {"sampler": "random"},
        {"tile": 128, "overlap": 64},
        {"image_score": "max"},
        {"calibration": "k-fold"},
        {"calibration": "held-out"},
        {"backbone": "resnet18", "weights": "random"},
        {"channels": ("height", "shading", "fpfh", "holes")},
    ],
    ids=str,
)
def test_options(solid: Path, bad: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = small_solid(**options).fit(solid / "train/good")
    assert torch.isfinite(model.scorer.fusion.scales).all()
    prediction = model.predict(bad)
    assert np.isfinite(prediction.score)
    inspected = ~np.isnan(prediction.map)
    assert inspected.any()
    assert np.isfinite(prediction.map[inspected]).all()
    if "calibration" in options:
        assert model.calibration_.how == options["calibration"]
        assert np.isfinite(model.calibration_.scores).all()
    model.save(tmp_path / "m.patchbank")
    assert same(patchbank.load(tmp_path / "m.patchbank", threads=1).predict(bad), prediction)


def test_a_region_of_interest(solid: Path, bad: str, tmp_path: Path) -> None:
    import cv2

    mask = np.zeros((128, 128), np.uint8)
    mask[30:110, 20:90] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), mask)
    model = small_solid(roi=str(tmp_path / "roi.png")).fit(solid / "train/good")
    prediction = model.predict(bad)
    assert np.array_equal(~np.isnan(prediction.map), mask > 0)
    assert prediction.score == pytest.approx(np.nanmax(prediction.map), rel=0.2)
    assert model.scorer.fusion.offsets[0] > 0
    model.save(tmp_path / "m.patchbank")
    assert same(patchbank.load(tmp_path / "m.patchbank", threads=1).predict(bad), prediction)
    assert model.explain(bad).places


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coreset": "stream"}, "coreset='stream' is for one channel"),
        ({"align": True}, "align lays pictures over each other, not curvature"),
        ({"augment": "rotations"}, "augment turns pictures, not curvature"),
        ({"neighbours": 3}, "neighbours re-weights the score of one memory"),
        ({"fusion": "mean"}, "fusion must be one of map-sum, max, learned, concat, not 'mean'"),
        ({"channels": ("rgb", "xyz")}, "channels must be among"),
        ({"channels": ("rgb", "rgb")}, "channels names 'rgb' twice"),
        ({"channels": ()}, "channels must name at least one channel"),
        ({"channels": ("points",)}, "the channel points needs weights of Point-MAE"),
        ({"depth": "mm"}, "depth must be a DepthFormat"),
    ],
    ids=str,
)
def test_options_that_are_refused(solid: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        small_solid(**options).fit(solid / "train/good")
    assert str(caught.value).count("\n") == 0


def test_too_little_memory_is_said_before_the_work(solid: Path) -> None:
    reached: list[str] = []
    with pytest.raises(MemoryBudgetError, match="10 images, 2560 patches"):
        small_solid(memory_budget=1000).fit(
            solid / "train/good", progress=lambda stage, done, total: reached.append(stage)
        )
    assert reached == []


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("fusion", ["map-sum", "max", "learned"])
def test_few_images(solid: Path, bad: str, count: int, fusion: str) -> None:
    model = small_solid(fusion=fusion).fit(pictures(solid / "train/good")[:count])
    assert np.isfinite(model.predict(bad).score)
    assert torch.isfinite(model.scorer.fusion.scales).all()
    if count == 1:
        assert model.calibration_.threshold == np.inf
    else:
        assert np.isfinite(model.calibration_.scores).all()


def test_one_image_weighs_its_channels_alike(solid: Path, bad: str) -> None:
    """Also where the memory keeps all of its patches, whose distances to themselves are 0."""
    model = small_solid(coreset=1.0).fit(pictures(solid / "train/good")[:1])
    shares = np.array(list(model.predict(bad).channels.values()))
    assert (np.abs(shares) < 10).all()


def test_pictures_of_one_part_are_left_out_together(solid: Path, bad: str) -> None:
    files = pictures(solid / "train/good")[:4]
    model = small_solid().fit(files, groups=["a", "a", "b", "b"])
    assert np.isfinite(model.calibration_.scores).all()


def test_a_fold_that_is_one_part(solid: Path) -> None:
    """Nothing is left without it: distances are those to its own patches then."""
    files = pictures(solid / "train/good")[:4]
    model = small_solid(calibration="k-fold").fit(files, groups=["a", "a", "b", "b"])
    assert model.calibration_.how == "k-fold"
    assert np.isfinite(model.calibration_.scores).all()


@pytest.mark.parametrize("scheme", ["corrected leave-one-out", "held-out", "k-fold"])
def test_calibration_of_more_parts(scheme: str) -> None:
    parts = [draw_solid("plate", None, np.random.default_rng(i), 128) for i in range(20)]
    given = [{"rgb": part.rgb, "xyz": part.shape.xyz()} for part in parts]
    model = small_solid(calibration=scheme).fit(given[:19] if scheme == "k-fold" else given)
    assert model.calibration_.how == scheme
    assert np.isfinite(model.calibration_.scores).all()
    assert len(model.scorer.refs) == (19 if scheme == "k-fold" else 20)
    fresh = draw_solid("plate", None, np.random.default_rng(99), 128)
    score = model.predict({"rgb": fresh.rgb, "xyz": fresh.shape.xyz()}).score
    spread = np.ptp(model.calibration_.scores)
    assert model.calibration_.scores.min() - spread < score < model.calibration_.scores.max() + spread


def test_tiles(tmp_path: Path) -> None:
    parts = [draw_solid("ring", None, np.random.default_rng(i), 192) for i in range(3)]
    given = [{"rgb": part.rgb, "xyz": part.shape.xyz()} for part in parts]
    model = small_solid(tile=128, overlap=64).fit(given)
    assert model.training_["patches"] == 3 * (192 // 8) ** 2
    prediction = model.predict(given[0])
    model.save(tmp_path / "m.patchbank")
    assert same(patchbank.load(tmp_path / "m.patchbank", threads=1).predict(given[0]), prediction)


def test_parts_that_differ_only_in_geometry_are_no_copies(solid: Path) -> None:
    rgb = (solid / "train/good/rgb/000.png").read_bytes()
    shapes = [(solid / f"train/good/xyz/{i:03}.tiff").read_bytes() for i in (0, 1, 2, 2)]
    model = small_solid().fit([{"rgb": rgb, "xyz": xyz} for xyz in shapes])
    assert model.training_["images"] == 3
    assert len(model.training_["copies"]) == 1


# ---- what changes a fitted model -------------------------------------------------------------------------------------


@pytest.fixture
def model(solid_model: PatchCore) -> PatchCore:
    return copy.deepcopy(solid_model)


def test_forget(model: PatchCore, solid: Path, bad: str) -> None:
    before = model.memory_vectors
    model.forget("003.png")
    assert model.memory_vectors is not None
    assert before is not None
    assert model.memory_vectors < before
    assert all(len(member.refs) == 9 for member in model.scorer.members)
    assert not any(name.endswith("rgb/003.png") for name in model.calibration_.images)
    assert np.isfinite(model.predict(bad).score)


def test_add(model: PatchCore, solid: Path, tmp_path: Path) -> None:
    new = str(solid / "test/good/rgb/000.png")
    before = model.predict(new).score
    model.add([new])
    assert model.predict(new).score < before
    assert all(len(member.refs) == 11 for member in model.scorer.members)
    assert model.training_["images"] == 11
    model.save(tmp_path / "m.patchbank")
    assert same(patchbank.load(tmp_path / "m.patchbank", threads=1).predict(new), model.predict(new))
    dent = str(solid / "test/missing/rgb/000.png")
    model.add([dent])
    assert not model.predict(dent).is_anomalous
    again = small_solid().fit(pictures(solid / "train/good")[:5])
    again.add(pictures(solid / "train/good")[5:], representative=True)
    assert len(again.calibration_) == 10
    assert np.isfinite(again.calibration_.scores).all()


def test_merge(solid: Path, bad: str) -> None:
    files = pictures(solid / "train/good")
    one, two = small_solid().fit(files[:5]), small_solid().fit(files[5:])
    counts = one.memory_vectors, two.memory_vectors
    assert None not in counts
    one.merge(two)
    assert one.memory_vectors == sum(counts)  # type: ignore[arg-type]
    assert np.isfinite(one.predict(bad).score)
    one.merge(small_solid().fit([*files[4:6], str(solid / "test/good/rgb/000.png")]), bank_size=300)
    assert one.memory_vectors == 300
    with pytest.raises(OptionError, match="channels is"):
        one.merge(small_solid(channels=("rgb", "curvature")).fit(files[:2]))


def test_calibrate(model: PatchCore, solid: Path) -> None:
    with pytest.raises(OptionError, match="has learned from 10 of these 10 images"):
        model.calibrate(solid / "train/good")
    model.calibrate(solid / "test/good", [str(solid / "test/cut/rgb/000.png")])
    assert model.calibration_.how == "held-out"


def test_explain_and_nearest(solid_model: PatchCore, solid: Path, bad: str) -> None:
    explained = solid_model.explain(bad, count=3)
    assert explained.places
    for place in explained.places:
        assert 1 <= len(place.neighbours) <= 3
        names = [neighbour.image for neighbour in place.neighbours]
        assert len(set(names)) == len(names)
        distances = [neighbour.distance for neighbour in place.neighbours]
        assert distances == sorted(distances)
    first = pictures(solid / "train/good")[0]
    alone = solid_model.explain(first, at=(64, 64), without_image=0).places[0]
    assert first not in [neighbour.image for neighbour in alone.neighbours]
    neighbour = solid_model.predict(bad).nearest(64, 64)
    assert neighbour.image in pictures(solid / "train/good")


def test_audit(solid: Path) -> None:
    found = audit(solid / "train/good", small_solid())
    assert len(found.ranked) == 10
    assert found.usual_size == (128, 128)


def test_an_export_is_refused(solid_model: PatchCore, tmp_path: Path) -> None:
    from patchbank.export import export

    with pytest.raises(OptionError, match="a graph sees one picture, and this model looks at rgb,curvature,normals"):
        export(solid_model, tmp_path / "e", size=(128, 128))


# ---- samples that cannot be inspected --------------------------------------------------------------------------------


def test_what_is_said_of_geometry_beside_pictures(solid: Path) -> None:
    files = pictures(solid / "train/good")[:3]
    with pytest.warns(UserWarning, match="have geometry too, which the channels rgb leave out"):
        PatchCore(image_size=128, threads=1, channels=("rgb",)).fit(files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PatchCore(image_size=128, threads=1).fit(files)
    assert model.parameters()["channels"] == (*CHANNELS, "holes")
    words = [str(each.message) for each in caught]
    assert any("the channels rgb,curvature,normals,holes are inspected" in each for each in words)
    assert any("extent" in each and "% valid" in each for each in words)


def test_holes_count_beside_the_other_channels() -> None:
    half = 0.5**0.5
    assert weights_of(("rgb", "curvature", "normals", "holes")) == pytest.approx([1, half, half, 0.5])


def test_one_file_is_not_two_channels(solid_model: PatchCore, solid: Path) -> None:
    alone = np.zeros((128, 128, 3), np.uint8)
    with pytest.raises(ImageError, match=r"image 0: is one image, and the model inspects rgb and xyz: give both as"):
        solid_model.predict(alone)
    with pytest.raises(ImageError, match="has no channel 'curvature', which is made of 'xyz'"):
        solid_model.predict({"rgb": alone})
