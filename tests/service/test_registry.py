"""The registry of models: one file says which version is served, and it is changed at once or not at all."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import patchbank
from patchbank._system.files import file_digest
from patchbank.cli import app
from patchbank.errors import ModelFileError, OptionError
from patchbank.io.model_file import read
from patchbank.service.registry import VERSIONS, VersionedModel, model_of, models_below
from tests.service.conftest import BAD, PNG, URL, Start, inspect


def versions_of(files: list[Path]) -> list[str]:
    return [file_digest(file)[:12] for file in files]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of different contents."""
    for i in range(3):
        (tmp_path / f"{i}.patchbank").write_bytes(bytes([i]) * 10)
    return [tmp_path / f"{i}.patchbank" for i in range(3)]


def anything(file: Path) -> None:
    """A check that every file passes."""


def test_versions_are_switched_and_rolled_back(files: list[Path], tmp_path: Path) -> None:
    model = model_of(tmp_path / "models", "parts")
    one, two, three = [model.add(file) for file in files]
    assert [one, two, three] == versions_of(files)
    assert model.versions() == [one, two, three]
    assert model.current().read_bytes() == files[2].read_bytes()
    assert model.rollback(anything) == two
    assert model.rollback(anything) == one
    with pytest.raises(OptionError, match="no version before"):
        model.rollback(anything)
    assert model.switch(three[:5], anything) == three
    assert model.rollback(anything) == one
    assert [c.action for c in model.state().changes] == ["add"] * 3 + ["rollback"] * 2 + ["switch", "rollback"]
    assert [found.name for found in models_below(tmp_path / "models")] == ["parts"]


def test_a_version_twice_is_one(files: list[Path], tmp_path: Path) -> None:
    model = model_of(tmp_path / "models", "parts")
    model.add(files[0])
    model.add(files[0])
    with pytest.raises(OptionError, match="no version before"):
        model.rollback(anything)
    with pytest.raises(OptionError, match="a model named parts already"):
        model.add(files[1], is_new=True)
    with pytest.raises(OptionError, match=r"was switched to version .* meanwhile"):
        model.add(files[1], "learn", after="0" * 12)
    assert model.add(files[1], "learn", after=model.state().current) == model.state().current


def test_a_torn_version_is_not_switched_to(tiny: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path / "models", "parts")
    good = model.add(tiny)
    torn = tmp_path / "torn.patchbank"
    torn.write_bytes(tiny.read_bytes()[:-100])
    model.add(torn)
    model.rollback(read)
    with pytest.raises(ModelFileError):
        model.switch(file_digest(torn)[:12], read)
    assert model.state().current == good


def test_odd_names_and_files_are_refused(files: list[Path], tmp_path: Path) -> None:
    for name in ("..", "a/b", "", ".hidden", "x" * 65):
        with pytest.raises(OptionError, match="a model's name"):
            model_of(tmp_path, name)
    model = model_of(tmp_path / "models", "parts")
    with pytest.raises(OptionError, match="no such model"):
        model.switch("abc", anything) if model.folder.exists() else model.rollback(anything)
    model.add(files[0])
    with pytest.raises(OptionError, match="no such version"):
        model.switch("zz", anything)
    for text in ("", "[]", "{}", '{"format": 2}', '{"format": 1, "served": ["../../x"], "changes": []}'):
        model.versions_file.write_text(text)
        with pytest.raises(ModelFileError, match=VERSIONS):
            model.state()


def test_changes_at_the_same_time_take_turns(files: list[Path], tmp_path: Path) -> None:
    model = model_of(tmp_path / "models", "parts")
    model.add(files[0])
    others = versions_of(files)[1:]
    for file in files[1:]:
        shutil.copy(file, model.file_of(file_digest(file)[:12]))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(VersionedModel(model.folder).switch, others[i % 2], anything) for i in range(20)]:
            done.result()
    state = json.loads(model.versions_file.read_text())
    assert len(state["changes"]) == 21


def test_the_commands_say_what_they_did(tiny: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "models")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    version = file_digest(tiny)[:12]
    assert run("add", folder, "parts", str(tiny)) == f"parts: version {version} is served now\n"
    assert run("list", folder).split()[:4] == ["parts", version, "served", "add"]
    (row,) = json.loads(run("list", folder, "--json"))
    assert (row["name"], row["version"], row["is_served"]) == ("parts", version, True)
    assert "is served now" in run("switch", folder, "parts", version[:4])
    assert "is served again" not in CliRunner().invoke(app, ["models", "rollback", folder, "parts"]).output


def wait_for(what: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def other_version(tiny: Path, folder: Path) -> Path:
    """The same model with another threshold, which is another version."""
    detector = patchbank.load(tiny, threads=1)
    path = folder / "other" / "parts.patchbank"
    detector.calibration_ = detector.calibration_.at_rate(0.5)
    detector.save(path)
    return path


def test_a_service_follows_switch_and_rollback_without_a_failed_request(
    start: Start, tiny: Path, tmp_path: Path
) -> None:
    model = model_of(tmp_path / "models", "parts")
    first = model.add(tiny)
    second_file = other_version(tiny, tmp_path)
    one = start(models=(), models_dir=tmp_path / "models")
    assert inspect(one)["version"] == first
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(one.post(URL, content=BAD, headers=PNG))

    def version() -> str:
        return str(answers[-1].json()["results"][0]["version"]) if answers else ""

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            second = model.add(second_file)
            wait_for(lambda: version() == second)
            model.rollback(read)
            wait_for(lambda: version() == first)
        finally:
            stop.set()
        for done in asking:
            done.result()
    assert {answer.status_code for answer in answers} == {200}


def test_a_service_finds_a_model_that_another_one_put_there(start: Start, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    one = start(models_dir=folder)
    model_of(folder, "gears").add(tiny)
    wait_for(lambda: {m["name"] for m in one.get("/v1/models").json()["models"]} == {"parts", "gears"})


def test_an_unreadable_list_of_versions_stops_nothing(start: Start, tiny: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path / "models", "parts")
    version = model.add(tiny)
    one: TestClient = start(models=(), models_dir=tmp_path / "models")
    model.versions_file.write_text("{")
    time.sleep(1.2)  # two looks
    assert inspect(one)["version"] == version
