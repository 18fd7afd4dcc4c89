"""The queue: batches, limits of room and time, reloads under load, and an end that loses nothing."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import patchbank
from patchbank import PatchCore
from patchbank.service.context import Service
from patchbank.service.records import Record
from patchbank.service.uploads import Upload
from tests.conftest import good_image
from tests.service.conftest import BAD, GOOD, PNG, URL, Start, inspect


def service(client: TestClient) -> Service:
    return client.app.state.service  # type: ignore[attr-defined, no-any-return]


class Held:
    """The thread that uses the models, kept busy until the block ends."""

    def __init__(self, client: TestClient):
        self.inspector = service(client).inspector
        self.until, self.busy = threading.Event(), threading.Event()
        self.future: Future[bool] | None = None

    def _work(self) -> bool:
        self.busy.set()
        return self.until.wait(30)

    def __enter__(self) -> Held:
        self.future = self.inspector.run(self._work)
        assert self.busy.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.until.set()
        assert self.future is not None
        self.future.result(30)


def wait_for(what: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def post(client: TestClient, data: bytes = BAD, **more: Any) -> Any:
    return client.post(URL, content=data, headers=PNG, **more)


def test_requests_that_wait_are_one_batch_and_each_gets_its_own_answer(start: Start) -> None:
    one = start(batch=8)
    scores = {data: inspect(one, data)["score"] for data in (GOOD, BAD)}
    with ThreadPoolExecutor(6) as pool:
        with Held(one):
            answers = [(data, pool.submit(post, one, data)) for data in (GOOD, BAD, GOOD, b"no image", BAD, GOOD)]
            wait_for(lambda: service(one).inspector._waiting.qsize() == 5)  # slots are taken before that
        for data, answer in answers:
            if data == b"no image":
                assert answer.result().status_code == 422
            else:
                assert answer.result().json()["results"][0]["score"] == pytest.approx(scores[data], rel=1e-5)
    text = one.get("/metrics").text
    assert 'patchbank_batch_images_count{kind="inspection"} 3.0' in text  # two at first, and the five together
    assert len(one.get("/v1/history").json()["items"]) == 7
    assert service(one).inspector.slots.taken == 0


def test_a_full_queue_is_429_with_retry_after(start: Start) -> None:
    one = start(queue=2)
    inspect(one)
    with ThreadPoolExecutor(2) as pool:
        with Held(one):
            waiting = [pool.submit(post, one) for _ in range(2)]
            wait_for(lambda: service(one).inspector.slots.taken == 2)
            refused = post(one)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert one.get("/v1/history/1/explain").status_code == 429
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    assert post(one).status_code == 200
    two, three = ([("images", ("x.png", GOOD))] * n for n in (2, 3))
    assert one.post(URL, files=two).status_code == 200
    assert one.post(URL, files=three).status_code == 400
    assert service(one).inspector.slots.taken == 0


def test_room_for_one_is_no_room_for_two(start: Start) -> None:
    one = start(queue=2)
    with ThreadPoolExecutor(1) as pool:
        with Held(one):
            waiting = pool.submit(post, one)
            wait_for(lambda: service(one).inspector.slots.taken == 1)
            assert one.post(URL, files=[("images", ("x.png", GOOD))] * 2).status_code == 429
        assert waiting.result().status_code == 200
    assert service(one).inspector.slots.taken == 0


def test_a_request_ends_in_time_and_its_image_is_not_inspected(start: Start) -> None:
    one = start(time_limit=0.3)
    inspect(one)
    with Held(one):
        late = post(one)
        assert late.status_code == 503
        assert int(late.headers["retry-after"]) >= 1
        assert "0.3 seconds" in late.json()["detail"]
        assert one.get("/v1/history/1/explain").status_code == 503
    wait_for(lambda: service(one).inspector.slots.taken == 0)
    assert inspect(one)["id"] == 2


def test_what_was_done_in_time_is_answered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start(time_limit=1.0)
    inspector, until = service(one).inspector, threading.Event()
    submit = inspector.submit

    def held_up(model: str, upload: Upload, threshold: float | None) -> Future[Record]:
        if upload.name == "late.png":
            inspector.run(until.wait)
        return submit(model, upload, threshold)

    monkeypatch.setattr(inspector, "submit", held_up)
    files = [("images", (name, data)) for name, data in (("a.png", BAD), ("b.png", b"no image"), ("late.png", GOOD))]
    answer = one.post(URL, files=files, params={"overlay": True})
    assert answer.status_code == 200
    done, broken, late = answer.json()["results"]
    assert (done["id"], done["name"], done["overlay"][:10]) == (1, "a.png", "data:image")
    assert "not an image" in broken["error"]
    assert "unfinished" not in broken
    assert (late["name"], late["unfinished"]) == ("late.png", True)
    assert "1 seconds" in late["error"]
    none = one.post(URL, files=files[1:])
    assert none.status_code == 503
    assert int(none.headers["retry-after"]) >= 1
    until.set()
    wait_for(lambda: inspector.slots.taken == 0)
    assert [item["name"] for item in one.get("/v1/history").json()["items"]] == ["a.png"]


def test_what_cannot_be_recorded_is_not_answered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start()
    history = service(one).history

    def full(statements: object) -> None:
        history.broken = "database or disk is full"
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(history, "_transact", full)
        answer = post(one)
        assert answer.status_code == 503
        assert "disk is full" in answer.json()["detail"]
        assert one.get("/readyz").status_code == 503
    assert one.get("/readyz").status_code == 200  # it tried again
    assert not list(history.folder.iterdir())
    assert inspect(one)["id"] == 1


def test_a_failure_inside_is_500_and_the_next_request_is_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start()
    detector = service(one).models.get("parts").detector  # type: ignore[union-attr]
    with monkeypatch.context() as patched:
        patched.setattr(detector, "_predict", lambda *_: 1 / 0)
        answer = post(one)
        assert answer.status_code == 500
        assert "division" not in answer.text
    assert inspect(one)["id"] == 1
    assert service(one).inspector.slots.taken == 0


def test_a_replaced_model_is_loaded_without_a_request_dropped(start: Start, tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "other.patchbank"
    images = [good_image(i, (64, 64)) for i in range(12)]
    PatchCore(weights="random", image_size=64, bank_size=40, threads=1, false_alarm_rate=0.1).fit(images).save(other)
    one = start()
    first = inspect(one)
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(post(one))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            wait_for(lambda: len(answers) > 5)
            tiny.write_bytes(other.read_bytes()[:3000])  # a copy that is under way
            wait_for(lambda: "failed" in one.get("/metrics").text)
            partly = [a.json()["results"][0]["version"] for a in answers if a.status_code == 200]
            assert set(partly) == {first["version"]}
            shutil.copy(other, tiny)
            wait_for(lambda: answers[-1].json()["results"][0]["version"] != first["version"])
        finally:
            stop.set()
        for done in asking:
            done.result()
    assert {answer.status_code for answer in answers} == {200}
    expected = patchbank.load(other, threads=1).calibration_.threshold
    assert one.get("/v1/models").json()["models"][0]["threshold"] == pytest.approx(expected)
    assert one.get("/v1/models").json()["models"][0]["images"] == 12


def test_the_end_answers_what_was_accepted(start: Start, tmp_path: Path) -> None:
    one = start()
    inspector, slots = service(one).inspector, service(one).inspector.slots
    held = Held(one)
    with ThreadPoolExecutor(4) as pool:
        held.__enter__()
        waiting = [pool.submit(post, one) for _ in range(4)]
        wait_for(lambda: slots.taken == 4)
        ending = threading.Thread(target=inspector.stop)
        ending.start()
        held.__exit__()
        ids = sorted(answer.result().json()["results"][0]["id"] for answer in waiting)
        ending.join(20)
    assert ids == [1, 2, 3, 4]
    assert one.get("/readyz").status_code == 503
    inspector.start()  # for the client's own end
