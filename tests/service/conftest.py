"""A tiny model behind the API, in this process."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from patchbank import PatchCore
from patchbank.service.app import build_app
from patchbank.service.config import Config
from tests.conftest import bad_image, good_image

Start = Callable[..., TestClient]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


GOOD, BAD = png(good_image(50, (64, 64))), png(bad_image(51, (96, 96)))
PNG = {"content-type": "image/png"}
URL = "/v1/models/parts/inspect"


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights and small images."""
    path = tmp_path_factory.mktemp("tiny") / "parts.patchbank"
    images = [good_image(i, (64, 64)) for i in range(8)]
    PatchCore(weights="random", image_size=64, bank_size=60, threads=1, false_alarm_rate=0.2).fit(images).save(path)
    return path


@pytest.fixture
def tiny(tiny_file: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copy(tiny_file, tmp_path / "parts.patchbank"))


@pytest.fixture
def start(tiny: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a service with options; its client is closed in the end."""
    clients: list[TestClient] = []

    def begin(**options: object) -> TestClient:
        given = {"models": (tiny,), "history": tmp_path / "history.sqlite", "threads": 1, **options}
        client = TestClient(build_app(Config(**given)), base_url="http://localhost", raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield begin
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start: Start) -> TestClient:
    return start()


def inspect(client: TestClient, data: bytes = BAD, **query: object) -> dict:
    """The one result of an inspection."""
    answer = client.post(URL, content=data, headers=PNG, params=query)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return result
