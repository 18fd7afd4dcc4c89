"""Inputs made to hurt: each is refused with a sentence, and nothing of a client's reaches the file system."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from patchbank.service.uploads import Upload, shown_name
from tests.conftest import good_image
from tests.service.conftest import BAD, GOOD, PNG, URL, Start, inspect, png


def bomb(side: int) -> bytes:
    """A small PNG file of side×side pixels, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG")
    return buffer.getvalue()


HOSTILE = {
    "a decompression bomb": (bomb(9600), 413),
    "one that Pillow itself refuses": (bomb(20000), 413),
    "a truncated PNG": (BAD[:-200], 422),
    "a truncated JPEG": (jpeg(good_image(1))[:700], 422),
    "a header alone": (BAD[:40], 422),
    "text": (b"GET / HTTP/1.1", 422),
    "a script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422),
    "nothing": (b"", 422),
    "floats far beyond 1": (b"", 422),
}
_floats = io.BytesIO()
Image.fromarray(np.full((64, 64), 1e30, np.float32)).save(_floats, format="TIFF")
HOSTILE["floats far beyond 1"] = (_floats.getvalue(), 422)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_image_is_refused(client: TestClient, what: str) -> None:
    data, status = HOSTILE[what]
    for answer in (
        client.post(URL, content=data, headers=PNG),
        client.post(URL, files=[("images", ("x.png", data))]),
    ):
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"]
        assert answer.json()["results"][0]["error"]
    assert client.get("/v1/history").json()["items"] == []
    assert inspect(client)["id"] == 1


def test_a_bomb_is_never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Exception, match="9600×9600 pixels"):
        Upload.of("bomb", bomb(9600)).check(64_000_000)


def test_a_body_is_refused_while_it_streams(start: Start) -> None:
    one = start(max_upload=1_000_000)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 1_000_000
            yield bytes(1_000_000)

    answer = one.post(URL, content=endless(), headers=PNG)  # no content-length
    assert answer.status_code == 413
    assert "1 MB" in answer.json()["detail"]
    for headers in (PNG, {"content-type": "multipart/form-data; boundary=x"}):
        claimed = one.post(URL, content=bytes(2_000_000), headers=headers)
        assert claimed.status_code == 413
    assert one.post(URL, content=BAD, headers={**PNG, "content-length": "9" * 5000}).status_code == 413
    note = {"verdict": None, "note": "x" * 2_000_000}
    assert one.post("/v1/history/1/verdict", json=note).status_code == 413


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", BAD, 415),
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"a=b", 415),
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nnonsense", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--', 422),
    ],
)
def test_the_wrong_kind_of_body(client: TestClient, kind: str, body: bytes, status: int) -> None:
    answer = client.post(URL, content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert inspect(client)["id"] == 1


@pytest.mark.parametrize(
    "name",
    ["../parts", "..%2fparts", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "parts.patchbank", "parts%00", "/etc/passwd", "."],
)
def test_a_model_is_a_name_and_no_path(client: TestClient, name: str) -> None:
    for method, path in (("POST", "inspect"), ("GET", "drift"), ("GET", "feedback")):
        answer = client.request(method, f"/v1/models/{name}/{path}", content=BAD if method == "POST" else None)
        assert answer.status_code in (404, 405)


@pytest.mark.parametrize("id", ["../1", "..%2f..%2fhistory.sqlite", "1.image", "-1", "9" * 30, "1%00", "nan"])
def test_an_inspection_is_a_number_and_no_path(client: TestClient, id: str) -> None:
    inspect(client)
    for path in ("", "/image", "/heat", "/overlay", "/explain"):
        assert client.get(f"/v1/history/{id}{path}").status_code in (404, 422)


@pytest.mark.parametrize(
    "name", ["../../escaped.png", "/etc/passwd", "C:\\windows\\x.png", "a\0b.png", "x" * 5000, "\n"]
)
def test_a_file_name_is_for_people_only(client: TestClient, tmp_path: Path, name: str) -> None:
    before = {p for p in tmp_path.rglob("*") if p.suffix != ".sqlite-wal"}
    result = inspect(client, BAD, name=name)
    assert result["name"] == shown_name(name)
    assert not set("/\\\0\n") & set(result["name"])
    assert 0 < len(result["name"]) <= 200
    new = {p.name for p in tmp_path.rglob("*")} - {p.name for p in before}
    assert new <= {"1.image", "1.map.png", "history.sqlite-wal", "history.sqlite-shm"}
    client.post("/v1/history/1/verdict", json={"verdict": "overruled"})
    assert client.post("/v1/models/parts/feedback", json={"ids": [1]}).status_code == 200
    explained = client.get("/v1/history/1/explain").json()
    names = {n["image"] for place in explained["explanation"]["places"] for n in place["neighbours"]}
    assert names <= {f"inspection-1-{hashlib.sha256(BAD).hexdigest()[:12]}", *(f"image {i}" for i in range(8))}


def test_odd_values_are_422(client: TestClient) -> None:
    for query in ({"threshold": "nan"}, {"threshold": "inf"}, {"threshold": "x"}, {"overlay": "perhaps"}):
        assert client.post(URL, content=BAD, headers=PNG, params=query).status_code == 422
    for query in ({"limit": 0}, {"limit": 10**6}, {"before": -1}, {"after": 2**64}, {"verdict": "x"}):
        answer = client.get("/v1/history", params=query)
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], str)
    inspect(client)
    for body in (
        b"{",
        b"[]",
        b'{"verdict": "confirmed", "note": "\\ud800"}',
        b'{"verdict": null, "note": 1}',
        b"[" * 10**5,
    ):
        answer = client.post("/v1/history/1/verdict", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
    assert client.post(URL, files=[("images", ("g.png", GOOD))] * 65).status_code == 400


def test_a_large_good_image_passes(start: Start) -> None:
    data = png(good_image(0, (1000, 1000)))
    assert inspect(start(max_pixels=1_000_000), data)["size"] == [1000, 1000]
