"""schemathesis makes requests up from the OpenAPI document: none is answered by 500, all as the document says."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.service.conftest import BAD, Start, inspect

_CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
_EXAMPLES = 8  # for each operation


def test_no_request_is_a_server_error(start: Start) -> None:
    one = start()
    for _ in range(3):
        inspect(one, BAD)
    one.post("/v1/history/1/verdict", json={"verdict": "overruled"})
    schema = schemathesis.openapi.from_asgi("/openapi.json", one.app)
    statuses = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=_EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            known = {"name": "parts", "id": 1}  # made-up ones are all 404; every second request gets to the work
            if ask.count % 2:
                case.path_parameters = {
                    **case.path_parameters,
                    **{k: known[k] for k in known if k in case.path_parameters},
                }
            ask.count += 1
            response = case.call(headers={"host": "localhost"})
            statuses.add(response.status_code)
            case.validate_response(response, checks=_CHECKS)

        ask.count = 0
        ask()
    assert {200, 404, 422} <= statuses
    assert one.get("/readyz").status_code == 200


def test_the_document_names_every_route(start: Start) -> None:
    document = start().get("/openapi.json").json()
    assert {
        "/v1/models", "/v1/models/{name}/inspect", "/v1/models/{name}/feedback", "/v1/models/{name}/drift",
        "/v1/history", "/v1/history/{id}", "/v1/history/{id}/verdict", "/v1/history/{id}/image",
        "/v1/history/{id}/heat",
        "/v1/history/{id}/overlay", "/v1/history/{id}/explain", "/healthz", "/readyz", "/metrics",
    } <= set(document["paths"])  # fmt: skip
    bodies = document["paths"]["/v1/models/{name}/inspect"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/octet-stream", "image/png"} <= set(bodies)
