"""The commands as a user runs them: results, exit codes, messages, and the mistakes a user makes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from patchbank import fitting
from patchbank.audit import Audit, Suspect
from patchbank.cli import demo
from patchbank.cli.audit import _words
from patchbank.data.lattice import EVEN
from patchbank.methods import METHODS, PatchCore
from tests.cli.running import in_its_own_process, patchbank
from tests.conftest import bad_image, good_image

QUICK = ["--image-size", "96", "--bank-size", "100"]


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images among a truncated JPEG, a text file named .png and a 16-bit PNG."""
    folder = tmp_path_factory.mktemp("messy")
    for i in range(4):
        Image.fromarray(good_image(i)).save(folder / f"good{i}.png")
    Image.fromarray(good_image(5)[:, :, 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(good_image(6)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:1500])
    (folder / "text.png").write_text("this is no image")
    return folder


def test_help_and_version() -> None:
    for arguments in (["--help"], ["fit", "--help"], ["predict", "-h"]):
        done = in_its_own_process(*arguments)
        assert done.returncode == 0
        assert "Usage" in done.stdout
    assert in_its_own_process("--version").stdout.startswith("patchbank ")


def test_fit_info_and_json(parts: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    done = in_its_own_process("fit", parts, "-o", model, *QUICK, "--false-alarm-rate", "0.2", "--set", "neighbours=0")
    assert done.returncode == 0, done.stderr
    assert "learned from 8 images" in done.stdout
    assert "mvtec layout" in done.stdout
    assert done.stderr == ""  # no bars in a pipe
    described = json.loads(patchbank("info", model, "--json").stdout)
    assert described["bank_vectors"] == 100
    assert described["options"]["neighbours"] == 0
    assert described["false_alarm_rate"] == 0.2
    assert "bank_vectors" in patchbank("info", model).stdout


def test_predict_writes_everything(parts: Path, model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = patchbank("predict", model_file, parts / "test", "-O", out, "--maps")
    assert done.returncode == 0, done.stderr
    assert "8 images inspected, 4 rejected" in done.stdout
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert list(rows[0]) == ["path", "score", "p_value", "threshold", "is_anomalous", "regions"]
    assert [row["is_anomalous"] for row in rows] == ["False"] * 4 + ["True"] * 4
    assert json.loads(rows[-1]["regions"])[0]["box"]
    assert len(list((out / "overlays").rglob("*.png"))) == 8
    with Image.open(out / "maps" / "spot" / "000.tiff") as image:
        assert (image.mode, image.size) == ("F", (128, 96))
        assert np.asarray(image).max() > float(rows[0]["threshold"])
    assert not (out / "errors.csv").exists()
    assert not list(out.rglob("*.tmp"))


def test_predict_json(parts: Path, model_file: Path) -> None:
    done = patchbank("predict", model_file, parts / "test" / "spot", "--json", "--threshold", "1e9")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    assert {row["is_anomalous"] for row in rows} == {False}
    assert rows[0]["threshold"] == 1e9


def test_bad_images_are_named_and_the_rest_goes_on(messy: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    done = patchbank("fit", messy, "-o", model, *QUICK)
    assert done.returncode == 1
    assert "learned from 5 images" in done.stdout
    assert "cut.jpg" in done.stderr
    assert "text.png" in done.stderr
    assert "Traceback" not in done.stderr
    done = patchbank("predict", model, messy, "-O", tmp_path / "out")
    assert done.returncode == 1
    assert len(list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))) == 5
    errors = list(csv.DictReader((tmp_path / "out" / "errors.csv").open()))
    assert sorted(Path(row["path"]).name for row in errors) == ["cut.jpg", "text.png"]
    done = patchbank("predict", model, messy / "text.png", "-O", tmp_path / "out2")
    assert done.returncode == 2


def test_evaluate_writes_metrics_and_report(parts: Path, model_file: Path, tmp_path: Path) -> None:
    done = patchbank("evaluate", model_file, parts, "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rejects 4 of 4 defective parts" in done.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["image_auroc"] == 1
    html = (tmp_path / "report.html").read_text()
    assert "spot" in html
    scores = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["path"] for row in scores][::4] == ["test/good/000.png", "test/spot/000.png"]
    assert json.loads(patchbank("evaluate", model_file, parts, "-O", tmp_path, "--json").stdout)["n_good"] == 4


def test_benchmark_writes_a_table_and_resumes(parts: Path, tmp_path: Path) -> None:
    command = ["benchmark", parts, "-O", tmp_path, "--methods", "patchcore", "--seeds", "0,1", *QUICK]
    done = patchbank(*command)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0].startswith("| dataset | method | backbone | seed | trained on | image AUROC |")
    assert [line.split(" | ")[1:4:2] for line in printed[2:4]] == [["patchcore", "0"], ["patchcore", "1"]]
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert rows[0]["image_auroc"] == "1.0"
    assert rows[0]["fit_seconds_features"]
    assert (tmp_path / rows[0]["cell"] / "scores.csv").exists()
    assert (tmp_path / "results.tex").read_text().endswith("\\end{tabular}\n")
    assert (tmp_path / "results.md").read_text().count("\n") == 4 + 6  # the cells, and their mean over seeds
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    first = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")}
    assert len(first) == 2
    report = (tmp_path / "report.html").read_text()
    assert "Only one configuration was run: patchcore" in report
    assert report.count('<tr class="seed">') == 2
    assert 'alt="spot/' in report  # a picture of a defect found
    assert patchbank(*command).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("metrics.json")} == first


