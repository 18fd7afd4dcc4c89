"""`/v1/models`: what is served, what it could learn from, and whether its scores drift."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request

from patchbank._system.files import shown
from patchbank.errors import PatchbankError, give_up
from patchbank.maintenance import tell_apart
from patchbank.prediction import finite
from patchbank.service import answers, drift
from patchbank.service.api_history import item_of, kept_upload
from patchbank.service.context import PROBLEMS, Service, known_model, service_of
from patchbank.service.uploads import Upload

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", response_model=answers.ModelList)
def list_models(request: Request) -> Any:
    """What is served."""
    return {"models": [model.describe() for model in service_of(request).models]}


@router.get("/{name}/drift", response_model=answers.Drift, responses={404: PROBLEMS[404]})
def drifting(name: str, request: Request, days: Annotated[int, Query(ge=1, le=90)] = 30) -> Any:
    """Scores by day (UTC), and the last ones since the model's file is what it is, beside those of the calibration."""
    service = service_of(request)
    model = known_model(service, name)
    calibration = model.detector.calibration_
    known = drift.quantiles(calibration.scores)
    last = service.history.last_scores(name, model.version, drift.LAST)
    by_day = drift.by_day(service.history.scores(name, time.time() - days * 86400))
    compared = drift.compare(last, calibration.scores.tolist())
    answer = {
        "calibration": known,
        "days": by_day,
        "last": drift.quantiles(last),
        "threshold": calibration.threshold,
        **compared,
        "warning": compared["warning"] or drift.day_warning(by_day, known),
    }
    return finite(answer)


_MISSING: Any = {404: PROBLEMS[404]}
_REFUSED: Any = {code: PROBLEMS[code] for code in (404, 409, 503)}


@router.get("/{name}/proposal", response_model=answers.Proposal, include_in_schema=False)  # its name until 0.3
@router.get("/{name}/feedback", response_model=answers.Proposal, responses=_MISSING)
def feedback(name: str, request: Request) -> Any:
    """False alarms that a person overruled, that the model has not learned from, and whose images are kept."""
    service = service_of(request)
    known_model(service, name)
    return {"items": [item_of(row) for row in service.history.accepted_false_alarms(name, 100)]}


@router.post("/{name}/proposal", response_model=answers.Added, include_in_schema=False)  # its name until 0.3
@router.post("/{name}/feedback", response_model=answers.Added, responses=_REFUSED)
async def learn_feedback(name: str, chosen: answers.Chosen, request: Request) -> Any:
    """Let the model learn from some of them: its file is replaced, the old one kept beside it."""
    service = service_of(request)
    known_model(service, name)
    # in the thread that uses the models, and without a time limit: half-way it could not be given up
    return await asyncio.wrap_future(service.inspector.run(lambda: _learn(service, name, sorted(set(chosen.ids)))))


def _learn(service: Service, name: str, ids: list[int]) -> dict[str, Any]:
    """Add the images of some inspections to a model's file, and load it. Raises `HTTPException`."""
    with service.history.turn(name) as is_ours:
        if not is_ours:
            raise service.inspector.not_now(503, f"another station is changing {name} now; try again later")
        return _learn_in_turn(service, name, ids)


def _learn_in_turn(service: Service, name: str, ids: list[int]) -> dict[str, Any]:
    uploads = {id: _eligible(service, name, id) for id in ids}
    model = known_model(service, name)
    try:
        model = service.models.reload(name)  # another station may have changed it since
        detector = service.models.open(model.file)
        # some may be known: where the service was killed on its way, or where a picture was inspected twice
        channel = detector.inputs_.channels[0]
        named = {id: replace(u.source, name=_name(id, u)).seen_in(channel) for id, u in uploads.items()}
        fitted = detector.require_fitted()
        unknown = {source.name for source in tell_apart(fitted, detector.folder, list(named.values()))[0]}
        new = {id: source for id, source in named.items() if source.name in unknown}
        backup = None
        if new:
            detector.add(new.values(), on_error=give_up)
            model, backup = service.models.replace(name, detector)
    except (PatchbankError, OSError) as error:
        raise HTTPException(409, shown(str(error).replace(f"{model.file.parent}/", ""))) from None
    service.history.mark_added(ids, time.time())
    answer = {
        "added": list(new),
        "threshold": detector.calibration_.threshold,
        "entry": detector.history[-1],
        "backup": backup,
        "model": model.describe(),
    }
    plain: dict[str, Any] = finite(answer)
    return plain


def _name(id: int, upload: Upload) -> str:
    """Of an image in a model: a client's may look like a file's, and another history has the same ids."""
    return f"inspection-{id}-{hashlib.sha256(upload.image + upload.geometry).hexdigest()[:12]}"


def _eligible(service: Service, name: str, id: int) -> Upload:
    """The image of an accepted false alarm. Raises `HTTPException` for an inspection that is none."""
    row, upload = kept_upload(service, id)
    if row["model"] != name or not row["is_anomalous"] or row["verdict"] != "overruled":
        raise HTTPException(409, f"inspection {id} is no false alarm of {name} that a person overruled")
    if row["added_at"] is not None:
        raise HTTPException(409, f"the model has learned from inspection {id} already")
    return upload
