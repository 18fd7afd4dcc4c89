"""The workflow files parse, name targets and files that exist, and no machine of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.release_check import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
RULE = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def targets() -> set[str]:
    return set(RULE.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def phony() -> set[str]:
    lines = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return {name for line in lines for name in line.split()}


def test_the_four_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "matrix", "release"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_complete(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["name"] == path.stem
    assert document[True]  # `on`, which YAML reads as a truth value
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert all(name in document["jobs"] for name in [job.get("needs", "")] if name)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_step_runs_is_there(path: Path) -> None:
    commands = "\n".join(step["run"] for step in steps(path) if "run" in step)
    named = set(re.findall(r"^(?:make) ([\w-]+)", commands, re.MULTILINE))
    assert named <= targets() & phony()
    assert all((ROOT / file).is_file() for file in re.findall(r"\.ci/\w+", commands))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_have_a_version(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[\w./]+", action) for action in used)


def test_every_target_is_phony() -> None:
    """A folder named as a target, such as docs, would be up to date for ever."""
    assert targets() <= phony() | {"test"}
    assert {"docs", "tests"} & targets() <= phony()


def test_the_matrix_holds_what_pyproject_promises() -> None:
    document = yaml.safe_load((FOLDER / "matrix.yml").read_text(encoding="utf-8"))
    matrix = document["jobs"]["quick"]["strategy"]["matrix"]
    oldest = re.search(r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert oldest is not None
    assert matrix["python"][0] == oldest[1]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_address_of_a_registry(path: Path) -> None:
    assert not re.search(r"https?://|index-url|/work/|/opt/", path.read_text(encoding="utf-8"))
