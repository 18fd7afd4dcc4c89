"""Images from clients: everything that can be refused before it is decoded is refused here."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchbank.data import Sample, ValueRange, image_size
from patchbank.data.pairing import ALIASES
from patchbank.errors import ImageError
from patchbank.sample import GEOMETRY_CHANNEL, PLAIN, RGB_CHANNEL
from patchbank.shape import DepthFormat, shape_size

RAW_TYPES = ("application/octet-stream", "image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp")
_SMALL_BODY = 1_000_000
_RAW = "the body"  # where a field would stand
_WORDS = {**dict.fromkeys(ALIASES, GEOMETRY_CHANNEL), "images": RGB_CHANNEL}
_PLAIN = ValueRange()
_LONGEST_NAME = 200


class TooLarge(ImageError):
    """More pixels than the service decodes."""


@dataclass(frozen=True)
class Upload:
    """A sample as it was sent: the client's name for it, for people to read and nothing else, and the bytes of its
    files by channel: one without a channel's name, points or depths alone (xyz), or both rgb and xyz."""

    name: str
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, name: str, data: bytes) -> Upload:
        """An image alone."""
        return cls(name, {PLAIN: data})

    @property
    def source(self) -> Sample:
        """The sample, not read yet."""
        return Sample(self.name, self.files)

    @property
    def image(self) -> bytes:
        """The file of its picture; empty for geometry alone."""
        return self.files.get(PLAIN) or self.files.get(RGB_CHANNEL, b"")

    @property
    def geometry(self) -> bytes:
        """The file of its depths or points; empty where it has none."""
        return self.files.get(GEOMETRY_CHANNEL, b"")

    def check(self, max_pixels: int, values: ValueRange = _PLAIN) -> None:
        """Raise `ImageError` for what is no image or geometry, `TooLarge` for a file with too many pixels, by the
        headers alone. `values`: what stored depths mean to the model."""
        for channel in self.files:
            place = f"{channel}: " if len(self.files) > 1 else ""
            try:
                height, width = self._size(channel, values)
            except ImageError as error:
                raise ImageError(place + str(error).removeprefix(f"{self.name}: ")) from error
            if width * height > max_pixels:
                raise TooLarge(
                    f"{place}has {width}×{height} pixels, more than the {max_pixels / 1e6:g} million that this service "
                    "decodes (--max-pixels)"
                )

    def _size(self, channel: str, values: ValueRange) -> tuple[int, int]:
        if channel != GEOMETRY_CHANNEL:
            return image_size(self.source)
        return shape_size(self.geometry, values.depths.format if values.depths else DepthFormat(), self.name)


@dataclass(frozen=True)
class Part:
    """A file of a request: the name of its field, the client's name for the file, and its bytes."""

    field: str
    name: str
    data: bytes


class _Parser(MultiPartParser):
    spool_max_size = 2**62  # in memory: bodies are limited, and nothing of a client's goes to the disk unchecked
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


async def read_uploads(request: Request, most: int, needs: Sequence[str] = (RGB_CHANNEL,)) -> list[Upload]:
    """The samples of a request: parts with a file name of a multipart body, or the raw body, which the query may give a
    `name`. `needs`: the channels that the model needs a file for. Raises `HTTPException`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        parts = await _read(request, kind, most * len(needs))
    except ClientDisconnect:
        raise HTTPException(400, "the client went away before its body had come") from None
    if not parts:
        raise HTTPException(422, "no images were sent: a multipart body has a file for each image")
    return samples_of(parts, needs)


def samples_of(parts: Sequence[Part], needs: Sequence[str]) -> list[Upload]:
    """What belongs together: the first file of each channel, the second of each, … Raises `HTTPException` for what the
    model does not look at, and for a sample that lacks a channel."""
    fields = {GEOMETRY_CHANNEL if part.field in ALIASES else part.field for part in parts}
    if len(needs) == 1:
        other = {RGB_CHANNEL: GEOMETRY_CHANNEL, GEOMETRY_CHANNEL: RGB_CHANNEL}.get(needs[0])
        if {needs[0], other} <= fields:
            raise HTTPException(422, f"this model looks at {needs[0]} alone: leave out {other}")
        channel = GEOMETRY_CHANNEL if needs[0] == GEOMETRY_CHANNEL else PLAIN
        return [Upload(part.name, {channel: part.data}) for part in parts]
    how = f"send a file for each of {' and '.join(needs)}, such as {' '.join(f'{name}=@FILE' for name in needs)}"
    found: dict[str, list[Part]] = {name: [] for name in needs}
    for part in parts:
        channel = _WORDS.get(part.field, part.field)
        if channel not in found:
            raise HTTPException(422, f"{shown_name(part.field)!r} is no channel of this model: {how} (multipart)")
        found[channel].append(part)
    counts = {name: len(files) for name, files in found.items()}
    if missing := [name for name, count in counts.items() if not count]:
        raise HTTPException(422, f"{missing[0]} is missing: {how} (multipart)")
    if len(set(counts.values())) > 1:
        listed = " and ".join(f"{count} of {name}" for name, count in counts.items())
        raise HTTPException(422, f"a sample lacks a file, there are {listed}: {how} for each sample, in one order")
    samples = zip(*found.values(), strict=True)
    return [Upload(files[0].name, dict(zip(found, (file.data for file in files), strict=True))) for files in samples]


async def _read(request: Request, kind: str, most: int) -> list[Part]:
    if kind == "multipart/form-data":
        return await _read_parts(request.headers, request.stream(), most)
    if kind == "application/octet-stream" or kind.startswith("image/"):
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
        return [Part(_RAW, shown_name(request.query_params.get("name", "image")), bytes(data))]
    raise HTTPException(415, "send one image as image/png, image/jpeg, …, or several as files of multipart/form-data")


async def _read_parts(headers: Headers, stream: AsyncGenerator[bytes, None], most: int) -> list[Part]:
    parser = _Parser(headers, stream, max_files=most, max_fields=100)
    try:
        form = await parser.parse()
        if not parser.is_complete:  # the part that was cut off would be missing without a word
            await form.close()
            raise MultiPartException("it ends before its last boundary")
    except MultiPartException as error:
        raise HTTPException(400, f"the multipart body cannot be read: {error.message}") from None
    try:
        files = [(field, value) for field, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Part(field, shown_name(file.filename or "image"), await file.read()) for field, file in files]
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
