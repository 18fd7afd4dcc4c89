"""The page: plain files of this package, read once, and the login form's way to the cookie."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import RedirectResponse
from PIL import Image
from pydantic import BaseModel, Field

from patchbank.data import Sample, opened, read_image
from patchbank.service.answers import BIGGEST_ID
from patchbank.service.api_history import kept_upload
from patchbank.service.context import PROBLEMS, service_of
from patchbank.service.pictures import rgb_of

router = APIRouter(include_in_schema=False)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new version is seen at once
}
_BEFORE_SIGN_IN = ("login.html", "login.js", "page.css", "icon.svg")
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_SMALL = 640  # pixels of the longer side
_PAUSE = 1.0  # seconds after a wrong token: guessing takes long


@dataclass(frozen=True)
class _File:
    data: bytes
    kind: str

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


class Token(BaseModel):
    token: Annotated[str, Field(max_length=1000)]


@router.get("/")
async def page(request: Request) -> Response:
    """The page, or the login form."""
    security = service_of(request).security
    if not security.is_signed_in(request):
        return RedirectResponse("page/login.html", 303, {"Cache-Control": "no-store"})
    file = _files()["index.html"]
    if security.token is not None:  # there is something to sign out of
        file = _File(file.data.replace(b"<body>", b'<body class="signed-in">'), file.kind)
    return _answer(file, request)


@router.get("/page/{name}")
async def part(request: Request, name: str) -> Response:
    """A file of the page; of a service with a token only the login form's before that was given."""
    if name not in _files() or name == "index.html":
        raise HTTPException(404, "there is no such part of the page")
    if name not in _BEFORE_SIGN_IN and not service_of(request).security.is_signed_in(request):
        raise HTTPException(401, "please sign in")
    return _answer(_files()[name], request)


@router.post("/page/login", status_code=204, responses={401: PROBLEMS[401]})
async def login(request: Request, given: Token) -> Response:
    """A cookie for the token."""
    security = service_of(request).security
    if not security.accepts(given.token):
        await asyncio.sleep(_PAUSE)
        raise HTTPException(401, "this is not the token of this service")
    response = Response(status_code=204)
    security.sign_in(response, secure=request.url.scheme == "https")
    return response


@router.post("/page/logout", status_code=204)
async def logout(request: Request) -> Response:
    """No cookie any more."""
    response = Response(status_code=204)
    service_of(request).security.sign_out(response)
    return response


@router.get("/page/small/{number}")
def small(request: Request, number: Annotated[int, Path(ge=0, le=BIGGEST_ID)]) -> Response:
    """A small picture of an inspection, for lists: a camera's own would be megabytes each."""
    row, upload = kept_upload(service_of(request), number)
    values = service_of(request).values_of(row["model"])
    if upload.image.startswith(b"\xff\xd8"):  # JPEG alone can be decoded small
        with opened(upload.image) as image:
            image.draft("RGB", (2 * _SMALL, 2 * _SMALL))
            rgb = read_image(Sample.of(row["name"], image), values)
    else:
        rgb = rgb_of(upload, values)
    picture = Image.fromarray(rgb.astype("uint8", copy=False))
    picture.thumbnail((_SMALL, _SMALL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return Response(buffer.getvalue(), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@lru_cache(maxsize=1)
def _files() -> dict[str, _File]:
    """By name, each with its media type."""
    folder = resources.files("patchbank.service").joinpath("page")
    return {
        item.name: _File(item.read_bytes(), f"{kind}; charset=utf-8")
        for item in folder.iterdir()
        if (kind := _KINDS.get(item.name.rpartition(".")[2]))
    }


def _answer(file: _File, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers, media_type=file.kind)
