"""What every route of the API works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request

from patchbank.data import ValueRange
from patchbank.service import answers
from patchbank.service.config import Config
from patchbank.service.inspection import Inspector
from patchbank.service.metrics import Metrics
from patchbank.service.models import Model, Models
from patchbank.service.security import Security
from patchbank.service.store import HistoryStore

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": answers.Problem, "description": words}
    for code, words in {
        400: "The body cannot be read.",
        401: "A token is needed.",
        403: "Not from this host or origin.",
        404: "There is no such thing.",
        408: "The body comes too slowly.",
        409: "Not in the state that the model or the inspection is in.",
        413: "More bytes or pixels than are taken.",
        415: "Not the content type of an image.",
        422: "The request cannot be understood.",
        429: "Too many images are waiting; see Retry-After.",
        503: "Not now; see Retry-After.",
    }.items()
}


@dataclass(frozen=True)
class Service:
    """What every route finds as `request.app.state.service`. Whatever uses a network goes through `inspector.run`."""

    config: Config
    models: Models
    history: HistoryStore
    inspector: Inspector
    security: Security
    metrics: Metrics

    def values_of(self, name: str) -> ValueRange:
        """What pixel values mean to a model, to show its images; as of 8-bit images where it is gone."""
        model = self.models.get(name)
        return ValueRange() if model is None else model.detector.values_


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def known_model(service: Service, name: str) -> Model:
    """Raises `HTTPException` for a name that no model has."""
    model = service.models.get(name)
    if model is None:
        raise HTTPException(404, "there is no model of this name; GET /v1/models lists them")
    return model
