"""Few images: turned copies, cosine distances, vision transformers, ensembles, drawn shots."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchbank
from patchbank import SPADE, AnomalyDINO, Ensemble, MahalanobisAD, PatchCore, SubspaceAD
from patchbank.data import Sample, read_image, turned_back, turned_by
from patchbank.data.datasets import open_dataset
from patchbank.errors import OptionError, PatchbankError, warn
from patchbank.features.foreground import foreground_mask
from patchbank.scoring.together import score_together
from tests.conftest import bad_image, good_image, small_model

GOOD = [good_image(i) for i in range(4)]


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small DINOv2 with random weights, as a local folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, patch_size=14, image_size=56
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    return f"hf/{folder}"


def test_the_anomalydino_recipe(transformer: str, tmp_path: Path) -> None:
    model = AnomalyDINO(backbone=transformer, augment="rotations", image_size=56)
    model.fit(GOOD)
    names = ("patch_size", "image_score", "neighbours", "balance_levels")
    assert {name: model.option(name) for name in names} == {
        "patch_size": 1, "image_score": "top", "neighbours": 0, "balance_levels": False
    }  # fmt: skip
    assert model.extractor.backbone.levels == (3,)  # the last layer
    assert len(model.bank_) == 4 * 8 * 4 * 5  # all patches of eight angles: 56×70 pixels, 14 a patch
    assert model.training_["images"] == len(model.calibration_.scores) == 4
    bank = model.bank_.vectors.double()
    assert torch.allclose(bank.norm(dim=1), torch.ones(1, dtype=torch.float64), atol=1e-5)
    query = next(model.extractor.stream([Sample.of("q", bad_image(0))])).vectors.double()
    distances = (1 - torch.nn.functional.normalize(query, dim=1) @ bank.T).min(1).values
    assert model.predict(bad_image(0)).score == pytest.approx(float(distances.max()), rel=1e-3, abs=1e-6)  # 1 % of 20
    others = bank[torch.from_numpy(model.bank_.provenance[:, 0] // 8 != 2)]
    query = next(model.extractor.stream([Sample.of("q", GOOD[2])])).vectors.double()
    distances = (1 - torch.nn.functional.normalize(query, dim=1) @ others.T).min(1).values
    assert model.calibration_.scores[2] == pytest.approx(float(distances.max()), rel=1e-2, abs=1e-5)
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank")
    assert loaded.predict(bad_image(0)).score == model.predict(bad_image(0)).score


def test_the_last_layer_is_normalised(transformer: str) -> None:
    tokens = AnomalyDINO(backbone=transformer, image_size=56).fit(GOOD[:2])
    vectors = next(tokens.extractor.stream([Sample.of("q", GOOD[0])])).vectors
    # a layer norm with its initial weights: mean 0, variance 1
    assert torch.allclose(vectors.mean(1), torch.zeros(1), atol=1e-4)
    assert torch.allclose(vectors.var(1, correction=0), torch.ones(1), atol=1e-3)


def test_an_image_size_that_fits_the_patches(transformer: str, tmp_path: Path) -> None:
    model = PatchCore(backbone=transformer, sampler="random").fit(GOOD[:2])
    assert model.extractor.geometry.image_size == 14 * 37  # nearest to the default, 512
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank").predict(GOOD[0]).score == model.predict(GOOD[0]).score
    with pytest.raises(OptionError, match="multiple of 14"):
        PatchCore(backbone=transformer, image_size=384).fit(GOOD[:2])


def test_turning() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[24:28, 44:50] = 255  # stays inside at every angle
    sources = turned_by([Sample.of("a", image)])
    assert [s.angle for s in sources] == [0, 45, 90, 135, 180, 225, 270, 315]
    assert np.array_equal(read_image(sources[0]), image)
    assert np.array_equal(read_image(sources[4]), image[::-1, ::-1])  # half a turn
    places = set()
    for source in sources:
        turned = read_image(source)
        assert turned.shape == image.shape
        y, x = np.argwhere(turned[:, :, 0] > 128).mean(0)
        places.add((round(y), round(x)))
        box = (round(x) - 1, round(y) - 1, round(x) + 2, round(y) + 2)  # three pixels wide
        left, top, right, bottom = turned_back(box, (60, 80), source.angle)
        assert left <= 46.5 <= right - 1
        assert top <= 25.5 <= bottom - 1
        assert right - left <= 6
        assert bottom - top <= 6
    assert len(places) == 8
    assert turned_back((1, 2, 3, 4), (60, 80), 0.0) == (1, 2, 3, 4)
    assert turned_back((0, 0, 8, 8), (60, 80), 180.0) == (72, 52, 80, 60)


@pytest.mark.parametrize("detector", [PatchCore, SubspaceAD])
def test_turned_images_are_learned(detector: type, tmp_path: Path) -> None:
    for i, image in enumerate(GOOD):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:500])
    turned = [image[:, ::-1].transpose(1, 0, 2) for image in GOOD]  # stripes that run across
    options = {"image_size": 96}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = detector(**options, augment="rotations").fit(tmp_path)
    assert sum("broken.png" in str(w.message) for w in caught) == 1
    assert model.training_["images"] == len(model.calibration_.scores) == 4
    assert model.training_["unreadable"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = detector(**options).fit(tmp_path)
    assert max(model.predict(t).score for t in turned) < min(plain.predict(t).score for t in turned)
    if detector is PatchCore:
        assert {image.angle for image in model.bank_.refs} == {45.0 * i for i in range(8)}
        neighbour = model.predict(turned[0]).nearest(40, 40)
        left, top, right, bottom = neighbour.box
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 96


def test_the_foreground_is_where_the_part_is() -> None:
    rng = np.random.default_rng(0)
    for sign in (1, -1):
        part = np.zeros((12, 16), bool)
        part[3:9, 4:12] = True
        direction = rng.standard_normal(6) * sign
        vectors = torch.from_numpy(rng.standard_normal((192, 6)) + 30 * part.reshape(-1, 1) * direction)
        mask = foreground_mask(vectors.float(), (12, 16)).numpy()
        assert mask[part].all()
        assert not mask[:1].any()
        assert not mask[:, :2].any()


def test_the_background_of_a_test_image_is_not_compared() -> None:
    with pytest.raises(OptionError, match="neighbours=0"):
        AnomalyDINO(image_size=96, foreground=True, neighbours=9).fit(GOOD)
    model = AnomalyDINO(image_size=96, patch_size=3, foreground=True).fit(GOOD)
    vectors = torch.zeros(12, 16, 152)
    vectors[3:9, 4:12] = 40 * torch.randn(152, generator=torch.Generator().manual_seed(0))
    vectors = vectors.flatten(0, 1)
    mask = foreground_mask(vectors, (12, 16))
    assert 0 < mask.sum() < 192
    scores = model.scorer.compare(vectors, (12, 16))
    assert (scores.distances[~mask.flatten()] == 0).all()
    assert (scores.distances[mask.flatten()] > 0).all()
    # where nothing stands out, all is compared
    assert (model.scorer.compare(vectors / 1e6, (12, 16)).distances > 0).any()


def test_options_of_few_shots() -> None:
    for options in ({"augment": "flips"}, {"coreset": "stream"}, {"sampler": "proxies"}):
        with pytest.raises(OptionError):
            AnomalyDINO(**options).fit(GOOD)  # type: ignore[arg-type]


def test_shots_are_drawn_by_the_seed(parts: Path) -> None:
    dataset = open_dataset(parts)
    drawn = [dataset.with_shots(3, seed).train for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(d) == 3 and set(d) <= set(dataset.train) for d in drawn)
    assert dataset.with_shots(None, 0) is dataset
    for wrong in (0, 9):
        with pytest.raises(PatchbankError, match="--shots"):
            dataset.with_shots(wrong, 0)


def test_an_ensemble_is_the_mean_of_standardised_members(parts: Path, tmp_path: Path) -> None:
    options = {"image_size": 96, "bank_size": 60}
    model = PatchCore(backbone=["efficientnet_lite0", "efficientnet_lite1"], **options)
    assert isinstance(model, Ensemble)
    model.fit(parts / "train" / "good")
    image = bad_image(0)
    prediction, maps = model.predict(image), []
    for member in model.members:
        alone, nominal = member.predict(image), member.calibration_
        maps.append((alone.map - nominal.peaks.mean()) / nominal.peaks.std(ddof=1))
    assert np.allclose(prediction.map, np.mean(maps, axis=0), atol=1e-3)
    assert prediction.score == pytest.approx(prediction.map.max(), rel=0.02)  # cells of some pixels are compared
    assert prediction.is_anomalous
    left, top, right, bottom = prediction.regions[0].box
    assert left < 80 < right
    assert top < 50 < bottom
    assert prediction.nearest(80, 50).image.endswith(".png")
    assert not model.predict(good_image(50)).is_anomalous
    assert len(model.calibration_.scores) == 8
    model.save(tmp_path / "e.patchbank")
    loaded = patchbank.load(tmp_path / "e.patchbank")
    again = loaded.predict(image)
    assert again.score == prediction.score
    assert np.array_equal(again.map, prediction.map)
    loaded.save(tmp_path / "f.patchbank")
    assert (tmp_path / "e.patchbank").read_bytes() == (tmp_path / "f.patchbank").read_bytes()
    failed: list[str] = []
    (tmp_path / "no.png").write_bytes(b"no")
    found = list(model.predict_many([image, tmp_path / "no.png"], on_error=lambda name, error: failed.append(name)))
    assert len(found) == len(failed) == 1


def standard(values: np.ndarray, nominal: np.ndarray) -> np.ndarray:
    return (values - nominal.mean()) / nominal.std(ddof=1)


def test_the_score_of_an_ensemble_is_the_peak_of_the_mean_map_in_cells() -> None:
    """A literal version: new images, and each good one without its own patches."""
    model = Ensemble(members=[small_model(), small_model(sigma=2.0, seed=0)]).fit(GOOD)
    assert model.by_mean_map

    def together(maps: list[np.ndarray]) -> float:
        cells = np.full((len(maps), 64, 64), -np.inf)
        for number, (one, member) in enumerate(zip(maps, model.members, strict=True)):
            scaled = standard(one, member.calibration_.peaks)
            height, width = scaled.shape
            for row in range(64):
                for column in range(64):
                    top, bottom = row * height // 64, max((row + 1) * height // 64, row * height // 64 + 1)
                    left, right = column * width // 64, max((column + 1) * width // 64, column * width // 64 + 1)
                    cells[number, row, column] = scaled[top:bottom, left:right].max()
        return float(cells.mean(0).max())

    def inspected(member: PatchCore, image: np.ndarray, exclude: int | None = None) -> np.ndarray:
        fitted, (item,) = member.require_fitted(), member.extractor.stream(member.gather([image]), warn)
        points = fitted.scorer.prepare(item.vectors)
        smoothed = fitted.post.score(fitted.scorer, points, item.grid, item.view, item.area, exclude).smoothed
        assert smoothed is not None
        return smoothed

    for image in (bad_image(0), good_image(50)):
        assert model.predict(image).score == pytest.approx(together([inspected(m, image) for m in model.members]))
    left_out = [together([inspected(m, image, i) for m in model.members]) for i, image in enumerate(GOOD)]
    assert model.calibration_.scores == pytest.approx(left_out)
    assert model.calibration_.peaks == pytest.approx(left_out)
    assert all(member.calibration_.cells is None for member in model.members)


def test_members_whose_score_is_no_peak_have_the_mean_of_their_scores(tmp_path: Path) -> None:
    model = Ensemble(members=[small_model(), small_model(image_score="max")]).fit(GOOD)
    assert not model.by_mean_map
    alone = [member.predict(bad_image(0)).score for member in model.members]
    nominal = [member.calibration_.scores for member in model.members]
    expected = np.mean([standard(np.array(s), n) for s, n in zip(alone, nominal, strict=True)])
    assert model.predict(bad_image(0)).score == pytest.approx(expected)
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank").predict(bad_image(0)).score == pytest.approx(expected)


def test_what_no_member_inspects_is_left_out() -> None:
    cells = np.full((2, 64, 64), -np.inf, np.float32)
    cells[0, 3, 4], cells[1, 3, 4], cells[1, 9, 9] = 1, 3, 2.5
    nominal = np.array([-1.0, 0.0, 1.0])  # mean 0, standard deviation 1
    assert score_together(list(cells), [nominal] * 2) == 2.5  # where one member inspects, its own value


def test_an_ensemble_needs_two() -> None:
    with pytest.raises(OptionError, match="at least two"):
        PatchCore(backbone=["efficientnet_lite0"])
    with pytest.raises(OptionError, match="at least two"):
        Ensemble()
    with pytest.raises(OptionError, match="not mahalanobis"):
        Ensemble(members=[PatchCore(), MahalanobisAD()])


def test_members_that_are_sets_of_options() -> None:
    members = [{"image_size": 64}, {"image_size": 96, "backbone": "efficientnet_lite1"}]
    model = PatchCore(members=members, bank_size=50)
    assert isinstance(model, Ensemble)
    assert [(m.image_size, m.backbone, m.bank_size) for m in model.members] == [
        (64, "efficientnet_lite0", 50), (96, "efficientnet_lite1", 50)
    ]  # fmt: skip
    assert model.backbone == "efficientnet_lite0+efficientnet_lite1"
    with pytest.raises(OptionError, match="backbone: each member has its own: leave it out"):
        PatchCore(members=members, backbone="resnet18")
    for preset in PatchCore.presets:
        assert all(part.method == "patchcore" for part in patchbank.create(f"patchcore.{preset}").parts())


def test_an_ensemble_of_several_methods(tmp_path: Path) -> None:
    model = Ensemble(members=[small_model(), SPADE(image_size=96)]).fit(image for image in GOOD)
    assert model.predict(bad_image(0)).score > 3 * max(model.predict(good_image(50 + i)).score for i in range(2))
    assert np.isfinite(model.calibration_.map_threshold)
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank").predict(GOOD[0]).score == model.predict(GOOD[0]).score


def test_a_radius_with_all_patches_allowed() -> None:
    everything = AnomalyDINO(image_size=96).fit(GOOD)
    covered = AnomalyDINO(image_size=96, coreset_radius=0.3).fit(GOOD)
    assert len(covered.bank_) < len(everything.bank_)
    assert covered.bank_.covering_radius <= 0.3
