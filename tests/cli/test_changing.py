"""Commands that change a model or say why it judged as it did, run in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank import cli, load
from tests.conftest import bad_image, good_image

Capture = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbank", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, make, count in (("good", good_image, 6), ("bad", bad_image, 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(make(300 + i)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_calibrate(model_file: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    new = images / "new.patchbank"
    assert run(monkeypatch, "calibrate", model_file, images / "good", "-o", new, "--false-alarm-rate", 0.2) == 0
    assert "(target false-alarm rate 20 %; held-out, 6 good images)" in capsys.readouterr().out
    assert load(new).calibration_.false_alarm_rate == 0.2
    assert (
        run(
            monkeypatch, "calibrate", new, images / "good", "--defects", images / "bad", "--in-place", "--cost-ratio", 3
        )
        == 0
    )
    assert "priced as 3 false alarms" in capsys.readouterr().out
    assert load(images / "new.patchbank.bak").calibration_.chosen is None
    assert load(new).history[-1]["what"] == "calibrated"
    assert run(monkeypatch, "calibrate", new, images / "good", "--in-place") == 0
    assert (images / "new.patchbank.bak2").exists()


def test_add_forget_merge(model_file: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    new, before = images / "new.patchbank", model_file.read_bytes()
    assert run(monkeypatch, "add", model_file, images / "bad" / "0.png", "-o", new) == 0
    assert "added 1 images (those in the model already are passed over): the bank has" in capsys.readouterr().out
    assert model_file.read_bytes() == before
    assert not load(new).predict(images / "bad" / "0.png").is_anomalous
    assert run(monkeypatch, "forget", new, "bad/0.png", "--in-place") == 0
    assert load(new).predict(images / "bad" / "0.png").is_anomalous
    assert run(monkeypatch, "merge", new, model_file, "--in-place") == 2
    assert "has learned from all images of the other" in capsys.readouterr().err
    load(model_file).fit([good_image(i) for i in range(400, 404)]).save(images / "other.patchbank")
    other = images / "other.patchbank"
    assert run(monkeypatch, "merge", new, other, "-o", images / "both.patchbank", "--bank-size", 50) == 0
    assert len(load(images / "both.patchbank").bank_) == 50
    capsys.readouterr()
    assert run(monkeypatch, "info", images / "both.patchbank", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["history"]
    assert [entry["what"] for entry in entries] == ["fitted", "added", "forgot", "merged"]
    assert run(monkeypatch, "info", new, "--images") == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_explain(model_file: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    out = images / "out"
    (images / "bad" / "broken.png").write_bytes(b"nothing")
    assert run(monkeypatch, "explain", model_file, images / "bad", "-O", out) == 1
    assert capsys.readouterr().out.count("rejected") == 3
    document = json.loads((out / "0.json").read_text())
    assert document["is_anomalous"]
    assert len(document["places"][0]["neighbours"]) == 5
    assert np.asarray(Image.open(out / "0.png")).shape[1] > 900
    assert (
        run(monkeypatch, "explain", model_file, images / "good" / "0.png", "-O", out, "--at", "5,6", "--count", 1) == 0
    )
    place = json.loads((out / "0.json").read_text())["places"][0]
    assert (place["x"], place["y"], len(place["neighbours"])) == (5, 6, 1)


def test_other_rates_at_run_time(
    model_file: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def decided(*options: object) -> list[dict[str, object]]:
        code = run(
            monkeypatch, "predict", model_file, images / "good", images / "bad", "--json", "--no-overlays", *options
        )
        assert code == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    usual = decided()
    strict = decided("--false-alarm-rate", 0.3)
    assert strict[0]["threshold"] < usual[0]["threshold"]  # type: ignore[operator]
    assert [row["score"] for row in strict] == [row["score"] for row in usual]
    batch = decided("--false-discovery-rate", 0.4)
    assert all(row["is_anomalous"] for row in batch[6:])
    assert sum(bool(row["is_anomalous"]) for row in batch[:6]) <= 2


MISTAKES = {
    "calibrate {model} {good}": "-o NEW.patchbank, or --in-place",
    "calibrate {model} {good} -o x --in-place": "-o NEW.patchbank, or --in-place",
    "calibrate {model} {good} --in-place --cost-ratio 2": "give a folder of defective images",
    "calibrate {model} {good} --defects {bad} --in-place --false-alarm-rate 0.1": "leave out --defects",
    "calibrate {model} {good} --defects {bad} --in-place --cost-ratio -1": "cost_ratio must be positive",
    "calibrate {model} {good} -o {good}": "is a folder",
    "add {model} {good} -o {model}": "is the model itself",
    "explain {model} {good}/0.png -O {good}/1.png": "1.png: ",
    "forget {model} nobody.png --in-place": "is not among the images",
    "forget {model} .png --in-place": "is not among the images",
    "merge {model} {good} --in-place": "no such model file",
    "add {model} nowhere --in-place": "no such file or folder",
    "explain {model} {good}/0.png -O out --at here": "--at takes a column and a row",
    "explain {model} {good}/0.png -O out --at 999,0": "outside the image of 128×96",
    "predict {model} {good} --json --threshold 1 --false-alarm-rate 0.1": "only one of",
    "predict {model} {good} --json --false-discovery-rate 2": "--false-discovery-rate must lie in (0, 1)",
}


@pytest.mark.parametrize("command", list(MISTAKES))
def test_mistakes(
    command: str, model_file: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = model_file.read_bytes()
    words = command.format(model=model_file, good=images / "good", bad=images / "bad").split()
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert MISTAKES[command] in error
    assert len(error.strip().splitlines()) == 1
    assert model_file.read_bytes() == before
    assert not list(model_file.parent.glob("*.bak*"))
