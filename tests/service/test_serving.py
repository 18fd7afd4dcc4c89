"""`patchbank serve` as a process: kill -9 under load, signals, and the mistakes people make when they start it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import BAD, GOOD, PNG, URL

pytestmark = pytest.mark.slow


class Served:
    """A running service; `address` is known when it is ready."""

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "patchbank", "serve", *map(str, arguments), "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"http://\S+:\d+", line):
                self.address = found.group()
                break
        else:
            pytest.fail(f"it did not start: {self.log}")
        threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()), daemon=True).start()
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz").status_code == 200:
                    return
            assert time.monotonic() < until, self.log
            time.sleep(0.05)


@pytest.fixture
def serve(tiny: Path, tmp_path: Path) -> Iterator[type[Served]]:
    """Start a service with options; what still runs in the end is killed."""
    begun: list[Served] = []

    def begin(*options: object) -> Served:
        begun.append(Served(tiny, "--history", tmp_path / "history.sqlite", *options))
        return begun[-1]

    yield begin  # type: ignore[misc]
    for one in begun:
        one.process.kill()
        one.process.wait(10)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patchbank", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_kill_9_under_load_loses_no_answered_inspection(serve, tmp_path: Path) -> None:
    one = serve()
    answered: dict[int, float] = {}

    def ask() -> None:
        with httpx.Client(base_url=one.address, timeout=20) as client:
            while True:
                try:
                    answer = client.post(URL, content=BAD, headers=PNG)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    result = answer.json()["results"][0]
                    answered[result["id"]] = result["score"]

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        until = time.monotonic() + 30
        while len(answered) < 60 and time.monotonic() < until:
            time.sleep(0.005)
        one.process.kill()
        for done in asking:
            done.result()
    assert len(answered) >= 60
    again = serve()
    recorded: dict[int, float] = {}
    before: int | None = None
    with httpx.Client(base_url=again.address) as client:
        while True:
            page = client.get("/v1/history", params={"limit": 50, **({"before": before} if before else {})}).json()
            recorded |= {item["id"]: item["score"] for item in page["items"]}
            if (before := page["next"]) is None:
                break
        assert answered.items() <= recorded.items()
        assert all(client.get(f"/v1/history/{id}/image").status_code == 200 for id in list(answered)[-5:])
        new = client.post(URL, content=GOOD, headers=PNG).json()["results"][0]
    assert new["id"] > max(recorded)
    images = {int(f.name.partition(".")[0]) for f in (tmp_path / "history.sqlite.images").iterdir()}
    assert images <= set(recorded) | {new["id"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_what_was_accepted(serve, number: int) -> None:
    one = serve("--queue", 64)
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(httpx.post, one.address + URL, content=BAD, headers=PNG, timeout=30) for _ in range(8)]
        while "patchbank_pending_images 0.0" in httpx.get(f"{one.address}/metrics").text:
            if all(a.done() for a in asking):
                break
        one.process.send_signal(number)
        statuses = []
        for one_asked in asking:
            with contextlib.suppress(httpx.ConnectError):  # came too late to be accepted
                statuses.append(one_asked.result().status_code)
    assert one.process.wait(30) == 0
    assert set(statuses) == {200}
    assert not [line for line in one.log if "Traceback" in line], one.log


def test_a_body_of_200_mb_is_refused_and_not_held_in_memory(serve) -> None:
    one = serve()
    status = Path(f"/proc/{one.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")

    def peak() -> int:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) // 1024  # type: ignore[union-attr]

    host, port = one.address.removeprefix("http://").split(":")
    before = peak()
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(f"{head}Content-Length: 200000000\r\n\r\n".encode())
        assert raw.recv(2000).startswith(b"HTTP/1.1 413")  # before anything of it was sent
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(200):
            raw.sendall(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
        assert raw.recv(2000).startswith(b"HTTP/1.1 413")
    assert peak() - before < 120  # megabytes
    assert httpx.post(one.address + URL, content=BAD, headers=PNG).status_code == 200


def test_mistakes_are_one_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ((tiny, "--host", "0.0.0.0"), "--token-file"),
            ((tiny, "--host", "0.0.0.0", "--token-file", tmp_path / "token"), "8 characters"),
            ((tiny, "--token-file", tmp_path / "none"), "cannot be read"),
            ((tiny, "--port", port), "choose another with --port"),
            ((tmp_path / "none.patchbank", "--port", 0), "no such model file"),
            ((tiny, "--keep-images", "lots"), "--keep-images takes a size"),
            ((), "at least one model"),
        ):
            found = run(*arguments)
            assert found.returncode == 2, found.stderr
            assert words in found.stderr
            assert found.stderr.count("\n") == 1, found.stderr
