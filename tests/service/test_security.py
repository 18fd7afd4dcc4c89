"""Who may ask."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from patchbank.errors import OptionError
from patchbank.service.config import Config
from patchbank.service.security import COOKIE
from tests.service.conftest import BAD, PNG, URL, Start

TOKEN = "correct-horse-battery"
VERDICT = "/v1/history/1/verdict"


@pytest.fixture
def locked(start: Start) -> TestClient:
    return start(token=TOKEN, host="0.0.0.0")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_nothing_is_answered_without_the_token(locked: TestClient) -> None:
    paths = [("GET", p) for p in ("/v1/models", "/v1/history", "/v1/history/1/image", "/metrics", "/v1/fits", "/v1/x")]
    paths.append(("GET", "/page/small/1"))
    for method, path in [*paths, ("POST", URL), ("POST", VERDICT), ("POST", "/v1/models/parts/feedback")]:
        for headers in ({}, bearer("wrong"), bearer(""), {"authorization": f"Basic {TOKEN}"}, {"authorization": TOKEN}):
            answer = locked.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert locked.post(URL, content=BAD, headers={**PNG, **bearer(TOKEN)}).status_code == 200
    assert locked.get("/v1/models", headers={"authorization": f"bearer  {TOKEN}"}).status_code == 200


def test_health_needs_no_token(locked: TestClient) -> None:
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/readyz").status_code == 200


def test_the_token_is_asked_for_before_the_body_is_read(locked: TestClient) -> None:
    def body():
        pytest.fail("the body was read")
        yield b""

    with locked.stream("POST", URL, content=body(), headers=PNG) as answer:
        assert answer.status_code == 401


def test_the_cookie_reads_everywhere_and_writes_from_its_own_page(locked: TestClient) -> None:
    response = Response()
    locked.app.state.service.security.sign_in(response, secure=False)  # type: ignore[attr-defined]
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    locked.post(URL, content=BAD, headers={**PNG, **bearer(TOKEN)})
    locked.cookies.set(COOKIE, cookie.partition("=")[2].partition(";")[0])
    assert locked.get("/v1/history").status_code == 200
    cross = {"sec-fetch-site": "cross-site"}
    assert locked.get("/v1/history", headers=cross).status_code == 403
    assert locked.get("/v1/history", headers={**cross, **bearer(TOKEN)}).status_code == 200
    verdict = {"verdict": "confirmed"}
    for headers, status in (
        ({"origin": "http://localhost"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ):
        assert locked.post(VERDICT, json=verdict, headers=headers).status_code == status, headers
    locked.cookies.set(COOKIE, "0" * 64)
    assert locked.get("/v1/history").status_code == 401


def test_without_a_token_other_names_and_origins_are_refused(start: Start) -> None:
    one = start()
    assert one.get("/v1/models", headers={"host": "127.0.0.1:8000"}).status_code == 200
    assert one.get("/v1/models", headers={"host": "[::1]:8000"}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "[", ""):
        assert one.get("/v1/models", headers={"host": host}).status_code == 403, host
    assert one.post(URL, content=BAD, headers=PNG).status_code == 200
    for path in ("/page/small/1", "/v1/history/1/image", "/v1/history/1/explain", "/metrics"):
        assert one.get(path).status_code == 200, path
        assert one.get(path, headers={"host": "evil.example"}).status_code == 403, path
        assert one.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 403, path
        assert one.get(path, headers={"sec-fetch-site": "same-origin"}).status_code == 200, path
    assert one.post(URL, content=BAD, headers={**PNG, "origin": "http://evil.example"}).status_code == 403
    assert one.post(URL, content=BAD, headers={**PNG, "sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "factory.example"])
def test_other_machines_need_a_token(tiny, tmp_path, host: str) -> None:
    with pytest.raises(OptionError, match="--token-file"):
        Config(models=(tiny,), history=tmp_path / "h", host=host)
    Config(models=(tiny,), history=tmp_path / "h", host=host, token=TOKEN)
    for short in ("", "short", "schlüsselwort"):
        with pytest.raises(OptionError, match="8 characters"):
            Config(models=(tiny,), history=tmp_path / "h", host=host, token=short)
