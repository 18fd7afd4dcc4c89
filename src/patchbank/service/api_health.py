"""`/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from patchbank.service import answers
from patchbank.service.context import PROBLEMS, service_of

router = APIRouter(tags=["operation"])


@router.get("/healthz", response_model=answers.State)
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=answers.State, responses={503: PROBLEMS[503]})
def readyz(request: Request) -> dict[str, str]:
    """Whether an inspection would be answered. After a write that failed it tries another one."""
    if problem := service_of(request).inspector.problem():
        raise HTTPException(503, problem)
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={401: PROBLEMS[401], 403: PROBLEMS[403]})
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
