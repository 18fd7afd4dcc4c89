"""What --quiet leaves out, what --verbose adds, and what the doctor says about optional features."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchbank.cli import console, features
from patchbank.cli.console import set_level
from tests.cli.running import patchbank

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(autouse=True)
def _usual_level() -> Iterator[None]:
    yield
    set_level(anew=True)


def test_verbose_says_what_was_decided(parts: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    line = ["fit", parts, "-o", model, "--image-size", "96", "--bank-size", "50", "--threads", "1"]
    done = patchbank(*line, "-v")
    assert done.returncode == 0, done.stderr
    assert "patches ×" in done.stderr  # the plan
    assert "patchcore, efficientnet_lite0 by openvino on cpu, 1 threads" in done.stderr
    assert "features " in done.stderr
    assert "patchbank fit took " in done.stderr
    usual = patchbank(*line)
    assert usual.stderr == ""
    assert usual.stdout.splitlines()[0] == done.stdout.splitlines()[0]
    done = patchbank("-v", "predict", model, parts / "test" / "good", "--json")
    assert f"{model}: patchcore, efficientnet_lite0 by openvino on cpu" in done.stderr
    assert "patchbank predict took " in done.stderr


def test_quiet_prints_results_and_errors_only(parts: Path, model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_text("no image")
    (tmp_path / "images" / "good.png").write_bytes((parts / "test" / "good" / "000.png").read_bytes())
    line = ["predict", model_file, tmp_path / "images", "-o", tmp_path / "out"]
    loud, quiet = patchbank(*line), patchbank(*line, "-q")
    assert quiet.stdout == loud.stdout
    assert "is now -O" in loud.stderr
    assert "is now" not in quiet.stderr
    assert "skipped" in quiet.stderr
    assert patchbank("-q", *line).stderr == quiet.stderr
    assert patchbank("predict", "none", "x", "-O", tmp_path, "-q").stderr.startswith("patchbank: ")


def test_quiet_leaves_out_notes_and_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from patchbank.errors import notify

    monkeypatch.setattr(console, "_is_terminal", lambda: True)
    for quiet, expected in ((False, "note: look\n"), (True, "")):
        set_level(quiet=quiet, anew=True)
        with console.notices():
            notify("look")
        assert capsys.readouterr().err == expected
        with console.progress_bars() as progress:
            assert (progress is None) is quiet
        capsys.readouterr()


def test_both_exclude_each_other(tmp_path: Path) -> None:
    done = patchbank("methods", "-v", "-q")
    assert done.returncode == 2
    assert "--verbose and --quiet exclude each other" in done.stderr


def test_the_level_does_not_outlast_a_command() -> None:
    patchbank("methods", "-q")
    done = patchbank("methods", "-v")
    assert "patchbank methods took" in done.stderr
    assert patchbank("methods").stderr == ""


def test_the_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        features, "find_spec", lambda name: None if name in ("uvicorn", "fastapi", "yaml") else find(name)
    )
    shown = patchbank("doctor", "--threads", "1").stdout
    lines = {line.split()[0]: line for line in shown.split("Optional features:\n")[1].splitlines()}
    assert lines["serve"].endswith("missing (fastapi, uvicorn): pip install 'patchbank[serve]'")
    assert lines["yaml"].endswith("pip install 'patchbank[yaml]'")
    assert lines["completion"].split()[-1] in ("present", "bash", "zsh", "fish", "powershell")
    rows = {row["feature"]: row for row in json.loads(patchbank("doctor", "--json").stdout)["features"]}
    assert rows["serve"]["missing"] == ["fastapi", "uvicorn"]
    assert not rows["serve"]["present"]


def test_every_extra_is_a_feature() -> None:
    document = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = set(document["project"]["optional-dependencies"]) - {"dev", "cloud"}  # the latter is part of others
    assert extras <= {feature.extra for feature in features.FEATURES}
