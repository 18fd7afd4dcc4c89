"""`/v1/history`: what was inspected, what it looked like, and what a person says about it."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from patchbank.pictures.drawing import overlay as draw_overlay
from patchbank.pictures.explanation import explanation_picture, finder, places_picture
from patchbank.pictures.heat import heat_layer
from patchbank.prediction import finite
from patchbank.sample import GEOMETRY_CHANNEL, RGB_CHANNEL
from patchbank.service import answers
from patchbank.service.answers import BIGGEST_ID
from patchbank.service.context import PROBLEMS, Service, known_model, service_of
from patchbank.service.heights import heights_of
from patchbank.service.kept import prediction_of, unpack_steps
from patchbank.service.pictures import data_uri, depths_of, jpeg_of, png_of, relief_of, rgb_of, shown_of
from patchbank.service.records import iso
from patchbank.service.store import Row
from patchbank.service.uploads import Upload
from patchbank.shape.decide import read_sample_shape

router = APIRouter(prefix="/v1/history", tags=["history"])
Id = Annotated[int, Path(ge=0, le=BIGGEST_ID)]
_CACHED = {"Cache-Control": "private, max-age=3600"}
_PNG: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": {"image/png": {}}}, 404: PROBLEMS[404]},
}


@router.get("", response_model=answers.Page)
def find(
    request: Request,
    model: Annotated[str | None, Query(max_length=300)] = None,
    anomalous: bool | None = None,
    verdict: Literal["confirmed", "overruled", "none"] | None = None,
    after: Annotated[int | None, Query(ge=0, le=BIGGEST_ID)] = None,
    before: Annotated[int | None, Query(ge=0, le=BIGGEST_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Any:
    """Newest first. `before` and `after` are ids: `before=next` is the next page, `after` what came since.
    `verdict=none` is what nobody has decided on."""
    rows = service_of(request).history.find(
        model=model, anomalous=anomalous, verdict=verdict, before=before, after=after, limit=limit + 1
    )
    more = len(rows) > limit
    if more and after is not None and before is None:
        rows = rows[1:]  # the newest one is left for the next question
        more = False
    items = [item_of(row) for row in rows[:limit]]
    return {"items": items, "next": items[-1]["id"] if more else None}


@router.get("/{id}", response_model=answers.Item, responses={404: PROBLEMS[404]})
def get(id: Id, request: Request) -> Any:
    """One inspection."""
    return item_of(_row(service_of(request), id))


@router.post("/{id}/verdict", response_model=answers.Item, responses={404: PROBLEMS[404]})
def decide(id: Id, decision: answers.Decision, request: Request) -> Any:
    """What a person says: the model was right, or it was wrong."""
    service = service_of(request)
    _row(service, id)
    service.history.decide(id, decision.verdict, decision.note, time.time())
    return item_of(_row(service, id))


@router.get(
    "/{id}/image", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}, 404: PROBLEMS[404]}
)
def image(id: Id, request: Request) -> Response:
    """The image as a JPEG, where it is still kept."""
    service = service_of(request)
    row, upload = kept_upload(service, id)
    return _picture(jpeg_of(rgb_of(upload, service.values_of(row["model"]))), "image/jpeg")


@router.get(
    "/{id}/relief", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}, 404: PROBLEMS[404]}
)
def relief(id: Id, request: Request) -> Response:
    """The surface of a sample with geometry under a lamp, at the size of its file, as a JPEG."""
    service = service_of(request)
    row, upload = _kept_geometry(service, id)
    return _picture(jpeg_of(relief_of(upload, service.values_of(row["model"]))), "image/jpeg")


@router.get("/{id}/heights", response_model=answers.Heights, responses={404: PROBLEMS[404]})
def heights(id: Id, request: Request, response: Response) -> Any:
    """The heights of a sample with geometry above its background, at most 256 cells along the longer side."""
    service = service_of(request)
    row, upload = _kept_geometry(service, id)
    found = heights_of(read_sample_shape(upload.source, depths_of(upload, service.values_of(row["model"]))))
    response.headers.update(_CACHED)
    return found


@router.get("/{id}/heat", **_PNG)
def heat(id: Id, request: Request) -> Response:
    """The map's colours with alpha, to be laid over the image (stretched to its size) at any opacity."""
    service = service_of(request)
    steps = unpack_steps(_map(service, _row(service, id)))
    return _picture(png_of(heat_layer(steps, steps == 0)), "image/png")


