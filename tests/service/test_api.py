"""The API as a client sees it: inspections, the history, verdicts, and models that learn from false alarms."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import patchbank
from patchbank.pictures.drawing import overlay
from tests.conftest import bad_image, good_image
from tests.service.conftest import BAD, GOOD, PNG, URL, Start, inspect, png


def test_an_inspection_says_what_the_library_says(client: TestClient, tiny: Path) -> None:
    result = inspect(client)
    expected = patchbank.load(tiny, threads=1).predict(np.asarray(Image.open(io.BytesIO(BAD))))
    assert result["score"] == pytest.approx(expected.score, rel=1e-6)
    assert result["is_anomalous"] is True
    assert result["p_value"] == expected.p_value
    assert result["threshold"] == pytest.approx(expected.threshold)
    assert [tuple(r["box"]) for r in result["regions"]] == [r.box for r in expected.regions]
    assert result["size"] == [96, 96]
    assert result["model"] == "parts"
    assert {"queue_ms", "decode_ms", "network_ms", "score_ms"} <= set(result["timings"])


def test_several_images_and_a_broken_one(client: TestClient) -> None:
    files = [("images", ("a/../b.png", GOOD, "image/png")), ("images", ("c.txt", b"text")), ("images", ("d.png", BAD))]
    answer = client.post(URL, files=files)
    assert answer.status_code == 200
    good, broken, bad = answer.json()["results"]
    assert (good["name"], bad["name"]) == ("b.png", "d.png")
    assert broken == {"name": "c.txt", "error": broken["error"]}
    assert "not an image" in broken["error"]
    assert bad["score"] > good["score"]
    assert bad["id"] == good["id"] + 1


def test_another_threshold_and_the_overlay(client: TestClient, tiny: Path) -> None:
    result = inspect(client, BAD, threshold=1e9, overlay=True)
    assert result["is_anomalous"] is False
    assert result["threshold"] == 1e9
    assert result["regions"] == []
    head, _, data = result["overlay"].partition(",")
    assert head == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    rgb = np.asarray(Image.open(io.BytesIO(BAD)))
    prediction = patchbank.load(tiny, threads=1).predict(rgb).at_threshold(1e9)
    expected = overlay(rgb, prediction)
    assert picture.shape == expected.shape
    assert np.abs(picture[120:] - expected[120:].astype(int)).max() <= 3  # but for the name above
    assert inspect(client)["overlay"] is None


def test_the_history_is_filtered_and_paged(client: TestClient) -> None:
    for data in (GOOD, BAD, GOOD, BAD, BAD):
        inspect(client, data)

    def ids(**query: object) -> list[int]:
        answer = client.get("/v1/history", params=query)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert ids() == [5, 4, 3, 2, 1]
    assert ids(anomalous=True) == [5, 4, 2]
    assert ids(model="other") == []
    assert ids(after=2) == [5, 4, 3]
    assert ids(after=2, limit=2) == [4, 3]
    assert ids(after=5) == []
    first = client.get("/v1/history", params={"limit": 3}).json()
    assert [item["id"] for item in first["items"]] == [5, 4, 3]
    rest = client.get("/v1/history", params={"limit": 3, "before": first["next"]}).json()
    assert [item["id"] for item in rest["items"]] == [2, 1]
    assert rest["next"] is None
    client.post("/v1/history/4/verdict", json={"verdict": "confirmed"})
    assert ids(verdict="confirmed") == [4]
    assert ids(verdict="none") == [5, 3, 2, 1]


def test_a_verdict_can_be_changed_and_taken_back(client: TestClient) -> None:
    inspect(client)
    item = client.post("/v1/history/1/verdict", json={"verdict": "overruled", "note": "dust"}).json()
    assert (item["verdict"], item["note"]) == ("overruled", "dust")
    assert item["decided_at"]
    assert client.get("/v1/history/1").json() == item
    item = client.post("/v1/history/1/verdict", json={"verdict": None}).json()
    assert (item["verdict"], item["note"], item["decided_at"]) == (None, "", None)
    assert client.post("/v1/history/2/verdict", json={"verdict": None}).status_code == 404
    assert client.post("/v1/history/1/verdict", json={"verdict": "maybe"}).status_code == 422


def test_the_pictures_of_an_inspection(client: TestClient) -> None:
    inspect(client)
    shown = client.get("/v1/history/1/image")
    assert shown.headers["content-type"] == "image/jpeg"
    image = np.asarray(Image.open(io.BytesIO(shown.content)))
    assert np.abs(image.astype(int) - np.asarray(Image.open(io.BytesIO(BAD)))).mean() < 4
    heat = Image.open(io.BytesIO(client.get("/v1/history/1/heat").content))
    assert (heat.mode, heat.size) == ("RGBA", (96, 96))
    assert Image.open(io.BytesIO(client.get("/v1/history/1/overlay").content)).width > 900
    explained = client.get("/v1/history/1/explain").json()
    assert explained["explanation"]["places"][0]["neighbours"]
    assert explained["picture"].startswith("data:image/png;base64,")


def test_images_are_kept_up_to_a_size_and_the_oldest_go(start: Start, tmp_path: Path) -> None:
    one = start(keep_images=40_000)
    for _ in range(6):
        inspect(one, png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)))  # about 12 kB each
    kept = [item["image_kept"] for item in one.get("/v1/history").json()["items"]]
    assert kept == sorted(kept, reverse=True)
    assert 0 < sum(kept) < 6
    files = list((tmp_path / "history.sqlite.images").iterdir())
    assert len(files) == 2 * sum(kept)
    assert sum(file.stat().st_size for file in files) <= 40_000
    assert one.get("/v1/history/1/image").status_code == 404


def test_nothing_is_kept_where_nothing_may_be(start: Start, tmp_path: Path) -> None:
    inspect(start(keep_images=0))
    assert not list((tmp_path / "history.sqlite.images").iterdir())


def test_a_model_learns_from_a_false_alarm(client: TestClient, tiny: Path) -> None:
    before = tiny.read_bytes()
    inspect(client)
    assert client.get("/v1/models/parts/feedback").json() == {"items": []}
    client.post("/v1/history/1/verdict", json={"verdict": "overruled"})
    (item,) = client.get("/v1/models/parts/feedback").json()["items"]
    assert item["id"] == 1
    answer = client.post("/v1/models/parts/feedback", json={"ids": [1]})
    assert answer.status_code == 200, answer.text
    added = answer.json()
    assert added["added"] == [1]
    assert added["entry"]["what"] == "added"
    assert added["model"]["images"] == 9
    assert (tiny.parent / added["backup"]).read_bytes() == before
    assert added["threshold"] == pytest.approx(patchbank.load(tiny, threads=1).calibration_.threshold)
    again = inspect(client)
    assert again["is_anomalous"] is False
    assert again["version"] == added["model"]["version"]
    assert client.get("/v1/models/parts/feedback").json() == {"items": []}
    assert client.get("/v1/history/1").json()["added_at"]
    assert client.post("/v1/models/parts/feedback", json={"ids": [1]}).status_code == 409


def test_the_same_id_of_another_history_is_another_image(tiny: Path, start: Start) -> None:
    """But what the model knows already, because the service was killed on its way, or because another service taught
    the same picture, is no new one."""
    learned, other = BAD, png(bad_image(52, (96, 96)))
    detector = patchbank.load(tiny, threads=1)
    image = Image.open(io.BytesIO(learned))
    image.filename = f"inspection-1-{hashlib.sha256(learned).hexdigest()[:12]}"  # type: ignore[attr-defined]
    detector.add([image])
    detector.save(tiny)
    one = start(history=tiny.parent / "another.sqlite")
    for data in (learned, other):
        inspect(one, data, threshold=0)
    elsewhere = start(history=tiny.parent / "a third.sqlite")
    inspect(elsewhere, other, threshold=0)
    for service, ids, added in ((elsewhere, [1], [1]), (one, [1, 2], [])):
        for id in ids:
            service.post(f"/v1/history/{id}/verdict", json={"verdict": "overruled"})
        answer = service.post("/v1/models/parts/feedback", json={"ids": ids})
        assert answer.status_code == 200, answer.text
        assert answer.json()["added"] == added
        assert service.get("/v1/models/parts/feedback").json() == {"items": []}
    assert patchbank.load(tiny, threads=1).training_["images"] == 10


def test_what_was_kept_in_part_is_404(client: TestClient, tiny: Path, tmp_path: Path) -> None:
    """A power failure may leave that: images are not synced."""
    inspect(client)
    client.post("/v1/history/1/verdict", json={"verdict": "overruled"})
    folder, before = tmp_path / "history.sqlite.images", tiny.read_bytes()
    whole = (folder / "1.map.png").read_bytes()
    (folder / "1.map.png").write_bytes(whole[: len(whole) // 2])
    for path in ("heat", "overlay"):
        answer = client.get(f"/v1/history/1/{path}")
        assert answer.status_code == 404, answer.text
        assert "map is torn" in answer.json()["detail"]
    (folder / "1.map.png").write_bytes(whole)
    for torn in (BAD[:-300], bytes(len(BAD)), b""):
        (folder / "1.image").write_bytes(torn)
        for path in (*(f"/v1/history/1/{p}" for p in ("image", "overlay", "explain")), "/page/small/1"):
            answer = client.get(path)
            assert answer.status_code == 404, (path, answer.text)
            assert "cannot be read" in answer.json()["detail"]
        refused = client.post("/v1/models/parts/feedback", json={"ids": [1]})
        assert refused.status_code == 409
        assert refused.json()["detail"]
    assert tiny.read_bytes() == before


def test_a_disk_that_is_full_is_told(client: TestClient, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect(client)
    client.post("/v1/history/1/verdict", json={"verdict": "overruled"})

    def full(path: Path) -> Path:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("patchbank.service.models.keep_copy", full)
    answer = client.post("/v1/models/parts/feedback", json={"ids": [1]})
    assert answer.status_code == 409
    assert "No space left on device: 'parts.patchbank'" in answer.json()["detail"]
    assert client.get("/v1/models").json()["models"][0]["images"] == 8


def test_only_false_alarms_are_learned_from(client: TestClient, tiny: Path) -> None:
    inspect(client)
    before = tiny.read_bytes()
    for ids, status in (([1], 409), ([7], 404), ([], 422), ([-1], 422), ([2**70], 422)):
        answer = client.post("/v1/models/parts/feedback", json={"ids": ids})
        assert answer.status_code == status, answer.text
    client.post("/v1/history/1/verdict", json={"verdict": "confirmed"})
    assert client.post("/v1/models/parts/feedback", json={"ids": [1]}).status_code == 409
    assert tiny.read_bytes() == before


def test_a_method_without_a_bank_says_so(start: Start, tmp_path: Path) -> None:
    images = [good_image(i, (64, 64)) for i in range(8)]
    path = tmp_path / "flat.patchbank"
    patchbank.PaDiM(weights="random", image_size=64, threads=1).fit(images).save(path)
    one = start(models=(path,))
    assert one.post("/v1/models/flat/inspect", content=BAD, headers=PNG, params={"threshold": 0}).status_code == 200
    one.post("/v1/history/1/verdict", json={"verdict": "overruled"})
    answer = one.post("/v1/models/flat/feedback", json={"ids": [1]})
    assert answer.status_code == 409
    assert "no bank" in answer.json()["detail"]


def test_models_are_described(client: TestClient, tiny: Path) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    loaded = patchbank.load(tiny, threads=1)
    assert model["name"] == "parts"
    assert model["file"] == "parts.patchbank"
    assert model["images"] == 8
    assert model["threshold"] == pytest.approx(loaded.calibration_.threshold)
    assert model["calibration_scores"] == pytest.approx(loaded.calibration_.scores.tolist(), rel=1e-5)
    assert client.post("/v1/models/other/inspect", content=BAD, headers=PNG).status_code == 404


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    inspect(client)
    client.post(URL, content=b"no image", headers=PNG)
    client.get("/v1/history/1")
    client.get("/made/up")
    text = client.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["patchbank_inspections_total", "parts", "rejected"] == 1
    assert found["patchbank_requests_total", "/v1/models/{name}/inspect", "200", "POST"] == 1
    assert found["patchbank_requests_total", "/v1/models/{name}/inspect", "422", "POST"] == 1
    assert found["patchbank_requests_total", "/v1/history/{id}", "200", "GET"] == 1
    assert found["patchbank_requests_total", "404", "GET", "other"] == 1
    assert found["patchbank_pending_images",] == 0
    assert found["patchbank_stage_seconds_count", "network"] == 1


def test_sixteen_bits_and_grey(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.fromarray(bad_image(1, (64, 100))[:, :, 0].astype(np.uint16) * 257).save(buffer, format="PNG")
    assert inspect(client, buffer.getvalue())["size"] == [64, 100]


def test_the_former_name_of_feedback_still_answers(client: TestClient) -> None:
    """Until 0.3; it is not in the schema."""
    assert client.get("/v1/models/parts/proposal").json() == client.get("/v1/models/parts/feedback").json()
    answers = [client.post(f"/v1/models/parts/{name}", json={"ids": [7]}) for name in ("proposal", "feedback")]
    assert answers[0].status_code == 404
    assert answers[0].json() == answers[1].json()
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "proposal" in path]
