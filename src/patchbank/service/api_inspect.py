"""`POST /v1/models/{name}/inspect`."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from patchbank.errors import ImageError
from patchbank.prediction import Prediction, finite
from patchbank.report.pictures import overlay as draw_overlay
from patchbank.service import answers
from patchbank.service.context import PROBLEMS, Service, known_model, service_of
from patchbank.service.inspection import Inspected
from patchbank.service.pictures import data_uri, rgb_of
from patchbank.service.records import iso
from patchbank.service.uploads import RAW_TYPES, TooLarge, Upload, read_uploads

router = APIRouter(prefix="/v1/models", tags=["inspection"])

_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": _BINARY, "minItems": 1}},
                    "required": ["images"],
                }
            },
            **{kind: {"schema": _BINARY} for kind in RAW_TYPES},
        },
    }
}


@router.post(
    "/{name}/inspect",
    response_model=answers.Inspection,
    responses={
        422: {"model": answers.NothingInspected},
        **{code: PROBLEMS[code] for code in (404, 413, 415, 429, 503)},
    },
    openapi_extra=_BODY,
)
async def inspect(
    name: str,
    request: Request,
    overlay: Annotated[bool, Query(description="Also draw each result, as a PNG in a data URI.")] = False,
    threshold: Annotated[
        float | None, Query(allow_inf_nan=False, description="Reject above this score instead of the model's.")
    ] = None,
) -> Any:
    """Inspect one image (its bytes as the body) or several (files of a multipart body). Each answer is in the history
    before it is sent."""
    service = service_of(request)
    known_model(service, name)
    if not service.inspector.slots.take(1):
        raise busy(service)
    spare = [1]  # slots that no image has yet
    try:
        with anyio.fail_after(service.config.time_limit):
            uploads = await read_uploads(request, service.config.queue)
            if len(uploads) > 1 and not service.inspector.slots.take(len(uploads) - 1):
                raise busy(service)
            spare[0] = len(uploads)
            found = await _inspect(service, name, uploads, threshold, overlay, spare)
            results = [await _answer(u, f) for u, f in zip(uploads, found, strict=True)]
    except TimeoutError:
        wait = {"Retry-After": str(service.inspector.retry_after())}
        limit = f"{service.config.time_limit:g} seconds"
        raise HTTPException(503, f"this took longer than {limit}; try again later", wait) from None
    except sqlite3.Error as error:
        raise HTTPException(503, f"the history cannot be written, so nothing is answered ({error})") from None
    finally:
        service.inspector.slots.give(spare[0])
    if not any(isinstance(f, Inspected) for f in found):
        status = 413 if all(isinstance(f, TooLarge) for f in found) else 422
        detail = f"{results[0]['name']}: {results[0]['error']}"
        return JSONResponse({"detail": detail, "results": results}, status)
    return {"results": results}


def busy(service: Service) -> HTTPException:
    wait = {"Retry-After": str(service.inspector.retry_after())}
    return HTTPException(429, f"{service.inspector.slots.count} images are waiting already; try again later", wait)


async def _inspect(
    service: Service, name: str, uploads: list[Upload], threshold: float | None, overlay: bool, spare: list[int]
) -> list[Inspected | ImageError]:
    """What became of each image; those that their headers rule out never reach the queue."""
    pending: list[asyncio.Future[Inspected] | ImageError] = []
    for upload in uploads:
        try:
            upload.check(service.config.max_pixels)
        except ImageError as error:
            pending.append(error)
            continue
        spare[0] -= 1
        pending.append(asyncio.wrap_future(service.inspector.submit(name, upload, threshold, overlay)))
    found: list[Inspected | ImageError] = []
    try:
        for one in pending:
            try:
                found.append(one if isinstance(one, ImageError) else await one)
            except ImageError as error:
                found.append(error)
    finally:
        for one in pending:
            if not isinstance(one, ImageError):
                one.cancel()
    return found


async def _answer(upload: Upload, found: Inspected | ImageError) -> dict[str, Any]:
    if isinstance(found, ImageError):
        return {"name": upload.name, "error": str(found)}
    record = found.record
    result = {
        "id": record.id,
        "when": iso(record.at),
        "model": record.model,
        "version": record.version,
        "name": record.name,
        "score": record.score,
        "p_value": record.p_value,
        "threshold": record.threshold,
        "is_anomalous": record.is_anomalous,
        "regions": record.regions,
        "size": list(record.size),
        "timings": record.timings,
    }
    if found.prediction is not None:
        result["overlay"] = await run_in_threadpool(_overlay, upload, found.prediction)
    plain: dict[str, Any] = finite(result)
    return plain


def _overlay(upload: Upload, prediction: Prediction) -> str:
    return data_uri(draw_overlay(rgb_of(upload), prediction))
