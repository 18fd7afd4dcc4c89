"""The examples of deployments start the service with options that it has, and name files that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tools.release_check import ROOT

from patchbank.cli import app

EXAMPLES = ROOT / "examples"


def parse_serve(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of the arguments after `serve`. Raises a usage error for options it does not have."""
    group: Any = typer.main.get_command(app)
    parsed: dict[str, Any] = group.commands["serve"].make_context("serve", list(arguments)).params
    return parsed


def test_the_image_serves_models_and_keeps_a_history() -> None:
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    assert found is not None
    program, command, *arguments = json.loads(found[1])
    assert (program, command) == ("patchbank", "serve")
    parsed = parse_serve(arguments)
    assert parsed["models_dir"] == Path("/data/models")
    assert parsed["token_file"] == Path("/data/token")
    extras = re.search(r"/source\[([\w,]+)\]", text)
    assert extras is not None
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(extras[1].split(",")) <= set(known)


def test_the_stations_share_one_history() -> None:
    document = yaml.safe_load((EXAMPLES / "compose.yaml").read_text(encoding="utf-8"))
    for name in ("station1", "station2"):
        station = document["services"][name]
        program, command, *arguments = station["entrypoint"]
        assert (program, command) == ("patchbank", "serve")
        assert parse_serve(arguments)["history"].startswith("postgresql://patchbank@database/")
        assert (ROOT / station["build"]["dockerfile"]).is_file()
        assert "database" in station["depends_on"]
    proxied = re.findall(r"(station\d):8000", document["configs"]["caddyfile"]["content"])
    assert set(proxied) <= set(document["services"])


def test_the_cluster_is_one_that_ray_can_start() -> None:
    checks = pytest.importorskip("ray.autoscaler._private.util")
    document = yaml.safe_load((EXAMPLES / "ray-cluster.yaml").read_text(encoding="utf-8"))
    checks.validate_config(checks.prepare_config(document))


def test_the_unit_answers_what_it_accepted() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(EXAMPLES / "patchbank.service", encoding="utf-8")
    started = unit["Service"]["ExecStart"].replace("\\\n", " ")
    program, command, *arguments = shlex.split(started)
    assert (Path(program).name, command) == ("patchbank", "serve")
    parsed = parse_serve(arguments)
    assert parsed["token_file"] is not None  # it listens on every address
    assert int(unit["Service"]["TimeoutStopSec"]) > parsed["time_limit"]
