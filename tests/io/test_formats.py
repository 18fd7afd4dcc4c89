"""A file of every format since the first that people have: it loads, and gives the numbers that it gave."""

from __future__ import annotations

from pathlib import Path

import pytest

import patchbank
from patchbank import AnomalyDINO, Ensemble, PatchCore
from patchbank.errors import ModelFileError
from patchbank.io.model_file import FORMAT_VERSION, read, write
from patchbank.methods import METHODS
from tests.conftest import bad_image, good_image

FILES = Path(__file__).parents[1] / "model_files"
SEEN = bad_image(3, (64, 96))


def test_there_is_a_file_of_the_format_of_today() -> None:
    newest = max(read(path).document["format_version"] for path in FILES.glob("*.patchbank"))
    assert newest == FORMAT_VERSION


@pytest.mark.parametrize("version", [3, 4])
def test_patchcore(version: int) -> None:
    model = patchbank.load(FILES / f"format{version}.patchbank", threads=1, runtime="torch")
    assert isinstance(model, PatchCore)
    assert model.calibration_.threshold == pytest.approx(19.91782960471255, rel=1e-6)
    assert model.predict(SEEN).score == pytest.approx(46.42483677875862, rel=1e-4)


def test_a_zoom_and_a_position_scale() -> None:
    model = patchbank.load(FILES / "format5.patchbank", threads=1, runtime="torch")
    assert model.inputs_.zoom == 1.5
    assert model.require_fitted().post.scale is not None
    assert model.calibration_.threshold == pytest.approx(28.809050369588544, rel=1e-6)
    assert model.predict(SEEN).score == pytest.approx(54.60658863974436, rel=1e-4)


def test_a_score_by_the_mean_map() -> None:
    model = patchbank.load(FILES / "format6.patchbank", threads=1, runtime="torch")
    assert isinstance(model, Ensemble)
    assert model.by_mean_map
    assert model.calibration_.threshold == pytest.approx(0.6593958906745012, rel=1e-6)
    assert model.predict(SEEN).score == pytest.approx(20.611540396274464, rel=1e-4)


@pytest.mark.parametrize("version", [3, 4])
def test_the_cosine_distance_was_an_option(version: int) -> None:
    model = patchbank.load(FILES / f"cosine{version}.patchbank", threads=1, runtime="torch")
    assert isinstance(model, AnomalyDINO)
    assert model.calibration_.threshold == pytest.approx(0.47207728028297424, rel=1e-6)
    assert model.predict(SEEN).score == pytest.approx(0.9603438973426819, rel=1e-4)


def test_a_format_that_was_never_released(tmp_path: Path) -> None:
    file = read(FILES / "format4.patchbank")
    write(tmp_path / "old.patchbank", file.document | {"format_version": 1}, file.tensors)
    with pytest.raises(ModelFileError, match="fit the model again"):
        patchbank.load(tmp_path / "old.patchbank")


def test_what_was_an_option_and_is_none_now(tmp_path: Path) -> None:
    """A Euclidean PatchCore that masked the background."""
    file = read(FILES / "format3.patchbank")
    options = {**file.document["options"], "distance": "euclidean", "foreground": True}
    document = {**file.document, "format_version": 3, "options": options}
    write(tmp_path / "m.patchbank", document, file.tensors)
    with pytest.raises(ModelFileError, match="does not know"):
        patchbank.load(tmp_path / "m.patchbank")


def test_files_are_small() -> None:
    assert all(path.stat().st_size < 40_000 for path in FILES.iterdir())


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        ("patchcore", {"channel": "rgb"}, {"channels": ("rgb",), "fusion": "map-sum"}),
        ("padim", {"channels": 20}, {"n_features": 20, "channels": ("rgb",)}),
        ("padim", {"channels": None}, {"n_features": None, "channels": ("rgb",)}),
        ("lmf", {"fusion": "equal"}, {"level_fusion": "equal", "fusion": "map-sum"}),
        ("lmf", {"fusion": "variance"}, {"level_fusion": "variance", "fusion": "map-sum"}),
    ],
)
def test_options_with_other_names(
    method: str, before: dict[str, object], after: dict[str, object], tmp_path: Path
) -> None:
    """A file as it was written before samples had channels: it loads, says what it inspects, and predicts the same."""
    options = {key: value for key, value in after.items() if key not in ("channels", "fusion")}
    model = METHODS[method](image_size=64, threads=1, **options).fit([good_image(i, (64, 96)) for i in range(3)])
    model.save(tmp_path / "new.patchbank")
    file = read(tmp_path / "new.patchbank")
    names = {"channels", "fusion", "depth", *after} - before.keys()
    old = {key: value for key, value in file.document["options"].items() if key not in names} | before
    write(tmp_path / "old.patchbank", {**file.document, "options": old}, file.tensors)
    loaded = patchbank.load(tmp_path / "old.patchbank", threads=1)
    assert {name: loaded.parameters()[name] for name in after} == after
    assert loaded.predict(SEEN) == model.predict(SEEN)


def test_members_with_other_names(tmp_path: Path) -> None:
    given = [good_image(i, (64, 96)) for i in range(3)]
    members = [PatchCore(image_size=64, threads=1), METHODS["padim"](image_size=64, threads=1)]
    model = patchbank.Ensemble(members=members).fit(given)
    model.save(tmp_path / "new.patchbank")
    file = read(tmp_path / "new.patchbank")
    old = []
    for each in file.document["options"]["members"]:
        kept = {key: value for key, value in each.items() if key not in ("channels", "fusion", "n_features")}
        old.append(kept | {"channel": "rgb"} | ({"channels": None} if each["method"] == "padim" else {}))
    write(tmp_path / "old.patchbank", {**file.document, "options": {"members": old}}, file.tensors)
    assert patchbank.load(tmp_path / "old.patchbank", threads=1).predict(SEEN) == model.predict(SEEN)


def test_each_member_of_an_ensemble_enlarges_as_it_learned_to(tmp_path: Path) -> None:
    """Files of format 5 had the zoom of the first member for all: it is found again by the sizes of the images."""
    model = PatchCore(image_size=[64, 96, 160], bank_size=50, threads=1).fit(
        [good_image(i, (64, 80)) for i in range(4)]
    )
    assert isinstance(model, Ensemble)
    assert [member.inputs_.zoom for member in model.members] == [1, 1.5, 2.5]
    expected = model.predict(SEEN)
    model.save(tmp_path / "new.patchbank")
    assert patchbank.load(tmp_path / "new.patchbank", threads=1).predict(SEEN) == expected
    file = read(tmp_path / "new.patchbank")
    members = [{k: v for k, v in member.items() if k != "zoom"} for member in file.document["memory"]["members"]]
    old = {**file.document, "format_version": 5, "memory": {**file.document["memory"], "members": members}}
    write(tmp_path / "old.patchbank", old, file.tensors)
    again = patchbank.load(tmp_path / "old.patchbank", threads=1)
    assert isinstance(again, Ensemble)
    assert [member.inputs_.zoom for member in again.members] == [1, 1.5, 2.5]
    assert again.predict(SEEN) == expected
    write(tmp_path / "older.patchbank", {**old, "format_version": 4}, file.tensors)
    older = patchbank.load(tmp_path / "older.patchbank", threads=1)
    assert [member.inputs_.zoom for member in older.parts()] == [1, 1, 1]  # nothing was enlarged then
