"""A real S3 server on this machine, and a wire to it that breaks: for tests of images in object stores."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from patchbank._system import object_store, remote

KEYS = {
    "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}  # fmt: skip


@dataclass
class ObjectServer:
    """The server's address, and a client to fill it with. `calls`: the contents that were fetched, as (key, bytes)."""

    url: str
    client: Any
    calls: list[tuple[str, int | None]] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> str:
        """An object "bucket/key". Returns its address."""
        bucket, _, key = name.partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{name}"

    def copy(self, folder: Path, name: str) -> str:
        """All files of a folder, below "bucket/key"."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{name}"


@pytest.fixture(scope="session")
def running() -> Iterator[ObjectServer]:
    """One server for all tests of a process; skips where the packages for it are not installed."""
    reason = "the S3 server of these tests needs packages: pip install -c constraints.txt -e '.[dev]'"
    server_of = pytest.importorskip("moto.server", reason=reason)
    pytest.importorskip("s3fs", reason=reason)
    boto3 = pytest.importorskip("boto3", reason=reason)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="tests", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    yield ObjectServer(url, client)
    server.stop()


@pytest.fixture
def store(running: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """The server, as the environment variables of a user name it."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "PAUSES", (0.0, 0.0, 0.0))
    fetch = object_store.content

    def content(scheme: str, key: str, first: int | None = None) -> bytes:
        running.calls.append((key, first))
        return fetch(scheme, key, first)

    monkeypatch.setattr(object_store, "content", content)
    running.calls.clear()
    reached_at(running.url, monkeypatch)
    yield running
    fresh()


def reached_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of now."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    fresh()


def fresh() -> None:
    """Nothing is known from before."""
    object_store._files.clear()
    object_store._down.clear()
    remote.forget()


# ---- a wire that breaks ----------------------------------------------------------------------------------------------

Plan = Callable[[str, bytes], bytes]  # request line and answer → what arrives of the answer


@contextlib.contextmanager
def wire_to(server: ObjectServer, plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """An address on this machine that passes requests without a body on, and answers as `plan` says; and the lines of
    the requests that came."""
    port = int(server.url.rsplit(":", 1)[1])
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed
                    return
                threading.Thread(target=_pass_on, args=(connection, port, plan, lines), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", lines
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _pass_on(connection: socket.socket, port: int, plan: Plan, lines: list[str]) -> None:
    with connection, socket.create_connection(("127.0.0.1", port)) as upstream:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(65536)
            if not piece:
                return
            request += piece
        line, _, rest = request.partition(b"\r\n")
        lines.append(line.decode())
        upstream.sendall(line + b"\r\nConnection: close\r\n" + rest)
        answer = b"".join(iter(lambda: upstream.recv(65536), b""))
        connection.sendall(plan(line.decode(), answer))
