"""Fits that the page starts: one at a time, each in a process of its own that gives way to inspection.

The process takes half of the cores (one at least), and of these a tenth where inspection wants them too. A client names
one of the listed folders; whatever leads out of the root is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from patchbank.errors import PatchbankError
from patchbank.methods import METHODS
from patchbank.service.context import PROBLEMS, Service, service_of
from patchbank.service.fits import Fits, Job, Order
from patchbank.service.folders import folders_below, images_to_learn, is_free, model_path, publish
from patchbank.service.registry import VERSIONS

FitState = Literal["waiting", "running", "done", "failed", "cancelled"]


class Options(BaseModel):
    """Options of the method; those that name files of the server are not for clients."""

    model_config = ConfigDict(extra="forbid")

    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1, allow_inf_nan=False)] = None
    image_size: Annotated[int | None, Field(ge=32, le=2048)] = None
    coreset: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    bank_size: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    epochs: Annotated[int | None, Field(ge=1, le=100_000)] = None
    max_minutes: Annotated[float | None, Field(gt=0, le=100_000, allow_inf_nan=False)] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    group_by: Annotated[str | None, Field(max_length=200)] = None

    @field_validator("group_by")
    @classmethod
    def _reads_no_file(cls, rule: str | None) -> str | None:
        if rule is not None and rule.lower().endswith(".csv"):
            raise ValueError("a table of groups is a file of the server: use folder or a regular expression")
        return rule


class Asked(BaseModel):
    """A folder of the listing, and a name for the model."""

    folder: Annotated[str, Field(max_length=1000)]
    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    method: Annotated[str, Field(max_length=40)] = "patchcore"
    options: Options = Options()


class Started(BaseModel):
    id: int


class Folder(BaseModel):
    """`name` is below the root; `images` anywhere in it."""

    name: str
    images: int


class Folders(BaseModel):
    folders: list[Folder]


class Fit(BaseModel):
    """`done` of `total` in the `stage`, `eta_seconds` to its end; `skipped`: images that could not be read; `notes`:
    what else was noticed about the images, such as copies."""

    id: int
    folder: str
    name: str
    method: str
    when: str
    state: FitState
    stage: str
    done: int
    total: int
    eta_seconds: float | None
    skipped: int
    notes: list[str]
    error: str | None
    model: str | None


class FitList(BaseModel):
    """Newest first."""

    items: list[Fit]


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    app.state.fits = fits = Fits(service.config, lambda made, final: _deliver(service, made, final))
    yield
    fits.close()


def _deliver(service: Service, made: Path, final: Path) -> None:
    """Serve a new model: of a file of its own, or of the registry where stations share one."""
    if service.config.is_shared and service.config.models_dir:
        service.models.add_new(made, final.stem)
    else:
        publish(made, final)
        service.models.add(final)


router = APIRouter(
    prefix="/v1/fits",
    tags=["fits"],
    lifespan=_lifespan,
    responses={code: PROBLEMS[code] for code in (400, 401, 403, 404, 413, 422)},
)


def _allowed(request: Request) -> tuple[Fits, Path]:
    """The fits of this service and the folder they may learn from. Raises `HTTPException`."""
    root = service_of(request).config.fit_root
    if root is None:
        raise HTTPException(404, "this service fits no models: start it with `patchbank serve --fit-root FOLDER`")
    fits: Fits = request.app.state.fits
    return fits, root.resolve()


@router.get("/folders", response_model=Folders)
def folders(request: Request) -> dict[str, Any]:
    """The folders that hold images, below the one this service may fit from."""
    _, root = _allowed(request)
    return {"folders": [{"name": name, "images": count} for name, count in folders_below(root).items()]}


@router.post("", response_model=Started, status_code=202, responses={409: PROBLEMS[409], 429: PROBLEMS[429]})
def start(request: Request, asked: Asked) -> dict[str, int]:
    """Learn a new model from a folder of good images; it is served under its name when it is done."""
    fits, root = _allowed(request)
    if asked.method not in METHODS:
        raise HTTPException(422, f"method must be one of {', '.join(METHODS)}")
    options = {key: value for key, value in asked.options.model_dump().items() if value is not None}
    for key in options:
        if key not in METHODS[asked.method].parameter_names():
            raise HTTPException(422, f"{key}: {asked.method} has no such option")
    service = service_of(request)
    output = model_path(service.config, asked.name)
    is_taken = not is_free(output) or not is_free(output.with_suffix("") / VERSIONS)
    if service.models.get(asked.name) or is_taken or fits.will_make(asked.name):
        raise HTTPException(409, f"there is a model named {asked.name} already: choose another name")
    try:
        images, notes = images_to_learn(root, asked.folder)
    except PatchbankError as error:
        raise HTTPException(422, str(error)) from None
    job = fits.start(Order(root, asked.folder, asked.name, asked.method, options, images, output, tuple(notes)))
    if job is None:
        raise HTTPException(429, "several fits are waiting already; try again later", {"Retry-After": "60"})
    return {"id": job.id}


@router.get("", response_model=FitList)
def list_fits(request: Request) -> dict[str, Any]:
    """The fits since the service was started."""
    fits, _ = _allowed(request)
    return {"items": [job.describe() for job in fits.newest()]}


@router.get("/{number}", response_model=Fit)
def show(request: Request, number: int) -> dict[str, Any]:
    """How far a fit is."""
    fits, _ = _allowed(request)
    return _known(fits, number).describe()


@router.delete("/{number}", status_code=204)
def cancel(request: Request, number: int) -> Response:
    """End a fit that waits or runs; one that has ended stays as it is."""
    fits, _ = _allowed(request)
    fits.cancel(_known(fits, number))
    return Response(status_code=204)


def _known(fits: Fits, number: int) -> Job:
    job = fits.get(number)
    if job is None:
        raise HTTPException(404, "there is no fit of this number; GET /v1/fits lists them")
    return job