def test_an_interrupted_benchmark_says_how_to_go_on(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchbank.evaluation.benchmark import Runner

    whole = Runner.one

    def interrupted(self: Runner, cell: Any, *arguments: Any, **options: Any) -> None:
        if cell.detector.seed == 1:
            raise KeyboardInterrupt
        whole(self, cell, *arguments, **options)

    monkeypatch.setattr(Runner, "one", interrupted)
    command = ["benchmark", parts, "-O", tmp_path, "--seeds", "0,1", *QUICK]
    with monkeypatch.context() as patched:
        patched.setattr(os, "_exit", lambda code: sys.exit(code))
        done = patchbank(*command)
    assert done.returncode == 130
    assert f"1 of 2 cells are in {tmp_path}: the same command goes on" in done.stderr
    monkeypatch.undo()
    assert patchbank(*command).stdout.count("| patchcore |") == 2


def test_a_preset_prints_what_is_published_beside_ours(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_measured", lambda *_: EVEN)  # of a wide ResNet it takes most of the time
    done = patchbank("benchmark", parts, "-O", tmp_path, "--preset", "lmf-table4", "--weights", "random", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "# lmf-table4" in done.stdout
    assert "`--weights random` `--image-size 96` `--bank-size 100`" in done.stdout
    assert (tmp_path / "preset.md").read_text() in done.stdout
    (row, _) = csv.DictReader((tmp_path / "preset.csv").open())
    assert (row["variant"], row["backbone"], row["published"]) == ("LMF-Core", "wide_resnet50", "96.4")
    assert row["difference"] == ""
    listed = patchbank("benchmark", "--preset", "list")
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == 15


def test_a_cell_that_cannot_be_run_does_not_end_a_grid(parts: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(parts, mixed)
    Image.fromarray(good_image(9, (96, 256))).save(mixed / "train" / "good" / "wide.png")
    command = ["benchmark", mixed, "-O", tmp_path / "out", "--image-size", "96"]
    done = patchbank(*command, "--methods", "padim,mahalanobis", "--set", "sigma=5")
    assert done.returncode == 1
    assert done.stderr.count("--set sigma: left out for mahalanobis, where it has no effect") == 1
    assert "geometry=paper" in done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["method"] for row in rows] == ["mahalanobis"]
    assert rows[0]["image_auroc"] == "1.0"
    assert rows[0]["pixel_auroc"] == ""
    report = next((tmp_path / "out").glob("*/report.html")).read_text()
    assert "gives no map" in report
    assert "geometry=paper" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "out" / "errors.csv").unlink()
    assert patchbank("report", tmp_path / "out").returncode == 0
    assert "geometry=paper" not in (tmp_path / "out" / "report.html").read_text()
    assert patchbank(*command, "--methods", "padim").returncode == 2


@pytest.mark.parametrize("method", ["padim", "fapm", "subspace"])
def test_other_methods_through_the_commands(method: str, parts: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.patchbank"
    done = patchbank("fit", parts, "-o", model, "--method", method, "--image-size", "96", "--shots", "5", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["method"], summary["images"]) == (method, 5)
    assert summary["bank_mb"] > 0
    assert f"{method}\n" in patchbank("info", model).stdout
    done = patchbank("predict", model, parts / "test", "-O", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    bad = [float(row["score"]) for row in rows if "spot" in row["path"]]
    assert min(bad) > max(float(row["score"]) for row in rows if "good" in row["path"])
    assert len(list((tmp_path / "out" / "overlays").rglob("*.png"))) == 8


def test_methods_are_listed() -> None:
    rows = json.loads(patchbank("methods", "--json").stdout)
    names = {row["name"] for row in rows}
    assert names == set(METHODS)
    assert names >= {"patchcore", "padim", "subspace", "btf", "m3dm", "simplenet"}
    assert all(row["computes"] and row["needs"] and "an image" in row["cost"] for row in rows)
    text = patchbank("methods").stdout
    assert all(row["name"] in text and row["needs"] in text for row in rows)


def test_doctor_and_backbones() -> None:
    done = patchbank("doctor", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["default_backbone"].startswith("works")
    rows = {row["name"]: row for row in json.loads(patchbank("backbones", "--json").stdout)}
    assert rows["efficientnet_lite0"]["weights"].endswith(".pth")
    assert rows["wide_resnet50"]["source"].startswith("https://")
    assert "wide_resnet50" in patchbank("backbones").stdout


def test_set_parses_every_kind_of_option() -> None:
    from patchbank.cli.detectors import make_detector

    given = ["balance_levels=false", "sigma=2.5", "levels=1,2", "threads=none", "sampler=random", "patch_size=5"]
    options = make_detector("patchcore", given).parameters()
    assert (options["balance_levels"], options["sigma"], options["levels"]) == (False, 2.5, (1, 2))
    assert (options["threads"], options["sampler"], options["patch_size"]) == (None, "random", 5)


MISTAKES = {
    "fit missing -o m.patchbank": "missing: no such file or folder|missing",
    "fit {empty} -o m.patchbank": "no images",
    "fit {parts} -o {parts}": "is a folder",
    "fit {parts} -o m.patchbank --method magic": "--method must be one of patchcore",
    "fit {parts} -o m.patchbank --backbone resnet19": "unknown backbone",
    "fit {parts} -o m.patchbank --levels two": "levels takes numbers such as 2,3",
    "fit {parts} -o m.patchbank --levels 9": "has the levels",
    "fit {parts} -o m.patchbank --set colour=1": "has no such option",
    "fit {parts} -o m.patchbank --false-alarm-rate 5%": "--false-alarm-rate': it takes a share, such as 0.05, not '5%'",
    "predict {model} {parts} -O out --false-discovery-rate 5%": "it takes a share, such as 0.05, not '5%'",
    "fit {parts} -o m.patchbank --method padim --coreset-ratio 0.1": "--coreset-ratio: padim has no such option",
    "fit {parts} -o m.patchbank --shots 9": "--shots must lie in 1..8",
    "fit {parts} -o m.patchbank --method fapm --set regions=0": "regions must be at least 1",
    "fit {parts} -o m.patchbank --backbone efficientnet_lite0+": "unknown backbone",
    "fit {parts} -o m.patchbank --set neighbours": "key=value",
    "fit {parts} -o m.patchbank --set neighbours=few": "neighbours takes int",
    "fit {parts} -o m.patchbank --set balance_levels=perhaps": "balance_levels takes bool",
    "fit {parts} -o m.patchbank --coreset-ratio 10": "such as 0.1 for 10 %",
    "fit {parts} -o m.patchbank --bank-size 5 --bank-memory 1MB": "only one of",
    "fit {parts} -o m.patchbank --memory-budget much": "such as 4GB",
    "fit {parts} -o m.patchbank --memory-budget 1MB": "needs about",
    "fit {parts} -o m.patchbank --weights nowhere.pth": "no such weight file",
    "predict missing.patchbank {parts} -O out": "no such model file",
    "predict {image} {parts} -O out": "not a patchbank model",
    "predict {model} missing -O out": "missing: no such file or folder",
    "predict {model} {parts}": "give a folder for the results with -O",
    "predict {model} {parts} --json --maps": "needs a folder",
    "evaluate {model} {good} -O out": "no test images",
    "info {image}": "not a patchbank model",
    "benchmark {parts} -O out --categories nothing": "none of these",
    "benchmark {parts} -O out --seeds a": "whole numbers",
    "report {parts}": "no finished cell",
    "benchmark {parts} -O out --preset table9": "--preset list",
    "benchmark {parts} -O out --preset lmf-table4 --methods padim": "has lmf",
    "benchmark {parts} -O out --cache much": "--cache takes a size",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_clear_line(
    command: str, parts: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"parts": parts, "good": parts / "train" / "good", "model": model_file, "empty": tmp_path / "empty"}
    places["image"] = parts / "train" / "good" / "000.png"
    monkeypatch.chdir(tmp_path)
    done = patchbank(*command.format(**places).split())
    assert done.returncode == 2
    assert any(words in done.stderr for words in MISTAKES[command].split("|"))
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.patchbank").exists()


def test_one_image_is_no_plural(parts: Path, tmp_path: Path) -> None:
    image, model = parts / "train" / "good" / "000.png", tmp_path / "m.patchbank"
    (tmp_path / "one").mkdir()
    shutil.copy(image, tmp_path / "one")
    assert "learned from 1 image of" in patchbank("fit", tmp_path / "one", "-o", model, *QUICK).stdout
    assert "1 image inspected, " in patchbank("predict", model, image, "-O", tmp_path / "out").stdout


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (
            1,
            ["2 images looked over: 1 stands out", "1 pair looks like", "1 image is not", "1 image cannot be read"],
        ),
        (2, ["4 images looked over: 2 stand out", "2 pairs look like", "2 images are not", "2 images cannot be read"]),
    ],
)
def test_what_an_audit_says_of_one_and_of_two(n: int, said: list[str]) -> None:
    ranked = (*[Suspect("a", 9.0, 99.0)] * n, *[Suspect("b", 1.0, 0.0)] * n)
    found = Audit(ranked, (("a", "b", 0.0),) * n, (("c", (3, 3)),) * n, (1, 2), (("d", "no"),) * n, PatchCore())
    lines = [line for line in _words(found).splitlines() if not line.startswith(" ")]
    assert [line[: len(words)] for line, words in zip(lines, said, strict=True)] == said


def test_without_the_packages_of_the_command_line() -> None:
    without = "import sys; sys.modules['typer'] = None; from patchbank.__main__ import start; start()"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "patchbank: the command line needs typer: `pip install patchbank` brings it, and exported models run without "
        "it by `python -m patchbank.edge.runtime`\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of a POSIX system")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_fit_leaves_no_model(number: signal.Signals, tmp_path: Path) -> None:
    for i in range(60):  # 184 000 patches, of which half would be selected: far more than the seconds waited for
        Image.fromarray(good_image(i, (384, 512))).save(tmp_path / f"{i}.png")
    model = tmp_path / "out" / "m.patchbank"
    command = [sys.executable, "-m", "patchbank", "fit", str(tmp_path), "-o", str(model), "--coreset-ratio", "0.5"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell starts what it runs in the background with SIGINT ignored, which would be handed on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(5)
    assert process.poll() is None, "the fit was over before it could be interrupted"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not model.exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in error


def test_images_of_one_name_do_not_overwrite_each_other(model_file: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(bad_image(1)).save(tmp_path / folder / "x.png")
    assert patchbank("predict", model_file, tmp_path / "a", tmp_path / "b", "-O", tmp_path / "out").returncode == 0
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2


@pytest.mark.slow
def test_demo_runs_and_is_not_trivial(tmp_path: Path) -> None:
    """On fewer parts than a user gets."""
    with mock.patch.object(demo, "_PICTURES", {"n_train": 12, "n_test_good": 6, "n_per_defect": 2}):
        done = patchbank("demo", "-O", tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [json.loads(p.read_text())["image_auroc"] for p in sorted(tmp_path.rglob("metrics.json"))]
    assert len(scores) >= 2
    assert all(score > 0.85 for score in scores)
    assert min(scores) < 0.999
    assert done.stdout.count("report.html") == len(scores)
