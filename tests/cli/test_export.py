"""`patchbank export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patchbank import PatchCore
from patchbank.cli import app
from patchbank.edge import runtime
from patchbank.errors import ExportError, OptionError, PatchbankError
from patchbank.export import folder as exporting
from tests.conftest import bad_image

pytest.importorskip("onnxruntime")


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(found.exception, PatchbankError):  # `main` makes exit code 2 of it
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def test_export(fitted: PatchCore, model_file: Path, parts: Path, tmp_path: Path) -> None:
    said = run("export", model_file, "-O", tmp_path / "out", "--images", parts / "test", "--bank", "external")
    assert "on 8 images the score differs by" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["bank.npy", "model.onnx", "patchbank.json"]
    image = bad_image(5)
    found = runtime.load(tmp_path / "out").predict(image)
    assert found.score == pytest.approx(fitted.predict(image).score, rel=1e-4)


def test_int8_says_what_it_changed(model_file: Path, tmp_path: Path) -> None:
    said = run("export", model_file, "-O", tmp_path / "out", "--int8")
    int8 = json.loads((tmp_path / "out" / "patchbank.json").read_text())["int8"]
    assert f"{int8['verdicts']} of 8 verdicts change" in said


def test_wrong_use(model_file: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--input-size", "64"), "384x512"),
        (("--input-size", "64x64"), "none of the 8 images is inspected at 64x64"),
        (("--format", "coreml"), "onnx, openvino, torchscript"),
    ):
        with pytest.raises(OptionError, match=words):
            run("export", model_file, "-O", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_differs_is_refused(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(exporting.parity, "TOLERANCE", 1e-12)
    with pytest.raises(ExportError, match="does not compute what the model does"):
        run("export", model_file, "-O", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
