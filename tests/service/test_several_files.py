"""Samples of picture and geometry through the API: together in, together kept, shown in both views."""

from __future__ import annotations

import base64
import io
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from patchbank.loading import load
from patchbank.service.history import History
from patchbank.service.records import SCHEMA_VERSION
from tests.service.conftest import GOOD, PNG, URL, Start
from tests.service.solid import SIZE, encoded, fit, part
from tests.service.test_history import record

Files = list[tuple[str, tuple[str, bytes]]]


@pytest.fixture(scope="module")
def solid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solid")
    fit(folder / "parts").save(folder / "parts.patchbank")
    return folder / "parts.patchbank"


@pytest.fixture(scope="module")
def shape_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of geometry alone."""
    folder = tmp_path_factory.mktemp("shape")
    fit(folder / "parts", channels=("curvature",)).save(folder / "parts.patchbank")
    return folder / "parts.patchbank"


@pytest.fixture
def solid(start: Start, solid_file: Path, tmp_path: Path) -> TestClient:
    return start(models=(Path(shutil.copy(solid_file, tmp_path / "parts.patchbank")),))


def as_files(files: dict[str, bytes], name: str = "a") -> Files:
    endings = {"rgb": "png", "xyz": "tiff"}
    return [(channel, (f"{name}.{endings.get(channel, 'bin')}", data)) for channel, data in files.items()]


def inspect(client: TestClient, files: Files, **query: Any) -> dict[str, Any]:
    answer = client.post(URL, files=files, params=query)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return dict(result)


def test_a_part_of_two_files(solid: TestClient, solid_file: Path, tmp_path: Path) -> None:
    (model,) = solid.get("/v1/models").json()["models"]
    assert model["channels"] == ["rgb", "curvature", "normals", "holes"]
    assert model["needs"] == ["rgb", "xyz"]
    files = part(20, bad=True)
    result = inspect(solid, as_files(files), overlay=True)
    direct = load(solid_file, weights="random", threads=1).predict(files)
    assert result["score"] == pytest.approx(direct.score, rel=1e-4)
    assert result["channels"] == pytest.approx(direct.channels, rel=1e-3)
    assert list(result["channels"]) == ["rgb", "curvature", "normals", "holes"]
    assert result["name"] == "a.png"
    assert max(result["channels"], key=result["channels"].get) != "rgb"  # only the shape is wrong
    assert result["overlay"].startswith("data:image/png;base64,")
    item = solid.get("/v1/history/1").json()
    assert item["channels"] == result["channels"]
    assert item["image_kept"]
    assert item["geometry_kept"]
    kept = tmp_path / "history.sqlite.images"
    assert (kept / "1.image").read_bytes() == files["rgb"]
    assert (kept / "1.geometry").read_bytes() == files["xyz"]
    for what in ("image", "relief", "overlay", "heat"):
        answer = solid.get(f"/v1/history/1/{what}")
        assert answer.status_code == 200, answer.text
        size = Image.open(io.BytesIO(answer.content)).size
        assert what in ("overlay", "heat") or size == (SIZE, SIZE)
    assert solid.get("/page/small/1").status_code == 200
    explained = solid.get("/v1/history/1/explain")
    assert explained.status_code == 200, explained.text
    explanation = explained.json()["explanation"]
    assert explanation["channels"] == pytest.approx(result["channels"], rel=1e-3)
    assert explanation["places"][0]["channel"] in result["channels"]
    places = solid.get("/v1/history/1/explain?whole=false").json()["picture"]
    width, height = Image.open(io.BytesIO(base64.b64decode(places.partition(",")[2]))).size
    assert height > len(explanation["places"]) * width / 4  # two lines of six crops for each place


def test_heights_are_those_of_the_file(solid: TestClient) -> None:
    inspect(solid, as_files(part(21)))
    inspect(solid, as_files(part(21, bad=True)))
    grids = []
    for id in (1, 2):
        given = solid.get(f"/v1/history/{id}/heights").json()
        assert (given["rows"], given["columns"], given["is_background"]) == (SIZE, SIZE, True)
        numbers = np.frombuffer(base64.b64decode(given["data"]), "<u2").reshape(SIZE, SIZE)
        grid = given["lowest_mm"] + (numbers - 1.0) * given["step_mm"]
        grids.append(np.where(numbers == 0, np.nan, grid))
    good, bad = grids
    assert np.isnan(good).any()  # points are missing beside steep edges
    assert abs(np.nanmedian(good[:4])) < 0.5  # the background
    # the hill is 4 % of the way to the camera
    middle = np.s_[SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4]
    away = np.nanmean((bad - good)[middle])
    assert 15 < away < 40


@pytest.mark.parametrize("word", ["xyz", "z", "depth", "height", "points", "cloud", "pcd", "ply", "range"])
def test_other_words_for_geometry(solid: TestClient, word: str) -> None:
    files = part(22)
    assert inspect(solid, as_files({"rgb": files["rgb"], word: files["xyz"]}))["channels"]


def test_arrays_as_npy_bytes(solid: TestClient) -> None:
    files, buffer = part(23), io.BytesIO()
    xyz = np.asarray(Image.new("F", (SIZE, SIZE), 0.5))
    np.save(buffer, xyz + np.linspace(0, 0.01, SIZE, dtype=np.float32))
    assert inspect(solid, as_files({"rgb": files["rgb"], "depth": buffer.getvalue()}))["channels"]


def test_several_samples_in_any_order(solid: TestClient) -> None:
    a, b = part(24), part(25, bad=True)
    alone = [inspect(solid, as_files(files))["score"] for files in (a, b)]
    beside = [*as_files(a, "a"), *as_files(b, "b")]
    in_rows = [*beside[::2], *beside[1::2]]
    for files in (beside, in_rows):
        results = solid.post(URL, files=files).json()["results"]
        assert [result["name"] for result in results] == ["a.png", "b.png"]
        assert [result["score"] for result in results] == pytest.approx(alone, rel=1e-4)


def test_one_bad_sample_does_not_stop_the_others(solid: TestClient) -> None:
    a, b = part(26), part(27)
    answer = solid.post(URL, files=[*as_files(a, "a"), *as_files({**b, "xyz": b["xyz"][:900]}, "b")])
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert first["id"] == 1
    assert second["name"] == "b.png"
    assert second["error"].startswith("xyz: ")


def small(files: dict[str, bytes]) -> bytes:
    return encoded(".tiff", np.full((48, 48), 0.5, np.float32))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: {"rgb": f["rgb"]}, "xyz is missing: send a file for each of rgb and xyz"),
        (lambda f: {"xyz": f["xyz"]}, "rgb is missing"),
        (lambda f: {**f, "thermal": f["rgb"]}, "'thermal' is no channel of this model"),
        (lambda f: {**f, "images": f["rgb"]}, "2 of rgb and 1 of xyz"),
        (lambda f: {**f, "xyz": small(f)}, "rgb has 96×96 pixels and xyz 48×48"),
        (lambda f: {**f, "xyz": f["rgb"]}, "xyz: has three channels of uint8, as a picture"),
        (lambda f: {**f, "xyz": b"GET / HTTP/1.1"}, "xyz: "),
        (lambda f: {**f, "xyz": b""}, "xyz: "),
        (lambda f: {**f, "rgb": b"no picture"}, "rgb: "),
        (lambda f: {"rgb": f["xyz"], "xyz": f["rgb"]}, ""),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(solid: TestClient, change: Any, sentence: str) -> None:
    answer = solid.post(URL, files=as_files(change(part(28))))
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]
    assert solid.get("/v1/history").json()["items"] == []
    assert inspect(solid, as_files(part(28)))["id"] == 1


def test_a_body_alone_is_refused(solid: TestClient) -> None:
    answer = solid.post(URL, content=part(28)["rgb"], headers=PNG)
    assert answer.status_code == 422
    assert "send a file for each of rgb and xyz, such as rgb=@FILE xyz=@FILE" in answer.json()["detail"]


def test_the_limits_hold_for_all_files_together(start: Start, solid_file: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(solid_file, tmp_path / "parts.patchbank"))
    files = part(29)
    both = sum(map(len, files.values()))
    one = start(models=(file,), max_upload=both - 1)
    assert one.post(URL, files=as_files(files)).status_code == 413
    two = start(models=(file,), history=tmp_path / "b.sqlite", max_pixels=SIZE * SIZE - 1)
    answer = two.post(
        URL, files=as_files({"rgb": encoded(".png", np.zeros((64, 64, 3), np.uint8)), "xyz": files["xyz"]})
    )
    assert answer.status_code == 413
    assert "xyz: has 96×96 pixels, more than the" in answer.json()["detail"]
    three = start(models=(file,), history=tmp_path / "c.sqlite", keep_images=both)  # the map does not fit any more
    inspect(three, as_files(files))
    item = three.get("/v1/history/1").json()
    assert not item["image_kept"]
    assert not item["geometry_kept"]
    assert not list((tmp_path / "c.sqlite.images").iterdir())
    assert three.get("/v1/history/1/heights").status_code == 404


def test_geometry_alone(start: Start, shape_file: Path, tmp_path: Path) -> None:
    one = start(models=(Path(shutil.copy(shape_file, tmp_path / "parts.patchbank")),))
    files = part(30)
    assert one.get("/v1/models").json()["models"][0]["needs"] == ["xyz"]
    raw = one.post(URL, content=files["xyz"], headers={"content-type": "image/tiff"})
    named = one.post(URL, files=[("depth", ("a.tiff", files["xyz"])), ("images", ("b.tiff", files["xyz"]))])
    scores = [result["score"] for answer in (raw, named) for result in answer.json()["results"]]
    assert len(scores) == 3
    assert scores == pytest.approx([scores[0]] * 3)
    for what in ("image", "relief", "overlay", "heights", "heat", "explain"):
        assert one.get(f"/v1/history/1/{what}").status_code == 200, what
    assert one.get("/page/small/1").status_code == 200
    refused = one.post(URL, files=as_files(files))
    assert refused.status_code == 422
    assert refused.json()["detail"] == "this model looks at xyz alone: leave out rgb"


def test_a_model_of_pictures_alone_takes_no_geometry(client: TestClient) -> None:
    answer = client.post(URL, files=[("rgb", ("a.png", GOOD)), ("xyz", ("a.tiff", b""))])
    assert (answer.status_code, answer.json()["detail"]) == (422, "this model looks at rgb alone: leave out xyz")
    result = client.post(URL, files=[("whatever", ("a.png", GOOD))]).json()["results"][0]
    assert result["channels"] == {}
    assert not client.get("/v1/history/1").json()["geometry_kept"]
    for what in ("relief", "heights"):
        answer = client.get(f"/v1/history/1/{what}")
        assert answer.status_code == 404
        assert "has a picture alone" in answer.json()["detail"]


def test_an_overruled_part_is_taught_with_both_files(solid: TestClient) -> None:
    files = as_files(part(31, bad=True))
    result = inspect(solid, files, threshold=-10)
    solid.post(f"/v1/history/{result['id']}/verdict", json={"verdict": "overruled"})
    (proposed,) = solid.get("/v1/models/parts/feedback").json()["items"]
    assert proposed["geometry_kept"]
    taught = solid.post("/v1/models/parts/feedback", json={"ids": [result["id"]]})
    assert taught.status_code == 200, taught.text
    assert taught.json()["added"] == [result["id"]]
    assert inspect(solid, files)["score"] < result["score"]


def test_a_history_of_before_is_taken_on(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    old = History(path, 10**6)
    old.record([record()])
    old.close()
    with sqlite3.connect(path) as db:  # as schema 1 was
        db.execute("ALTER TABLE inspections DROP COLUMN channels")
        db.execute("ALTER TABLE inspections DROP COLUMN geometry")
        db.execute("PRAGMA user_version=1")
    new = History(path, 10**6)
    new.record([record(channels={"rgb": 1.5}, geometry=b"123")])
    first, second = new.get(1), new.get(2)
    assert first is not None
    assert second is not None
    assert (first["channels"], first["geometry"]) == ("{}", 0)
    assert (second["channels"], second["geometry"], second["kept"]) == ('{"rgb": 1.5}', 3, 11)
    assert new.kept_geometry(2) == b"123"
    ((version,),) = new._writer.execute("PRAGMA user_version")
    assert version == SCHEMA_VERSION
    new.close()
