"""The page on the HTTP API, from the OpenAPI document that the service itself serves."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

PAGE = "reference/http.md"
METHODS = ("get", "post", "put", "patch", "delete")


def http_page() -> str:
    """Markdown of the page: each path with its parameters, bodies and answers, then each schema."""
    document = openapi()
    parts = [
        "# HTTP API\n",
        "`patchbank serve` answers these requests. The running service describes itself at `/openapi.json`, and this "
        "page is made from that document. [The service](../guides/service.md) has examples, "
        "[deploying](../guides/deploy-proxy.md) says how to reach it from other machines.\n",
        _summary(document),
    ]
    for path, operations in document["paths"].items():
        parts += [_operation(path, method, operations[method]) for method in METHODS if method in operations]
    parts.append("## Schemas\n")
    parts += [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join(parts)


def openapi() -> dict[str, Any]:
    """The OpenAPI document of a service without a model. Raises `PatchbankError` where a package is missing."""
    from patchbank.service.app import build_app
    from patchbank.service.config import Config

    with tempfile.TemporaryDirectory() as folder:
        app = build_app(
            Config(models=(), models_dir=Path(folder), fit_root=Path(folder), history=Path(folder) / "h.sqlite")
        )
        document: dict[str, Any] = app.openapi()
        app.state.service.history.close()
    return document


def _summary(document: dict[str, Any]) -> str:
    rows = ["| request | what it does |", "|---|---|"]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                name = f"{method.upper()} {path}"
                rows.append(f"| [`{name}`](#{_anchor(method, path)}) | {_line(_first(_said(operations[method])))} |")
    return "\n".join(rows) + "\n"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"## {method.upper()} {_plain(path)} {{#{_anchor(method, path)}}}\n", _text(_said(operation)) + "\n"]
    if parameters := operation.get("parameters"):
        parts.append(_table(["parameter", "in", "type", "default", "meaning"], [_parameter(p) for p in parameters]))
    if bodies := operation.get("requestBody", {}).get("content"):
        each = [f"`{kind}` ({_type(content.get('schema', {}))})" for kind, content in bodies.items()]
        parts.append(f"Body: {', '.join(each)}\n")
    parts += ["| answer | body | meaning |", "|---|---|---|"]
    for code, answer in sorted(operation.get("responses", {}).items()):
        bodies = ", ".join(f"`{k}` {_type(c.get('schema', {}))}" for k, c in answer.get("content", {}).items())
        parts.append(f"| {code} | {bodies or '–'} | {_line(answer.get('description', ''))} |")
    return "\n".join(parts) + "\n"


def _parameter(parameter: dict[str, Any]) -> list[str]:
    schema = parameter.get("schema", {})
    default = "required" if parameter.get("required") else _value(schema["default"]) if "default" in schema else "–"
    name, meaning = parameter["name"], parameter.get("description") or schema.get("description", "")
    return [f"`{name}`", parameter["in"], _type(schema), default, _line(meaning)]


def _schema(name: str, schema: dict[str, Any]) -> str:
    parts = [f"### {name} {{#schema-{name.lower()}}}\n"]
    if schema.get("description"):
        parts.append(_text(schema["description"]) + "\n")
    if properties := schema.get("properties"):
        required = set(schema.get("required", ()))
        rows = [
            [f"`{field}`", _type(of), "yes" if field in required else "no", _line(of.get("description", ""))]
            for field, of in properties.items()
        ]
        parts.append(_table(["field", "type", "required", "meaning"], rows))
    elif "enum" in schema:
        parts.append("One of " + ", ".join(_value(v) for v in schema["enum"]) + ".")
    return "\n".join(parts) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """A table without the columns that are empty in every row."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    lines = [[columns[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, with a link where it is a named one."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#schema-{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(s) for s in schema[key]))
    if "enum" in schema:
        return " or ".join(_value(v) for v in schema["enum"])
    if "const" in schema:
        return _value(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    kind = schema.get("type", "any value")
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"),
            ("maxLength", "length ≤"),
        )
        if key in schema
    ]  # fmt: skip
    form = {"binary": " (bytes)", "date-time": " (time)"}.get(schema.get("format", ""), "")
    return f"{kind}{form}{', ' + ', '.join(bounds) if bounds else ''}"


def _said(operation: dict[str, Any]) -> str:
    return operation.get("description") or operation.get("summary", "")


def _first(text: str) -> str:
    """The first sentence."""
    return " ".join(text.split()).partition(". ")[0].removesuffix(".") + "."


def _anchor(method: str, path: str) -> str:
    return method + "-" + path.strip("/").replace("/", "-").replace("{", "").replace("}", "").replace(".", "-")


def _value(value: object) -> str:
    return f"`{json.dumps(value)}`"


def _line(text: str) -> str:
    return _text(" ".join(text.split())).replace("|", "\\|")


def _text(text: str) -> str:
    return text.replace("<", "\\<")


def _plain(path: str) -> str:
    return path.replace("{", "&#123;").replace("}", "&#125;")
