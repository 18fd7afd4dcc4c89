"""One service on a shared history, in this process: the API, models that are made there, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from patchbank._system.files import file_digest
from patchbank.service import fitting
from patchbank.service.folders import model_path
from patchbank.service.registry import model_of
from tests.service.conftest import BAD, PNG, URL, Start, inspect
from tests.service.stations.conftest import Open
from tests.service.stations.server import Proxy, Server
from tests.service.stations.test_shared_history import FULL


@pytest.fixture
def station(database: str, proxy: Proxy, server: Server, start: Start, tiny: Path, tmp_path: Path) -> TestClient:
    """A service with a registry of one model, which reaches the database through the proxy. `start` comes after the
    database, so the service ends before that is emptied."""
    model_of(tmp_path / "models", "parts").add(tiny)
    address, models = server.address(database, proxy.port), tmp_path / "models"
    return start(models=(), models_dir=models, history=address, images=tmp_path / "images")


def test_the_api_is_the_same(station: TestClient) -> None:
    result = inspect(station, overlay=True)
    number = result["id"]
    item = station.get(f"/v1/history/{number}").json()
    assert {key: item[key] for key in ("score", "p_value", "threshold", "regions", "size", "timings")} == {
        key: result[key] for key in ("score", "p_value", "threshold", "regions", "size", "timings")
    }
    assert (item["image_kept"], item["geometry_kept"], item["is_anomalous"]) == (True, False, True)
    for part in ("image", "heat", "overlay"):
        assert station.get(f"/v1/history/{number}/{part}").headers["content-type"].startswith("image/")
    assert station.get(f"/page/small/{number}").status_code == 200
    assert station.get(f"/v1/history/{number}/explain").json()["picture"].startswith("data:image/png")
    drift = station.get("/v1/models/parts/drift").json()
    assert (drift["last"]["count"], drift["days"][0]["rejected"]) == (1, 1)
    assert station.get("/v1/history/999").status_code == 404
    assert station.get("/v1/history", params={"model": "\0"}).json()["items"] == []


def test_it_learns_into_the_registry_while_no_other_station_does(
    station: TestClient, shared: Open, tmp_path: Path
) -> None:
    number = inspect(station)["id"]
    station.post(f"/v1/history/{number}/verdict", json={"verdict": "overruled"})
    model = model_of(tmp_path / "models", "parts")
    before = model.state().current
    with shared().turn("parts"):
        refused = station.post("/v1/models/parts/feedback", json={"ids": [number]})
        assert (refused.status_code, "another station" in refused.json()["detail"]) == (503, True)
        assert int(refused.headers["retry-after"]) >= 1
    learned = station.post("/v1/models/parts/feedback", json={"ids": [number]}).json()
    state = model.state()
    assert learned["model"]["version"] == state.current != before
    assert learned["backup"] == f"{before}.patchbank"
    assert state.changes[-1].action == "learn"
    assert station.get("/v1/models/parts/feedback").json()["items"] == []
    assert not list(model.folder.glob(".learn-*"))


def test_a_new_model_goes_into_the_registry(station: TestClient, tiny: Path, tmp_path: Path) -> None:
    service = station.app.state.service  # type: ignore[attr-defined]
    made = Path(shutil.copy(tiny, tmp_path / "made.patchbank"))
    fitting._deliver(service, made, model_path(service.config, "gears"))
    assert service.models.get("gears").version == file_digest(made)[:12]
    assert model_of(tmp_path / "models", "gears").state().current == service.models.get("gears").version
    assert not (tmp_path / "models" / "gears.patchbank").exists()


def test_a_full_disk_is_503_and_passes(station: TestClient, server: Server, database: str, tmp_path: Path) -> None:
    server.execute(database, FULL)
    answer = station.post(URL, content=BAD, headers=PNG)
    assert answer.status_code == 503
    assert "No space left on device" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    assert not [file for file in (tmp_path / "images").rglob("*") if file.is_file()]
    server.execute(database, "DROP TRIGGER full_disk ON inspections")
    assert station.get("/readyz").status_code == 200  # it tried again
    assert inspect(station)["id"] > 0


def test_while_the_database_is_away_everything_is_503(station: TestClient, proxy: Proxy) -> None:
    number = inspect(station)["id"]
    proxy.set("cut")
    first = station.post(URL, content=BAD, headers=PNG)
    at_once = station.post(URL, content=BAD, headers=PNG)
    others = [
        station.get("/v1/history"), station.get(f"/v1/history/{number}"), station.get("/v1/models/parts/drift"),
        station.get(f"/v1/history/{number}/image"),
        station.post(f"/v1/history/{number}/verdict", json={"verdict": "confirmed"}),
        station.post("/v1/models/parts/feedback", json={"ids": [number]}),
    ]  # fmt: skip
    for answer in (first, at_once, *others):
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert "history" in answer.json()["detail"]
    assert station.get("/readyz").status_code == 503
    assert station.get("/healthz").status_code == station.get("/v1/models").status_code == 200
    proxy.set("pass")
    assert station.get("/readyz").status_code == 200
    assert inspect(station)["id"] > number