@router.get("/{id}/overlay", **_PNG)
def overlay(id: Id, request: Request) -> Response:
    """The picture that `patchbank predict` writes."""
    service = service_of(request)
    row, upload = kept_upload(service, id)
    seen = shown_of(upload, service.values_of(row["model"]))
    return _picture(png_of(draw_overlay(seen, prediction_of(row, _map(service, row)))), "image/png")


@router.get(
    "/{id}/explain", response_model=answers.Explained, responses={code: PROBLEMS[code] for code in (404, 429, 503)}
)
async def explain(
    id: Id,
    request: Request,
    whole: Annotated[bool, Query(description="Begin the picture with the overlay; else the places alone.")] = True,
) -> Any:
    """The suspicious places beside the nearest good patches: anew, by the model as it is now."""
    service = service_of(request)
    row, upload = await run_in_threadpool(kept_upload, service, id)
    detector, inspector = known_model(service, row["model"]).detector, service.inspector
    if not inspector.slots.take(1):
        raise inspector.busy()
    try:
        explanation = await inspector.wait(lambda: detector.explain(upload.source), service.config.time_limit)
    finally:
        inspector.slots.give(1)

    def draw() -> str:
        # only the pictures that the model carries: no name leads to a file
        image, find = shown_of(upload, detector.values_), finder(detector.thumbnails_, None)
        picture = None if whole else places_picture(image, explanation, find)
        return data_uri(explanation_picture(image, explanation, find) if picture is None else picture)

    return {
        "explanation": finite({**explanation.to_dict(), "path": upload.name}),
        "picture": await run_in_threadpool(draw),
    }


def item_of(row: Row) -> dict[str, Any]:
    """A row of the history as the API shows it."""
    same = ("id", "model", "version", "name", "score", "p_value", "threshold", "is_anomalous", "verdict", "note")
    item = {
        **{key: row[key] for key in same},
        "when": iso(row["at"]),
        "regions": json.loads(row["regions"]),
        "size": [row["height"], row["width"]],
        "timings": json.loads(row["timings"]),
        "decided_at": iso(row["decided_at"]),
        "added_at": iso(row["added_at"]),
        "channels": json.loads(row["channels"]),
        "image_kept": row["kept"] > 0,
        "geometry_kept": row["kept"] > 0 and row["geometry"] > 0,
    }
    plain: dict[str, Any] = finite(item)
    return plain


def kept_upload(service: Service, id: int) -> tuple[Row, Upload]:
    """An inspection and its files. Raises `HTTPException` where it, or one of them, is not there (any more)."""
    row, history = _row(service, id), service.history
    image = history.kept_image(id) if row["kept"] else None
    geometry = history.kept_geometry(id) if row["kept"] and row["geometry"] else None
    lacks_geometry = row["geometry"] and geometry is None
    if lacks_geometry or (image is None and geometry is None):
        raise HTTPException(404, f"the image of inspection {id} is not kept (any more)")
    if geometry is None:
        return row, Upload.of(row["name"], image or b"")
    return row, Upload(row["name"], {**({RGB_CHANNEL: image} if image else {}), GEOMETRY_CHANNEL: geometry})


def _kept_geometry(service: Service, id: int) -> tuple[Row, Upload]:
    """An inspection with geometry. Raises `HTTPException` for one without."""
    row, upload = kept_upload(service, id)
    if not upload.geometry:
        raise HTTPException(404, f"inspection {id} has a picture alone, no depths or points")
    return row, upload


def _map(service: Service, row: Row) -> bytes:
    png = service.history.kept_map(row["id"]) if row["kept"] else None
    if not png:
        raise HTTPException(404, f"the map of inspection {row['id']} is not kept (any more)")
    return png


def _row(service: Service, id: int) -> Row:
    row = service.history.get(id)
    if row is None:
        raise HTTPException(404, f"there is no inspection {id}")
    return row


def _picture(data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers=_CACHED)
