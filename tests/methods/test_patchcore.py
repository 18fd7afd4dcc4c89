"""PatchCore against a literal version of its equations, and the contract of every detector."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchbank
from patchbank import PatchCore, Prediction
from patchbank.data import Sample
from patchbank.errors import DatasetError, ImageError, MemoryBudgetError, OptionError
from patchbank.features.planning import Plan
from tests.conftest import bad_image, good_image, small_model


def patches_of(model: PatchCore, image: np.ndarray) -> torch.Tensor:
    vectors = next(model.extractor.stream([Sample.of("image", image)])).vectors
    return vectors * (model.scorer.balance if model.is_fitted else 1.0)


@pytest.mark.parametrize("neighbours", [0, 9])
def test_score_and_map_are_equations_6_and_7(parts: Path, neighbours: int) -> None:
    model = small_model(image_score="max", neighbours=neighbours).fit(parts / "train" / "good")
    prediction = model.predict(bad_image(0))
    bank = model.bank_.vectors.double()
    patches = patches_of(model, bad_image(0)).double()
    distances = [[math.dist(p, m) for m in bank.tolist()] for p in patches.tolist()]
    scores = [min(row) for row in distances]
    worst = int(np.argmax(scores))  # m_test,*
    nearest = int(np.argmin(distances[worst]))  # m*
    weight = 1.0
    if neighbours:
        order = np.argsort([math.dist(bank[nearest].tolist(), m) for m in bank.tolist()])[:neighbours]
        # exp of the differences: the ratio of Eq. 7 without overflow
        weight = 1 - 1 / sum(math.exp(distances[worst][i] - scores[worst]) for i in order)
    assert prediction.score == pytest.approx(weight * scores[worst], rel=1e-4)
    grid = np.array(scores).reshape(12, 16)
    assert np.unravel_index(worst, grid.shape) == np.unravel_index(np.argmax(grid), grid.shape)
    y, x = np.unravel_index(np.nanargmax(prediction.map), prediction.map.shape)
    assert (y // 8, x // 8) == pytest.approx(np.unravel_index(worst, grid.shape), abs=1)


def test_the_bank_is_the_greedy_coreset_of_all_patches(parts: Path) -> None:
    model = small_model(bank_size=60).fit(parts / "train" / "good")
    files = sorted((parts / "train" / "good").iterdir())
    everything = torch.cat([patches_of(model, np.asarray(Image.open(f))) for f in files]).double()
    matrix = torch.cdist(everything, everything, compute_mode="donot_use_mm_for_euclid_dist")
    anchor, chosen = torch.norm(matrix, dim=1), []
    for _ in range(60):
        chosen.append(int(anchor.argmax()))
        anchor = torch.minimum(anchor, matrix[:, chosen[-1]])
    assert torch.allclose(model.bank_.vectors.double(), everything[chosen], atol=1e-4)
    images, rows, columns = model.bank_.provenance.T.tolist()
    assert [(i * 12 + r) * 16 + c for i, r, c in zip(images, rows, columns, strict=True)] == chosen
    assert [i.name for i in model.bank_.refs] == [str(f) for f in files]
    assert model.bank_.covering_radius == pytest.approx(float(matrix[:, chosen].min(1).values.max()), rel=1e-4)


def test_calibration_leaves_each_image_out(parts: Path) -> None:
    model = small_model(image_score="max", neighbours=0).fit(parts / "train" / "good")
    for i, path in enumerate(sorted((parts / "train" / "good").iterdir())):
        others = model.bank_.vectors[torch.from_numpy(model.bank_.provenance[:, 0] != i)].double()
        patches = patches_of(model, np.asarray(Image.open(path))).double()
        expected = torch.cdist(patches, others, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max()
        assert model.calibration_.scores[i] == pytest.approx(float(expected), rel=1e-4)


def test_good_and_bad_are_told_apart(fitted: PatchCore) -> None:
    good = [fitted.predict(good_image(50 + i)) for i in range(4)]
    bad = [fitted.predict(bad_image(60 + i)) for i in range(4)]
    assert max(p.score for p in good) < min(p.score for p in bad)
    assert all(p.is_anomalous and p.p_value == pytest.approx(1 / 9) for p in bad)
    for prediction in bad:
        left, top, right, bottom = prediction.regions[0].box
        assert left < 80 < right
        assert top < 50 < bottom
        assert prediction.map.shape == (96, 128)
        assert np.isfinite(prediction.map).all()
        assert prediction.score == pytest.approx(prediction.regions[0].score, rel=0.05)


def test_nearest_names_a_training_patch(fitted: PatchCore, parts: Path) -> None:
    neighbour = fitted.predict(good_image(3)).nearest(64, 40)
    assert Path(neighbour.image).parent == parts / "train" / "good"
    left, top, right, bottom = neighbour.box
    assert (right - left, bottom - top) == (8, 8)
    assert neighbour.distance >= 0
    with pytest.raises(ValueError, match="outside the inspected part"):
        fitted.predict(good_image(3)).nearest(500, 2)


def test_two_fits_with_one_seed_give_identical_banks(parts: Path, tmp_path: Path) -> None:
    for sampler in ("greedy", "approximate", "random"):
        files = []
        for _ in range(2):
            model = small_model(sampler=sampler, seed=4).fit(parts / "train" / "good")
            files.append(model.bank_.vectors.numpy().tobytes() + model.bank_.provenance.tobytes())
        assert files[0] == files[1]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"bank_size": None}, 153),
        ({"bank_size": None, "coreset": 0.2}, 307),
        ({"bank_size": 50}, 50),
        ({"bank_size": None, "bank_mb": 0.0608}, 100),
        ({"bank_size": 10**9}, 1536),
        ({"bank_size": None, "coreset": 1.0}, 1536),
        ({"sampler": "identity", "bank_size": None}, 1536),
        ({"sampler": "random"}, 100),
        ({"sampler": "approximate"}, 100),
    ],
)
def test_bank_sizes(parts: Path, options: dict[str, object], count: int) -> None:
    model = small_model(**options).fit(parts / "train" / "good")
    assert len(model.bank_) == count
    assert model.predict(bad_image(1)).score > model.calibration_.threshold


@pytest.mark.parametrize(
    "options",
    [
        {"levels": (2,)}, {"levels": (1, 2, 3)}, {"patch_size": 5}, {"stride": 2}, {"aggregation": "reference"},
        {"geometry": "paper"}, {"image_score": "top"}, {"image_score": "max"}, {"runtime": "torch"},
        {"neighbours": 0}, {"balance_levels": False},
    ],
)  # fmt: skip
def test_every_option_finds_the_spot(parts: Path, options: dict[str, object]) -> None:
    model = small_model(**options).fit(parts / "train" / "good")
    good, bad = model.predict(good_image(90)), model.predict(bad_image(90))
    assert bad.score > good.score
    y, x = np.unravel_index(np.nanargmax(bad.map), bad.map.shape)
    assert 30 <= y <= 70
    assert 60 <= x <= 100


def test_paper_geometry_is_the_papers_protocol(parts: Path) -> None:
    model = PatchCore(geometry="paper", bank_size=50)
    expected = {
        "image_size": 224,
        "aggregation": "reference",
        "image_score": "max",
        "sigma": 4.0,
        "balance_levels": False,
    }
    assert expected.items() <= model.parameters().items()
    model.fit(parts / "train" / "good")
    assert model.bank_.vectors.shape == (50, 1024)
    assert model.bank_.refs[0].grid == (28, 28)
    assert model.parameters()["patch_size"] == 3
    assert PatchCore(geometry="paper", sigma=0.0).option("sigma") == 0


def test_paper_geometry_marks_what_it_did_not_inspect(parts: Path) -> None:
    prediction = small_model(geometry="paper").fit(parts / "train" / "good").predict(bad_image(0))
    assert prediction.map.shape == (96, 128)
    assert np.isnan(prediction.map[:6]).all()
    assert np.isnan(prediction.map[:, :20]).all()
    assert np.isfinite(prediction.map[48, 64])


def test_images_of_any_kind_and_shape(fitted: PatchCore, tmp_path: Path) -> None:
    array = bad_image(0)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = fitted.predict(array).score
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array / 255.0):
        assert fitted.predict(image).score == pytest.approx(expected, rel=1e-3)
    for shape in ((96, 96), (300, 130), (40, 32), (11, 96)):
        prediction = fitted.predict(good_image(1, shape))
        assert prediction.map.shape == shape


def test_training_images_may_differ_in_shape() -> None:
    images = [good_image(i, (96 + 10 * i, 128)) for i in range(5)]
    model = small_model().fit(images)
    assert len({i.grid for i in model.bank_.refs}) > 1
    assert model.predict(good_image(9, (110, 140))).map.shape == (110, 140)


def test_balance_gives_the_levels_equal_variance(parts: Path) -> None:
    balanced, plain = (small_model(balance_levels=b).fit(parts / "train" / "good") for b in (True, False))
    assert torch.equal(plain.scorer.balance, torch.ones(152))
    files = sorted((parts / "train" / "good").iterdir())
    patches = torch.cat([patches_of(balanced, np.asarray(Image.open(f))) for f in files])
    raw = patches / balanced.scorer.balance
    variance = patches.var(0, correction=0)
    assert float(variance[:40].mean()) == pytest.approx(float(variance[40:].mean()), rel=1e-3)
    assert float(variance[:40].mean()) == pytest.approx(float(raw.var(0, correction=0).mean()), rel=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_very_few_images(count: int) -> None:
    model = small_model().fit([good_image(i) for i in range(count)])
    prediction = model.predict(bad_image(0))
    assert math.isinf(model.calibration_.threshold) == (count == 1)
    assert prediction.is_anomalous == (count > 1)


def test_unreadable_images_do_not_end_a_run(parts: Path, tmp_path: Path) -> None:
    Image.fromarray(good_image(0)).save(tmp_path / "good.png")
    Image.fromarray(good_image(1)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(good_image(2)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    (tmp_path / "text.png").write_text("no image")
    failed: list[str] = []
    model = small_model().fit(tmp_path, on_error=lambda name, error: failed.append(Path(name).name))
    assert sorted(failed) == ["cut.jpg", "text.png"]
    assert model.training_["images"] == 3
    assert model.training_["unreadable"] == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictions = list(model.predict_many(tmp_path))
    assert [Path(p.path).name for p in predictions] == ["deep.png", "good.png", "whole.jpg"]
    assert sum("skipped" in str(w.message) for w in caught) == 2
    with pytest.raises(ImageError, match=r"text\.png"):
        model.predict(tmp_path / "text.png")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    with pytest.raises(DatasetError, match="none of the 1 images could be read"):
        small_model().fit(tmp_path / "bad", on_error=lambda name, error: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "magic"}, "sampler must be one of"),
        ({"coreset": 0.0}, "coreset must lie in"),
        ({"coreset": 10}, "such as 0.1 for 10 %"),
        ({"bank_mb": 1.0}, "only one of"),
        ({"bank_size": 0}, "bank_size must be positive"),
        ({"neighbours": -1}, "neighbours"),
        ({"image_score": "median"}, "image_score must be one of"),
        ({"geometry": "square"}, "geometry must be one of"),
        ({"image_size": 100}, "multiple of 32"),
        ({"sigma": -1.0}, "sigma"),
        ({"threads": 0}, "threads"),
        ({"false_alarm_rate": 5}, "false_alarm_rate"),
        ({"device": "quantum"}, "device must be"),
    ],
)
def test_wrong_options_are_found_before_any_work(parts: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        small_model(**options).fit(parts / "train" / "good")


def test_the_constructor_only_stores() -> None:
    model = PatchCore(coreset=99, backbone="nonsense")
    assert model.coreset == 99
    assert model.parameters()["backbone"] == "nonsense"
    with pytest.raises(TypeError):
        PatchCore(colour=1)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="not been fitted"):
        model.predict(good_image(0))


def test_a_fit_that_cannot_fit_is_refused_before_it_starts(parts: Path) -> None:
    with pytest.raises(MemoryBudgetError, match="use fewer images") as error:
        small_model(memory_budget=100_000).fit(parts / "train" / "good")
    assert "1536 patches" in str(error.value)


def test_predictions_carry_what_people_ask_for(fitted: PatchCore) -> None:
    prediction = fitted.predict(bad_image(0))
    assert isinstance(prediction, Prediction)
    assert set(prediction.timings) == {"decode_ms", "network_ms", "score_ms"}
    row = prediction.to_dict()
    assert "map" not in row
    assert row["regions"][0]["area"] > 0
    stricter = prediction.at_threshold(prediction.score + 1)
    assert not stricter.is_anomalous
    assert stricter.score == prediction.score


def test_progress_is_reported(parts: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    small_model().fit(parts / "train" / "good", progress=lambda stage, done, total: seen.update({stage: (done, total)}))
    assert seen == {"features": (8, 8), "coreset": (100, 100), "calibration": (8, 8)}


# ---- the engine's options --------------------------------------------------------------------------------------------


def test_features_in_a_file_give_the_same_model(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    in_memory = small_model().fit(parts / "train" / "good", on_plan=plans.append)
    monkeypatch.setattr("patchbank.scorer.plan_fit", lambda *a, **k: Plan("disk", 0, "to a file"))
    on_disk = small_model().fit(parts / "train" / "good", on_plan=plans.append)
    assert [plan.where for plan in plans] == ["memory", "disk"]
    assert torch.equal(in_memory.bank_.vectors, on_disk.bank_.vectors)
    assert in_memory.calibration_.threshold == on_disk.calibration_.threshold


def test_stream_in_one_chunk_is_the_plain_fit(parts: Path) -> None:
    plain = small_model(bank_size=80).fit(parts / "train" / "good")
    stream = small_model(bank_size=80, coreset="stream").fit(parts / "train" / "good")
    assert torch.allclose(plain.bank_.vectors, stream.bank_.vectors)
    assert plain.bank_.provenance.tolist() == stream.bank_.provenance.tolist()
    assert stream.bank_.covering_radius == pytest.approx(plain.bank_.covering_radius, rel=1e-5)
    assert stream.calibration_.threshold == pytest.approx(plain.calibration_.threshold, rel=1e-5)
    assert stream.training_["plan"] == "stream"


def test_stream_in_several_chunks(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbank.scorer.plan_fit", lambda *a, **k: Plan("stream", 300, "in chunks"))
    model = small_model(bank_size=80, coreset="stream").fit(parts / "train" / "good")
    plain = small_model(bank_size=80).fit(parts / "train" / "good")
    assert len(model.bank_) == 80
    assert plain.bank_.covering_radius <= model.bank_.covering_radius < 2.5 * plain.bank_.covering_radius
    image, row, column = (int(v) for v in model.bank_.provenance[7])
    source = np.asarray(Image.open(model.bank_.refs[image].name))
    assert torch.allclose(model.bank_.vectors[7], patches_of(model, source)[row * 16 + column], atol=1e-4)
    assert model.predict(bad_image(1)).score > model.predict(good_image(50)).score


def test_a_covering_radius_instead_of_a_count(parts: Path) -> None:
    full = small_model(bank_size=200).fit(parts / "train" / "good")
    radius = 1.3 * full.bank_.covering_radius
    model = small_model(bank_size=200, coreset_radius=radius).fit(parts / "train" / "good")
    assert 1 < len(model.bank_) < 200
    assert model.bank_.covering_radius <= radius
    assert model.bank_.provenance.tolist() == full.bank_.provenance[: len(model.bank_)].tolist()


def test_a_float16_bank_halves_the_file_and_changes_little(parts: Path, tmp_path: Path) -> None:
    single = small_model(bank_size=200).fit(parts / "train" / "good")
    half = small_model(bank_size=200, bank_dtype="float16").fit(parts / "train" / "good")
    assert half.bank_.vectors.dtype == torch.float16
    assert half.bank_.megabytes == single.bank_.megabytes / 2
    half.save(tmp_path / "half.patchbank")
    again = patchbank.load(tmp_path / "half.patchbank")
    assert again.bank_.vectors.dtype == torch.float16
    score = again.predict(bad_image(1)).score
    assert score == half.predict(bad_image(1)).score
    assert score == pytest.approx(single.predict(bad_image(1)).score, rel=5e-3)


@pytest.mark.parametrize("search", ["pruned", "blocked", "hnsw", "ivfpq"])
def test_every_search_finds_the_spot(parts: Path, search: str) -> None:
    if search in ("hnsw", "ivfpq"):
        pytest.importorskip("faiss", reason="faiss is not installed")
    model = small_model(bank_size=200, search=search).fit(parts / "train" / "good")
    exact = small_model(bank_size=200).fit(parts / "train" / "good")
    assert model.training_["search"] == search
    found, expected = model.predict(bad_image(1)), exact.predict(bad_image(1))
    tolerance = 1e-5 if search in ("pruned", "blocked") else 0.1
    assert found.score == pytest.approx(expected.score, rel=tolerance)
    assert found.is_anomalous


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"search": "magic"}, "search must be one of"),
        ({"bank_dtype": "int3"}, "bank_dtype"),
        ({"coreset_radius": -1.0}, "coreset_radius must be positive"),
        ({"coreset_radius": 1.0, "sampler": "random"}, "coreset_radius needs"),
        ({"coreset": "steam"}, "'stream'"),
        ({"sampler": "identity", "coreset": "stream"}, "keeps all patches"),
        ({"precision": "bfloat16", "device": "cpu"}, "GPU"),
        ({"runtime": "tensorrt"}, "runtime must be one of"),
    ],
)
def test_engine_options_that_cannot_be(parts: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        small_model(**({"bank_size": None} | options)).fit(parts / "train" / "good")


def test_a_streamed_image_that_changes_is_named(tmp_path: Path) -> None:
    for i in range(40):
        Image.fromarray(good_image(i)).save(tmp_path / f"{i}.png")
    model = small_model(coreset="stream", bank_size=20)
    walked = []

    def spoil(stage: str, done: int, total: int) -> None:
        walked.append(stage)
        if stage == "calibration" and done == 1:
            for i in range(40):
                (tmp_path / f"{i}.png").write_bytes(b"")

    told: list[str] = []
    # as many images as are decoded ahead would be read before the first is done
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    model.fit(paths, progress=spoil, on_error=lambda name, error: told.append(str(error)))
    assert told
    assert all("learned from, but gone when the threshold was set" in error for error in told)
    assert len(model.calibration_) == 40 - len(told)


def test_a_model_for_the_cpus_search_loads_on_another_device(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_model(search="pruned").fit(parts / "train" / "good").save(tmp_path / "m.patchbank")
    monkeypatch.setattr(PatchCore, "torch_device", torch.device("meta"))
    with pytest.raises(NotImplementedError):  # nothing can be computed there, but the options were accepted
        patchbank.load(tmp_path / "m.patchbank", device="meta")
