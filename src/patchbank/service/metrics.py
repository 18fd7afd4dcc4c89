"""What Prometheus may ask."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The numbers of one service; every label has a bounded number of values."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "patchbank_requests", "Answered requests.", ["method", "path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "patchbank_request_seconds", "Time to the whole answer.", ["path"], registry=registry, buckets=_SECONDS
        )
        self.inspections = Counter(
            "patchbank_inspections", "Inspected images.", ["model", "verdict"], registry=registry
        )
        self.stages = Histogram(
            "patchbank_stage_seconds", "Time of one image in a stage.", ["stage"], registry=registry, buckets=_SECONDS
        )
        self.batches = Histogram(
            "patchbank_batch_images", "Images taken together.", ["kind"], registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        self.pending = Gauge("patchbank_pending_images", "Accepted and not yet answered.", registry=registry)
        self.reloads = Counter("patchbank_reloads", "Replaced model files.", ["model", "outcome"], registry=registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts and times every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the pattern, not what a client made up
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.requests.labels(method, path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)
