"""Images from clients: everything that can be refused before it is decoded is refused here."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchbank.data import Sample, image_size
from patchbank.errors import ImageError

RAW_TYPES = ("application/octet-stream", "image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp")
_SMALL_BODY = 1_000_000
_LONGEST_NAME = 200


class TooLarge(ImageError):
    """More pixels than the service decodes."""


@dataclass(frozen=True)
class Upload:
    """An image as it was sent: the client's name for it, for people to read and nothing else, and the file's bytes."""

    name: str
    data: bytes

    @property
    def source(self) -> Sample:
        """The image, not read yet."""
        return Sample.of(self.name, self.data)

    def check(self, max_pixels: int) -> None:
        """Raise `ImageError` for what is no image, `TooLarge` for one with too many pixels, by its header alone."""
        try:
            height, width = image_size(self.source)
        except ImageError as error:
            raise ImageError(str(error).removeprefix(f"{self.name}: ")) from error
        if width * height > max_pixels:
            raise TooLarge(
                f"has {width}×{height} pixels, more than the {max_pixels / 1e6:g} million that this service decodes "
                "(--max-pixels)"
            )


class _Parser(MultiPartParser):
    spool_max_size = 2**62  # in memory: bodies are limited, and nothing of a client's goes to the disk unchecked
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The images of a request: parts with a file name of a multipart body, or the raw body, which the query may give a
    `name`. Raises `HTTPException`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        uploads = await _read(request, kind, most)
    except ClientDisconnect:
        raise HTTPException(400, "the client went away before its body had come") from None
    if not uploads:
        raise HTTPException(422, "no images were sent: a multipart body has a file for each image")
    return uploads


async def _read(request: Request, kind: str, most: int) -> list[Upload]:
    if kind == "multipart/form-data":
        return await _read_parts(request.headers, request.stream(), most)
    if kind == "application/octet-stream" or kind.startswith("image/"):
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
        return [Upload(shown_name(request.query_params.get("name", "image")), bytes(data))]
    raise HTTPException(415, "send one image as image/png, image/jpeg, …, or several as files of multipart/form-data")


async def _read_parts(headers: Headers, stream: AsyncGenerator[bytes, None], most: int) -> list[Upload]:
    parser = _Parser(headers, stream, max_files=most, max_fields=100)
    try:
        form = await parser.parse()
        if not parser.is_complete:  # the part that was cut off would be missing without a word
            await form.close()
            raise MultiPartException("it ends before its last boundary")
    except MultiPartException as error:
        raise HTTPException(400, f"the multipart body cannot be read: {error.message}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Upload(shown_name(file.filename or "image"), await file.read()) for file in files]
    finally:
        await form.close()


def shown_name(name: str) -> str:
    """A client's file name as people see it: without folders and control characters, not endless."""
    base = re.split(r"[/\\]", name)[-1]
    printable = "".join(c for c in base if c.isprintable())
    return printable[:_LONGEST_NAME] or "image"


class BodyLimit:
    """ASGI middleware: no body is read beyond its limit in bytes, whatever length it claims to have, nor longer than so
    many seconds. `limits`: of paths that begin so; other bodies are small."""

    def __init__(self, app: ASGIApp, limits: dict[str, int], seconds: float):
        self.app, self.limits, self.seconds = app, limits, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next((n for path, n in self.limits.items() if scope["path"].startswith(path)), _SMALL_BODY)
        sentence = f"the body is larger than the {limit / 1e6:g} MB that are taken here"
        claimed = Headers(scope=scope).get("content-length", "0")
        if not claimed.isdecimal() or int(claimed[:20]) > limit:
            await JSONResponse({"detail": sentence}, 413)(scope, receive, send)
            return
        seen, more, until = 0, True, anyio.current_time() + self.seconds

        async def limited() -> Message:
            nonlocal seen, more
            if not more:
                return await receive()  # whether the client is still there
            try:
                with anyio.fail_after(until - anyio.current_time()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body took longer than {self.seconds:g} seconds") from None
            seen, more = seen + len(message.get("body", b"")), message.get("more_body", False)
            if seen > limit:
                raise HTTPException(413, sentence)
            return message

        await self.app(scope, limited, send)
