"""`--align` through the commands, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank.demo.synthetic import draw, write_dataset
from tests.cli.test_changing import Capture, run

QUICK = ["--image-size", "96", "--threads", "1"]


@pytest.fixture(scope="module")
def gears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("set"), "gear", n_train=6, n_test_good=2, n_per_defect=1)


def test_fit_predict_and_info(gears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    model, today = tmp_path / "m.patchbank", tmp_path / "today"
    good = gears / "train/good"
    assert run(monkeypatch, "fit", good, "-o", model, "--method", "padim", "--align", *QUICK) == 0
    capsys.readouterr()
    assert run(monkeypatch, "info", model, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["aligned_with"].startswith(str(good))
    assert described["aligned_with"].endswith(".png (320×256 pixels)")
    assert described["options"]["align"] is True
    today.mkdir()
    Image.open(gears / "test/good/000.png").save(today / "gear.png")
    Image.fromarray(draw("weave", None, np.random.default_rng(0))[0]).save(today / "cloth.png")
    assert run(monkeypatch, "predict", model, today, "-O", tmp_path / "out") == 1
    errors = (tmp_path / "out/errors.csv").read_text(encoding="utf-8")
    assert "cloth.png: cannot be aligned with the reference" in errors
    assert "gear.png" in (tmp_path / "out/predictions.csv").read_text(encoding="utf-8")
    assert run(monkeypatch, "predict", model, today / "gear.png", "-O", tmp_path / "one") == 0


def test_benchmark(gears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("benchmark", gears, "-O", tmp_path, "--methods", "patchcore,mahalanobis", "--align", *QUICK)
    assert run(monkeypatch, *arguments) == 1  # one method does not take it, the other is run
    assert "leave out align" in (tmp_path / "errors.csv").read_text(encoding="utf-8")
    (report,) = tmp_path.glob("gear-patchcore-*/report.html")
    assert "Aligned with" in report.read_text(encoding="utf-8")


def test_refused_in_a_sentence(gears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    model = tmp_path / "m.patchbank"
    assert run(monkeypatch, "fit", gears, "-o", model, "--align", "--set", "augment=rotations", *QUICK) == 2
    assert "align lays every part the same way" in capsys.readouterr().err
    assert not model.exists()
