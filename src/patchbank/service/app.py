"""The parts of the service put together."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from patchbank import __version__
from patchbank.errors import ImageError
from patchbank.service import api_health, api_history, api_inspect, api_models, fitting, pages
from patchbank.service.config import Config
from patchbank.service.context import PROBLEMS, Service
from patchbank.service.inspection import Inspector
from patchbank.service.metrics import Measured, Metrics
from patchbank.service.models import Models
from patchbank.service.security import Guard, Security
from patchbank.service.store import HistoryError, HistoryStore
from patchbank.service.uploads import BodyLimit

_log = logging.getLogger("patchbank.service")


def build_app(config: Config) -> FastAPI:
    """The application, its models loaded. Raises `PatchbankError`."""
    metrics = Metrics()
    models = Models(config, lambda name, outcome: metrics.reloads.labels(name, outcome).inc())
    for model in models:
        model.warm_up()
    history = _history(config)
    inspector = Inspector(
        models, history, metrics, slots=config.queue, batch=config.batch, batch_wait=config.batch_wait
    )
    service = Service(config, models, history, inspector, Security(config), metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if inspector.is_running:  # by another one in this process, as test tools start one for each request
            yield
            return
        inspector.start()
        models.start()
        yield
        models.stop()
        inspector.stop()
        history.close()

    app = FastAPI(
        title="patchbank", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Visual anomaly detection: models, inspections and their history.",
    )  # fmt: skip
    app.state.service = service
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(ImageError)(_torn)
    for kind in (HistoryError, sqlite3.Error):
        app.exception_handler(kind)(_away)
    app.exception_handler(Exception)(_unexpected)
    _mount(app)
    # the last one sees a request first
    app.add_middleware(BodyLimit, {"/v1/models/": config.max_upload}, config.time_limit)
    app.add_middleware(Guard, service.security)
    app.add_middleware(Measured, metrics)
    return app


def _history(config: Config) -> HistoryStore:
    """The history that the options name. Raises `PatchbankError`."""
    if config.is_shared:
        from patchbank.service.stations.address import require_packages

        require_packages()
        from patchbank.service.stations.history import SharedHistory
        from patchbank.service.stations.images import images_in

        images = images_in(config.images) if config.images and config.keep_images > 0 else None
        return SharedHistory(str(config.history), images, config.keep_images)
    from patchbank.service.history import History

    return History(Path(config.history), config.keep_images)


def _mount(app: FastAPI) -> None:
    common: dict[int | str, Any] = {code: PROBLEMS[code] for code in (400, 401, 403, 408, 413, 422, 503)}
    for module in (api_inspect, api_models, api_history):
        app.include_router(module.router, responses=common)
    app.include_router(api_health.router)
    app.include_router(fitting.router)
    app.include_router(pages.router)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What pydantic found, as a sentence, without the input, which may hold anything."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}" for e in error.errors()]
    return JSONResponse({"detail": "; ".join(found).encode("ascii", "replace").decode()}, 422)


async def _torn(request: Request, error: Exception) -> JSONResponse:
    """A kept file that the disk has only in part: files of images are not synced."""
    return JSONResponse({"detail": f"what is kept of this inspection cannot be read ({error})"}, 404)


async def _away(request: Request, error: Exception) -> JSONResponse:
    """The history cannot be read, or a verdict not be written, now."""
    _log.error("%s: the history cannot be used: %s", request.url.path, error)
    return JSONResponse({"detail": f"the history cannot be used now ({error})"}, 503, {"Retry-After": "2"})


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "something went wrong inside the service; its log says what"}, 500)
