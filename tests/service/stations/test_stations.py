"""Two services on one history under load: what is killed, cut off or full loses nothing that was answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import patchbank
from patchbank.io.model_file import read
from patchbank.service.registry import VersionedModel
from tests.service.conftest import BAD, PNG, URL
from tests.service.stations.server import Proxy, Server
from tests.service.stations.test_shared_history import FULL
from tests.service.test_serving import Served

pytestmark = pytest.mark.slow
CLIENTS = 8  # of each service
_SECONDS = 40.0  # that anything may take
_PAUSE = 0.1  # seconds between an answer and the next image of a client


class Line:
    """A database, a folder of images, a registry with two versions of one model, and two stations: the second one
    reaches the database through a proxy."""

    def __init__(self, server: Server, folder: Path, tiny: Path):
        self.server, self.folder, self.database = server, folder, "stations"
        server.create(self.database)
        self.proxy = Proxy(server.port)
        self.model = VersionedModel(folder / "models" / "parts")
        other = patchbank.load(tiny, threads=1)
        other.calibration_ = other.calibration_.at_rate(0.5)
        other.save(folder / "other.patchbank")
        self.versions = [self.model.add(folder / "other.patchbank"), self.model.add(tiny)]
        with ThreadPoolExecutor(2) as pool:
            self.stations = list(pool.map(self.station, range(2)))

    def station(self, number: int) -> Served:
        port = self.proxy.port if number else None
        history = self.server.address(self.database, port)
        images, models = self.folder / "images", self.folder / "models"
        return Served("--models-dir", models, "--history", history, "--images", images, "--queue", 32)

    def recorded(self) -> dict[int, float]:
        return dict(self.server.execute(self.database, "SELECT id, score FROM inspections"))

    def close(self) -> None:
        for one in self.stations:
            one.process.kill()
            one.process.wait(10)
        self.proxy.close()


@pytest.fixture
def line(server: Server, tiny_file: Path, tmp_path: Path) -> Iterator[Line]:
    one = Line(server, tmp_path, tiny_file)
    yield one
    one.close()


class Load:
    """Clients that each send their next image when the last one was answered, until the block ends."""

    def __init__(self, line: Line):
        self.line = line
        self.answered: dict[int, float] = {}
        self.versions: set[str] = set()
        self.by_station: Counter[int] = Counter()
        self.refused: list[tuple[int, httpx.Response]] = []
        self.dropped: Counter[int] = Counter()  # connections, by station
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2 * CLIENTS)

    def __enter__(self) -> Load:
        self._asking = [self._pool.submit(self._ask, i % 2) for i in range(2 * CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for done in self._asking:
            done.result(_SECONDS)
        self._pool.shutdown()

    def _ask(self, station: int) -> None:
        address = self.line.stations[station].address
        with httpx.Client(base_url=address, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(URL, content=BAD, headers=PNG)
                except httpx.HTTPError:
                    self.dropped[station] += 1
                    time.sleep(_PAUSE)
                    continue
                if answer.status_code != 200:
                    self.refused.append((station, answer))
                    time.sleep(_PAUSE)
                    continue
                (result,) = answer.json()["results"]
                self.answered[result["id"]] = result["score"]
                self.versions.add(result["version"])
                self.by_station[station] += 1
                time.sleep(_PAUSE)

    def more(self, count: int, *stations: int) -> None:
        """Wait for so many answers more of each of the stations."""
        before = Counter(self.by_station)
        wait_for(lambda: all(self.by_station[i] >= before[i] + count for i in stations))

    def refusals(self, count: int, station: int) -> None:
        """Wait for so many refusals of a station."""
        wait_for(lambda: sum(1 for one, _ in list(self.refused) if one == station) >= count)

    def check(self) -> None:
        """Everything that was answered is there, and every refusal says when to come again."""
        assert self.answered.items() <= self.line.recorded().items()
        assert {answer.status_code for _, answer in self.refused} <= {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for _, answer in self.refused)
        assert all("history" in answer.json()["detail"] for _, answer in self.refused)


def wait_for(what: Callable[[], Any]) -> None:
    until = time.monotonic() + _SECONDS
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def get(line: Line, station: int, path: str) -> Any:
    return httpx.get(f"{line.stations[station].address}{path}").json()


def a_verdict_on_one_page_appears_on_the_other(line: Line) -> None:
    first, second = (one.address for one in line.stations)
    (result,) = httpx.post(first + URL, content=BAD, headers=PNG).json()["results"]
    path = f"/v1/history/{result['id']}"
    assert get(line, 1, path)["verdict"] is None
    httpx.post(f"{second}{path}/verdict", json={"verdict": "overruled", "note": "dust"}).raise_for_status()
    seen = get(line, 0, path)
    assert (seen["verdict"], seen["note"]) == ("overruled", "dust")
    assert [item["id"] for item in get(line, 0, "/v1/models/parts/feedback")["items"]] == [result["id"]]
    assert get(line, 0, "/v1/history?verdict=overruled") == get(line, 1, "/v1/history?verdict=overruled")
    pictures = [httpx.get(f"{address}{path}/overlay") for address in (first, second)]
    assert pictures[0].content == pictures[1].content
    assert pictures[0].headers["content-type"] == "image/png"
    # what one learned, the other serves, and it is not proposed again
    learned = httpx.post(f"{second}/v1/models/parts/feedback", json={"ids": [result["id"]]}, timeout=60).json()
    version = learned["model"]["version"]
    wait_for(lambda: get(line, 0, "/v1/models")["models"][0]["version"] == version)
    assert get(line, 0, "/v1/models/parts/feedback")["items"] == []
    line.model.rollback(read)
    wait_for(lambda: all(get(line, i, "/v1/models")["models"][0]["version"] == line.versions[1] for i in range(2)))


def switch_and_rollback_fail_no_request(line: Line) -> None:
    with Load(line) as load:
        load.more(5, 0, 1)
        line.model.switch(line.versions[0], read)
        wait_for(lambda: line.versions[0] in load.versions)
        line.model.rollback(read)
        wait_for(lambda: all(get(line, i, "/v1/models")["models"][0]["version"] == line.versions[1] for i in range(2)))
        load.more(5, 0, 1)
    load.check()
    assert not load.refused
    assert not load.dropped
    assert load.versions == set(line.versions)


def postgresql_killed_and_restarted(line: Line) -> None:
    with Load(line) as load:
        load.more(5, 0, 1)
        line.server.kill()
        load.refusals(2, 0)
        load.refusals(2, 1)
        assert httpx.get(f"{line.stations[0].address}/readyz").status_code == 503
        assert httpx.get(f"{line.stations[0].address}/v1/history").status_code == 503
        line.server.restart_after_kill()
        load.more(5, 0, 1)
    load.check()
    assert not load.dropped


def connections_closed(line: Line) -> None:
    a_network_that_is_cut(line, "cut")


def a_cable_pulled(line: Line) -> None:
    a_network_that_is_cut(line, "hold")


def a_network_that_is_cut(line: Line, mode: str) -> None:
    with Load(line) as load:
        load.more(5, 0, 1)
        line.proxy.set(mode)
        load.refusals(3, 1)
        load.more(5, 0)  # the other station goes on
        line.proxy.set("pass")
        load.more(5, 1)
    load.check()
    assert not load.dropped
    assert {station for station, _ in load.refused} == {1}


def a_full_disk(line: Line) -> None:
    with Load(line) as load:
        load.more(5, 0, 1)
        line.server.execute(line.database, FULL)
        load.refusals(3, 0)
        load.refusals(3, 1)
        line.server.execute(line.database, "DROP TRIGGER full_disk ON inspections")
        load.more(5, 0, 1)
    load.check()
    assert not load.dropped


def each_service_killed_with_9(line: Line) -> None:
    """Last of all: nothing was answered that is not there, none is there twice, and no service failed inside."""
    with Load(line) as load:
        for killed, other in ((0, 1), (1, None)):
            load.more(5, killed)
            line.stations[killed].process.kill()
            line.stations[killed].process.wait(10)
            if other is not None:
                load.more(5, other)
                assert not load.dropped[other]
    load.check()
    assert not load.refused
    ((rows, keys),) = line.server.execute(line.database, "SELECT count(*), count(DISTINCT key) FROM inspections")
    assert rows == keys
    images = {file.name.partition(".")[0] for file in (line.folder / "images").rglob("*.image")}
    kept = {key for (key,) in line.server.execute(line.database, "SELECT key FROM inspections WHERE kept > 0")}
    assert kept <= images  # and perhaps some whose rows never came
    assert not [entry for one in line.stations for entry in one.log if "Traceback" in entry]


def test_two_stations_lose_nothing_that_was_answered(line: Line) -> None:
    """One test for all, since starting two services costs more than everything they are put through."""
    for happens in (
        a_verdict_on_one_page_appears_on_the_other,
        switch_and_rollback_fail_no_request,
        postgresql_killed_and_restarted,
        connections_closed,
        a_cable_pulled,
        a_full_disk,
        each_service_killed_with_9,
    ):
        happens(line)
