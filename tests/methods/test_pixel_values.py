"""The range of pixel values is decided when a model is fitted and holds wherever the model is used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import patchbank
from patchbank import Ensemble, PatchCore
from patchbank.audit import audit
from patchbank.data import ValueRange
from patchbank.edge import runtime
from patchbank.errors import ModelFileError, OptionError, PatchbankWarning
from patchbank.export import export
from patchbank.features.cache import FeatureCache
from patchbank.io import model_file as modelfile
from tests.conftest import bad_image, good_image, small_model
from tests.data.pictures import png16

GOOD = [good_image(i) for i in range(6)]
BAD = bad_image(50)


def twelve(picture: np.ndarray) -> np.ndarray:
    """The picture of a 12-bit camera in 16 bits."""
    return (picture * (4095 / 255)).round().astype(np.uint16)


@pytest.fixture(scope="module")
def eight() -> PatchCore:
    return small_model().fit(GOOD)


@pytest.fixture(scope="module")
def deep() -> PatchCore:
    with pytest.warns(PatchbankWarning, match="0..4095 is taken as the full scale"):
        return small_model().fit([twelve(image) for image in GOOD])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchbankWarning)
        yield


def test_twelve_bits_in_sixteen_see_what_eight_bits_see(eight: PatchCore, deep: PatchCore) -> None:
    assert deep.values_ == ValueRange(integers=(0, 4095), eight_bit=False)
    assert deep.predict(twelve(BAD)).score == pytest.approx(eight.predict(BAD).score, rel=0.02)
    assert deep.predict(twelve(BAD)).is_anomalous
    picture = deep.thumbnails_["image 0"].pixels()
    assert abs(float(picture.mean()) - float(GOOD[0].mean())) < 3  # not nearly black


@pytest.mark.parametrize(
    "as_stored",
    [
        lambda g: g.astype(np.float32),
        lambda g: g.astype(np.int64),
        lambda g: twelve(g).astype(np.float64),
        lambda g: g.astype(np.uint16),
        lambda g: g.astype(np.uint16) * 4,
        lambda g: g.astype(np.float64) * (20 / 255) - 3,
    ],
)
def test_every_range_sees_what_eight_bits_see(eight: PatchCore, as_stored: Any) -> None:
    model = small_model().fit([as_stored(image) for image in GOOD])
    assert model.predict(as_stored(BAD)).is_anomalous
    assert model.predict(as_stored(BAD)).score == pytest.approx(eight.predict(BAD).score, rel=0.15)


def test_file_array_and_pil_image_have_one_score(deep: PatchCore, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(png16(twelve(BAD)))
    expected = deep.predict(twelve(BAD)).score
    assert deep.predict(path).score == expected
    assert deep.predict(path.read_bytes()).score == expected
    with Image.open(path) as image:
        assert deep.predict(image).score == expected


def test_the_file_keeps_it(deep: PatchCore, eight: PatchCore, tmp_path: Path) -> None:
    deep.save(tmp_path / "deep.patchbank")
    loaded = patchbank.load(tmp_path / "deep.patchbank")
    assert loaded.values_ == deep.values_
    assert loaded.predict(twelve(BAD)).score == deep.predict(twelve(BAD)).score
    eight.save(tmp_path / "eight.patchbank")
    document = modelfile.read(tmp_path / "eight.patchbank").document
    assert "pixel_values" not in document  # as files were before there were ranges
    assert "value_range" not in document["options"]
    assert patchbank.load(tmp_path / "eight.patchbank").values_ == ValueRange()


def test_an_option_says_it(tmp_path: Path) -> None:
    model = small_model(value_range=(0, 8190)).fit([twelve(image) for image in GOOD])
    assert model.values_.integers == (0, 8190)
    model.save(tmp_path / "m.patchbank")
    assert patchbank.load(tmp_path / "m.patchbank").value_range == (0, 8190)
    for wrong in ((0, float("nan")), (5, 1), (0, float("inf")), (1,)):
        with pytest.raises(OptionError, match="value_range must be two finite numbers"):
            small_model(value_range=wrong).fit(GOOD)


def test_what_is_said_of_new_images(deep: PatchCore) -> None:
    for image, words in (
        (twelve(BAD) * 2, "image 0: its values .* lie partly outside 0..4095"),
        (BAD, "image 0: is an 8-bit image, and the model was fitted on integers 0..4095"),
    ):
        with pytest.warns(PatchbankWarning, match=words):
            deep.predict(image)
    with pytest.warns(PatchbankWarning) as said:
        list(deep.predict_many([twelve(BAD) * 2, twelve(BAD), twelve(GOOD[0]) * 3]))
    # images are read ahead by two threads: which of them is told first is open
    told = sorted(str(w.message)[:7] for w in said if w.category is PatchbankWarning)
    assert told == ["image 0", "image 2"]


def test_exports_without_torch_have_it(deep: PatchCore, eight: PatchCore, tmp_path: Path) -> None:
    document = export(deep, tmp_path / "deep", to="openvino")
    assert (document["export_version"], document["value_range"]["integers"]) == (2, (0, 4095))
    exported = runtime.load(tmp_path / "deep")
    path = tmp_path / "bad.png"
    path.write_bytes(png16(twelve(BAD)))
    assert exported.predict(path).score == pytest.approx(deep.predict(path).score, rel=1e-4)
    with pytest.warns(PatchbankWarning, match="lie partly outside 0..4095"):
        exported.predict(twelve(BAD) * 2)
    plain = export(eight, tmp_path / "eight", to="openvino")
    assert plain["export_version"] == 1
    assert "value_range" not in plain


def test_ensembles_have_it(tmp_path: Path) -> None:
    model = Ensemble(members=[small_model(), small_model(seed=1)]).fit([twelve(image) for image in GOOD])
    model.save(tmp_path / "m.patchbank")
    loaded = patchbank.load(tmp_path / "m.patchbank")
    assert [part.values_.integers for part in (loaded, *loaded.parts())] == [(0, 4095)] * 3
    assert loaded.predict(twelve(BAD)).score == pytest.approx(model.predict(twelve(BAD)).score)


def test_aligned_models_and_explanations_have_it(deep: PatchCore) -> None:
    images = [twelve(image) for image in GOOD]
    reference = small_model(align=True).fit(images).inputs_.reference
    expected = small_model(align=True).fit(GOOD).inputs_.reference
    assert reference is not None
    assert expected is not None
    assert np.abs(reference.grey.astype(int) - expected.grey).max() <= 2
    assert deep.explain(twelve(BAD)).prediction.score == deep.predict(twelve(BAD)).score


def test_banks_with_other_ranges_cannot_be_merged(deep: PatchCore, eight: PatchCore, tmp_path: Path) -> None:
    deep.save(tmp_path / "m.patchbank")
    other = small_model(value_range=(0, 16383)).fit([twelve(good_image(i)) for i in range(20, 24)])
    with pytest.raises(OptionError, match="pixel values have different ranges"):
        patchbank.load(tmp_path / "m.patchbank").merge(other)  # type: ignore[arg-type]
    merged = patchbank.load(tmp_path / "m.patchbank").merge(eight)  # type: ignore[arg-type]
    assert merged.values_ == ValueRange((0, 4095), None, True)
    assert merged.predict(twelve(BAD)).is_anomalous


def test_an_audit_compares_at_the_range(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, picture in zip(paths, [*GOOD[:4], GOOD[0]], strict=True):
        path.write_bytes(png16(twelve(picture)))
    found = audit(paths, small_model())
    assert [pair[:2] for pair in found.duplicates] == [(str(paths[0]), str(paths[4]))]


def test_an_older_version_refuses_a_file_with_a_range(deep: PatchCore, tmp_path: Path) -> None:
    deep.save(tmp_path / "m.patchbank")
    # by the option that it does not know: without it, it would read other pixels
    assert "value_range" in modelfile.read(tmp_path / "m.patchbank").document["options"]
    with pytest.raises(ModelFileError, match="newer patchbank"):
        runtime_of_version_one(deep, tmp_path)


def runtime_of_version_one(deep: PatchCore, folder: Path) -> None:
    export(deep, folder / "out", to="openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "EXPORT_VERSION", 1)
        runtime.load(folder / "out")


def test_a_squeezed_image_is_named_once() -> None:
    long = np.tile(GOOD[0], (1, 10, 1))
    with pytest.warns(PatchbankWarning, match="so its longer side is squeezed to 8 times the shorter one") as said:
        model = small_model().fit([long, np.roll(long, 5, axis=1)])
    assert len([w for w in said if "squeezed" in str(w.message)]) == 1
    model._opened = None  # as of a loaded model
    with pytest.warns(PatchbankWarning, match="image 0: has 1280×96 pixels"):
        list(model.predict_many([long, long]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PatchbankWarning)
        small_model(tile=128, overlap=64).fit([long[:, :1000], long[:, 200:]])


def test_the_runtime_as_a_command_says_it(deep: PatchCore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(deep, tmp_path / "out", to="openvino")
    path = tmp_path / "bright.png"
    path.write_bytes(png16(twelve(BAD) * 2))
    shown = warnings.showwarning
    warnings.simplefilter("always", PatchbankWarning)
    assert runtime.main([str(tmp_path / "out"), str(path)]) == 0
    assert f"note: {path}: its values" in capsys.readouterr().err
    assert warnings.showwarning is shown


def test_kept_features_have_the_range_in_their_name(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, picture in zip(paths, GOOD, strict=False):
        path.write_bytes(png16(twelve(picture)))
    cache = FeatureCache(tmp_path / "cache", 10**9)
    scores = []
    for full_scale in (4095, 16383, 4095):
        model = small_model(value_range=(0, full_scale))
        model.feature_cache = cache
        scores.append(model.fit(paths).calibration_.scores.tolist())
    assert scores[0] == scores[2] != scores[1]
    assert cache.hits


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_pipe_in_a_training_set_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    failed: list[str] = []
    model = small_model()
    model.feature_cache = FeatureCache(tmp_path / "cache", 10**9)
    model.fit([*GOOD, tmp_path / "pipe.png"], on_error=lambda name, error: failed.append(str(error)))
    assert failed == [f"{tmp_path / 'pipe.png'}: is a named pipe, not an image file: only regular files are opened"]
    list(model.predict_many([tmp_path / "pipe.png"], on_error=lambda name, error: failed.append(str(error))))
    assert len(failed) == 2


def test_an_export_names_a_squeezed_image_once(tmp_path: Path) -> None:
    long = np.tile(GOOD[0], (1, 10, 1))
    model = small_model().fit([long, np.roll(long, 5, axis=1)])
    export(model, tmp_path / "out", to="openvino")
    with pytest.warns(PatchbankWarning, match="image 0: has 1280×96 pixels") as said:
        list(runtime.load(tmp_path / "out").predict_many([long, long]))
    assert len([w for w in said if "squeezed" in str(w.message)]) == 1
