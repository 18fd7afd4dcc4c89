"""`POST /v1/models/{name}/inspect`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeAlias

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from patchbank.data import ValueRange
from patchbank.errors import ImageError, MemoryBudgetError
from patchbank.pictures.drawing import overlay as draw_overlay
from patchbank.prediction import finite
from patchbank.service import answers
from patchbank.service.context import PROBLEMS, Service, known_model, service_of
from patchbank.service.inspection import too_long
from patchbank.service.kept import prediction_of
from patchbank.service.pictures import data_uri, shown_of
from patchbank.service.records import Record, iso
from patchbank.service.store import HistoryError
from patchbank.service.uploads import RAW_TYPES, TooLarge, Upload, read_uploads

router = APIRouter(prefix="/v1/models", tags=["inspection"])
Pending: TypeAlias = "asyncio.Future[Record]"

_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {name: {"type": "array", "items": _BINARY} for name in ("images", "rgb", "xyz")},
                    "minProperties": 1,
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
    """Inspect one image (its bytes as the body) or several (files of a multipart body). A model that looks at picture
    and geometry takes the fields rgb and xyz, the first file of each for the first sample, and so on; z, depth, height,
    points, cloud, pcd, ply and range are other words for xyz. Each answer is in the history before it is sent."""
    service = service_of(request)
    model = known_model(service, name)
    inspector, limit = service.inspector, service.config.time_limit
    if (away := inspector.away()) is not None:
        raise away
    if not inspector.slots.take(1):
        raise inspector.busy()
    spare = [1]  # slots that no image has yet
    until = anyio.current_time() + limit
    pending: list[Pending] = []
    try:
        with anyio.fail_after(limit):
            uploads = await read_uploads(request, service.config.queue, model.needs)
        if len(uploads) > 1 and not inspector.slots.take(len(uploads) - 1):
            raise inspector.busy()
        spare[0] = len(uploads)
        for upload in uploads:
            pending.append(await _submit(service, name, upload, threshold, spare))
        results = []
        for upload, one in zip(uploads, pending, strict=True):
            await asyncio.wait([one], timeout=max(0.0, until - anyio.current_time()))
            results.append(await _answer(service, upload, one, overlay, limit))
        too_large = all(one.done() and isinstance(one.exception(), TooLarge) for one in pending)
    except TimeoutError:
        raise inspector.not_now(503, too_long(limit)) from None
    finally:
        inspector.slots.give(spare[0])
        for one in pending:
            one.cancel()
    return _whole(service, results, too_large)


async def _submit(service: Service, name: str, upload: Upload, threshold: float | None, spare: list[int]) -> Pending:
    """The record to come, or `ImageError`; an image that its header rules out never reaches the queue."""
    limit, values = service.config.max_pixels, service.values_of(name)
    try:
        if upload.geometry:  # a table in text is counted line by line
            await run_in_threadpool(upload.check, limit, values)
        else:
            upload.check(limit)
    except ImageError as error:
        refused: Pending = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused
    spare[0] -= 1
    return asyncio.wrap_future(service.inspector.submit(name, upload, threshold))


async def _answer(service: Service, upload: Upload, pending: Pending, overlay: bool, limit: float) -> dict[str, Any]:
    """What became of an image; its picture is drawn at once, so that no map waits for the others."""
    if not pending.done():
        return {"name": upload.name, "error": too_long(limit), "unfinished": True}
    try:
        record = pending.result()
    except ImageError as error:
        return {"name": upload.name, "error": str(error)}
    except MemoryBudgetError as error:
        return {"name": upload.name, "error": str(error), "unfinished": True}
    except HistoryError as error:
        sentence = f"the history cannot be written, so nothing is answered ({error})"
        return {"name": upload.name, "error": sentence, "unfinished": True}
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
        "channels": record.channels,
    }
    if overlay:
        values = service.values_of(record.model)
        result["overlay"] = await run_in_threadpool(_overlay, upload, record, values)
    plain: dict[str, Any] = finite(result)
    return plain


def _overlay(upload: Upload, record: Record, values: ValueRange) -> str:
    """From the small map that is kept: a whole one may have hundreds of megabytes."""
    return data_uri(draw_overlay(shown_of(upload, values), prediction_of(record.row(), record.map_png)))


def _whole(service: Service, results: list[dict[str, Any]], too_large: bool) -> Any:
    """The answer to a request: 200 as soon as one image was inspected. Raises `HTTPException` where none was, and some
    can be sent again."""
    if any("id" in result for result in results):
        return {"results": results}
    if again := next((result for result in results if "unfinished" in result), None):
        raise service.inspector.not_now(503, again["error"])
    detail = f"{results[0]['name']}: {results[0]['error']}"
    return JSONResponse({"detail": detail, "results": results}, 413 if too_large else 422)
