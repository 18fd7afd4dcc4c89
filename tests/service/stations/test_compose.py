"""The compose file is what it says: two stations, a database, and Caddy; its options exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

import patchbank.cli

yaml = pytest.importorskip("yaml")
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / "compose.yaml").read_text())  # type: ignore[no-any-return]


def test_two_stations_share_one_database_behind_caddy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"station1", "station2", "database", "caddy"}
    assert services["station1"] == services["station2"]
    assert list(services["station1"]["depends_on"]) == ["database"]
    assert (EXAMPLES.parent / services["station1"]["build"]["dockerfile"]).is_file()


def test_what_is_named_is_defined(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"])
        named = {volume.partition(":")[0] for volume in service["volumes"]}
        assert {name for name in named if not name.startswith(".")} <= set(compose["volumes"])
        assert set(service.get("depends_on", [])) <= set(compose["services"])


def test_its_options_are_those_of_serve(compose: dict[str, Any]) -> None:
    command = compose["services"]["station1"]["entrypoint"]
    serve = typer.main.get_command(patchbank.cli.app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in serve.params for option in parameter.opts}
    used = {word for word in command if word.startswith("--")}
    assert {"--history", "--images", "--models-dir", "--token-file"} <= used <= known


def test_caddy_asks_whether_a_station_is_ready(compose: dict[str, Any]) -> None:
    caddyfile = compose["configs"]["caddyfile"]["content"]
    assert caddyfile.count("{") == caddyfile.count("}")
    assert "reverse_proxy station1:8000 station2:8000" in caddyfile
    assert "health_uri /readyz" in caddyfile
