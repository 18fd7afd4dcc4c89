"""The page's files without a browser: what is sent with them, and that they need nothing from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from patchbank.service.app import build_app
from patchbank.service.config import Config
from tests.conftest import good_image

FILES = {item.name: item.read_text() for item in resources.files("patchbank.service").joinpath("page").iterdir()}


@pytest.fixture(scope="module")
def client(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    config = Config(models=(model_file,), history=tmp_path_factory.mktemp("page") / "history.sqlite", threads=1)
    with TestClient(build_app(config), base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_files_need_nothing_from_elsewhere(name: str) -> None:
    text = FILES[name].replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//cdn|url\(|@import", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    if name.endswith(".html"):
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", text)
    assert len(text.splitlines()) < 300


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/page.css", "/page/icon.svg", "/page/login.html"])
def test_files_are_sent_with_their_rules_and_kept(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"].partition(";")[0] in (
        "text/html", "text/javascript", "text/css", "image/svg+xml",
    )  # fmt: skip
    again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/page/index.html", "/page/nothing.js", "/page/..%2fpages.py", "/page/small/7"])
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_small_picture_is_upright(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    sent = io.BytesIO()
    Image.fromarray(good_image(1, (600, 1600))).save(sent, "JPEG", exif=exif)
    (result,) = client.post("/v1/models/parts/inspect", files=[("images", ("a.jpg", sent.getvalue()))]).json()[
        "results"
    ]
    answer = client.get(f"/page/small/{result['id']}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (240, 640)
