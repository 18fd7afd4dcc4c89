"""A PostgreSQL server for the tests of shared histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patchbank.service.stations.images import FolderImages
from tests.object_server import running, store
from tests.service.stations.server import Proxy, Server

if TYPE_CHECKING:
    from patchbank.service.stations.history import SharedHistory

__all__ = ["running", "store"]  # fixtures


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="needs `pip install patchbank[postgres]`")
    one = Server()
    one.create("line")
    yield one
    one.close()


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The name of an empty database."""
    yield "line"
    server.execute("line", "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    server.execute("line", "ALTER DATABASE line RESET ALL")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    one = Proxy(server.port)
    yield one
    one.close()


Open = Callable[..., "SharedHistory"]


@pytest.fixture
def shared(server: Server, database: str, tmp_path: Path) -> Iterator[Open]:
    """Open the history of the test's database, as one more station does."""
    from patchbank.service.stations.history import SharedHistory

    opened: list[SharedHistory] = []

    def begin(address: str = "", keep_images: int = 10**6) -> SharedHistory:
        images = FolderImages(tmp_path / "images")
        opened.append(SharedHistory(address or server.address(database), images, keep_images))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()
