"""A run is never lost: places are tried before the work, and what was computed is written whatever happens."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchbank import PatchCore, load
from patchbank.cli import results as cli_results
from patchbank.cli.results import PredictionFolder
from patchbank.data import list_images
from tests.cli.running import in_its_own_process, patchbank
from tests.conftest import bad_image, good_image, small_model

COMMANDS = {
    "fit": "fit {good} -o {out}/m.patchbank",
    "predict": "predict {model} {good} -O {out}/o",
    "evaluate": "evaluate {model} {parts} -O {out}/o",
    "benchmark": "benchmark {parts} -O {out}/o",
    "audit": "audit {good} -O {out}/o",
    "show-anomalies": "show-anomalies {good} -O {out}/o",
    "explain": "explain {model} {good} -O {out}/o",
    "export": "export {model} -O {out}/o",
    "add": "add {model} {bad} -o {out}/m.patchbank",
    "forget": "forget {model} 000.png -o {out}/m.patchbank",
    "merge": "merge {model} {model} -o {out}/m.patchbank",
    "calibrate": "calibrate {model} {bad} -o {out}/m.patchbank",
    "compare": "compare {out} -O {out}/o",
    "demo": "demo -O {out}/o",
    "watch": "watch {model} {good} -o {out}/o.csv",
    "serve": "serve {model} --history {out}/h.sqlite",
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(6):
        Image.fromarray(good_image(400 + i)).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def places(parts: Path, model: Path, out: Path) -> dict[str, Path]:
    return {
        "good": parts / "train" / "good",
        "bad": parts / "test" / "spot",
        "parts": parts,
        "model": model,
        "out": out,
    }


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["file", "long"])
def test_places_are_tried_before_the_work(
    command: str, place: str, parts: Path, model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "afile").write_text("mine")
    out = tmp_path / ("afile" if place == "file" else "x" * 256)
    started = time.monotonic()
    done = patchbank(*COMMANDS[command].format(**places(parts, model_file, out)).split())
    assert time.monotonic() - started < 2  # nothing was computed
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(out) in line
    assert "cannot be written" in line
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize(
    "command", ["fit", "predict", "evaluate", "benchmark", "audit", "explain", "export", "demo", "show-anomalies"]
)
def test_refused_before_libraries_are_imported(command: str, parts: Path, model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    words = COMMANDS[command].format(**places(parts, model_file, tmp_path / "afile")).split()
    code = f"import sys; from patchbank import cli; sys.argv = {['patchbank', *words]}\ntry: cli.main()\nfinally: "
    code += "print(sorted({'torch', 'numba', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (2, "[]"), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict {model} {good} -O -", "-O takes a name, not -"),
        ("fit {good} -o -", "takes a name, not -"),
        ("fit {good} -o /dev/null", "is no regular file"),
        ("fit {good} -o {image}", "is read by this command"),
        ("add {model} {image} -o {image}", "is read by this command"),
        ("merge {model} {other} -o {other}", "is read by this command"),
        ("predict {model} {good} -O {model}", "is a file; -O takes a folder"),
    ],
)
def test_places_that_make_no_sense(words: str, said: str, parts: Path, model_file: Path, tmp_path: Path) -> None:
    image, other = tmp_path / "good" / "000.png", tmp_path / "other.patchbank"
    shutil.copytree(parts / "train" / "good", tmp_path / "good")
    shutil.copy(model_file, other)
    before = image.read_bytes(), other.read_bytes()
    there = places(parts, model_file, tmp_path) | {"image": image, "other": other, "good": tmp_path / "good"}
    done = patchbank(*words.format(**there).split())
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (image.read_bytes(), other.read_bytes()) == before


def test_an_empty_argument_is_no_folder(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["predict", model_file, ".", "-O", ""], ["fit", "", "-o", "m.patchbank"], ["fit", ".", "--output="]):
        done = patchbank(*words)
        assert done.returncode == 2
        assert "an argument is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_an_earlier_run_go(model_file: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert patchbank("predict", model_file, images, "-O", out, "--maps").returncode == 0
    (out / "overlays" / "mine.png").write_bytes(b"mine")
    (out / "notes.txt").write_text("mine")
    assert patchbank("predict", model_file, images / "0.png", "-O", out).returncode == 0
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["0.png", "mine.png"]
    assert not (out / "maps").exists()
    assert (out / "notes.txt").exists()
    assert patchbank("explain", model_file, images, "-O", tmp_path / "ex").returncode == 0
    assert patchbank("explain", model_file, images / "0.png", "-O", tmp_path / "ex").returncode == 0
    assert sorted(p.name for p in (tmp_path / "ex").glob("[0-9]*")) == ["0.json", "0.png"]


def test_explanations_replace_nothing_and_stay_apart(model_file: Path, tmp_path: Path) -> None:
    seen, out = tmp_path / "seen", tmp_path / "out"
    for name in ("0.png", "a/0.png", "b/0.png", "b/0.bmp"):
        (seen / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(good_image(1)).save(seen / name)
    before = {name: (seen / name).read_bytes() for name in ("0.png", "a/0.png")}
    assert patchbank("explain", model_file, seen, "-O", out).returncode == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert made == ["0.png", "a/0.png", "b/0.bmp.png", "b/0.png.png"]
    for _ in range(2):
        assert patchbank("explain", model_file, seen / "0.png", seen / "a", "-O", seen).returncode == 0
        assert {name: (seen / name).read_bytes() for name in before} == before
        assert (seen / "0.png.png").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0.json").write_text("labels")
    assert patchbank("explain", model_file, seen / "0.png", "-O", tmp_path / "mine").returncode == 0
    assert (tmp_path / "mine" / "0.json").read_text() == "labels"
    assert (tmp_path / "mine" / "0.png.json").is_file()


@pytest.mark.parametrize("out", [".", "out"])
def test_results_inside_the_folder_are_not_inspected(out: str, model_file: Path, images: Path) -> None:
    for _ in range(2):
        done = patchbank("predict", model_file, images, "-O", images / out)
        assert "6 images inspected" in done.stdout
    assert "results that patchbank wrote" in done.stderr
    assert patchbank("explain", model_file, images, "-O", images / out).returncode == 0
    assert [path.name for path in list_images(images)] == [f"{i}.png" for i in range(6)]


def removing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the images on as soon as the first picture is drawn."""
    save = PredictionFolder._save_overlay

    def moving(*arguments: Any) -> None:
        save(*arguments)
        for path in images.iterdir():
            path.unlink()

    monkeypatch.setattr(PredictionFolder, "_save_overlay", moving)


def test_files_that_go_away_during_predict(
    model_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing(images, monkeypatch)
    done = patchbank("predict", model_file, images, "-O", tmp_path / "out")
    assert done.returncode == 1
    rows = table(tmp_path / "out")
    assert len(rows) >= 1
    errors = list(csv.DictReader((tmp_path / "out" / "errors.csv").open()))
    drawn = list((tmp_path / "out" / "overlays").iterdir())
    assert len(drawn) == 1
    assert {row["path"] for row in errors} == {str(images / f"{i}.png") for i in range(1, 6)}
    not_drawn = [row["path"] for row in errors if row["error"].startswith("inspected, but not drawn: ")]
    assert {row["path"] for row in rows} == {str(images / "0.png"), *not_drawn}


def test_an_image_that_changes_is_not_drawn(
    model_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PredictionFolder._save_overlay

    def changing(self: PredictionFolder, source: Any, prediction: Any, path: Path) -> None:
        Image.fromarray(good_image(1, (64, 64))).save(prediction.path)
        save(self, source, prediction, path)

    monkeypatch.setattr(PredictionFolder, "_save_overlay", changing)
    done = patchbank("predict", model_file, images / "0.png", "-O", tmp_path / "out")
    assert done.returncode == 1
    assert "0.png: changed while it was inspected" in done.stderr
    assert len(table(tmp_path / "out")) == 1


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_pictures_not_the_run(
    model_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PredictionFolder, "_save_overlay", full)
    done = patchbank("predict", model_file, images, "-O", tmp_path / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "0.png: cannot be written (No space left on device); no more pictures are written" in line
    assert len(table(tmp_path / "out")) == 6


def test_a_table_that_cannot_be_written_is_rescued(
    model_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cli_results.write_csv

    def failing(path: Path, *more: Any) -> None:
        if (tmp_path / "out") in path.parents:
            full()
        write(path, *more)

    monkeypatch.setattr(cli_results, "open_csv", full)
    monkeypatch.setattr(cli_results, "write_csv", failing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = patchbank("predict", model_file, images, "-O", tmp_path / "out", "--no-overlays")
    assert done.returncode == 2
    assert "predictions.csv: cannot be written (No space left on device); what was computed is in" in done.stderr
    (rescued,) = tmp_path.glob("patchbank-*/predictions.csv")
    assert len(table(rescued.parent)) == 6


@pytest.mark.parametrize("command", ["fit", "add", "forget", "merge", "calibrate"])
def test_a_model_that_cannot_be_written_is_rescued(
    command: str, parts: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchbank.io import model_file as modelfile

    save = modelfile.save_file

    def failing(tensors: Any, path: Path, **more: Any) -> None:
        if "out" in str(path):
            raise modelfile.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
        save(tensors, path, **more)

    monkeypatch.setattr(modelfile, "save_file", failing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = COMMANDS[command].format(**places(parts, model_file, tmp_path / "out")).split()
    if command == "merge":
        words[2] = str(tmp_path / "other.patchbank")
        small_model().fit([good_image(70 + i) for i in range(3)]).save(words[2])
    done = patchbank(*words, *(["--image-size", "64", "--weights", "random"] if command == "fit" else []))
    assert done.returncode == 2
    *notes, line = done.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    (rescued,) = tmp_path.glob("patchbank-*/m.patchbank")
    expected = f"out/m.patchbank: cannot be written (No space left on device); what was computed is in {rescued}"
    assert line.endswith(expected)
    assert isinstance(load(rescued), PatchCore)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links of a POSIX system")
def test_links_are_followed(model_file: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "v1.patchbank", tmp_path / "now.patchbank"
    shutil.copy(model_file, target)
    target.chmod(0o640)
    link.symlink_to(target)
    Image.fromarray(bad_image(1)).save(tmp_path / "bad.png")
    assert patchbank("add", link, tmp_path / "bad.png", "--in-place").returncode == 0
    assert link.is_symlink()
    assert len(load(target).history) == 2
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["v1.patchbank", "v1.patchbank.bak"]
    assert len(load(tmp_path / "far" / "v1.patchbank.bak").history) == 1
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").symlink_to(tmp_path / "far" / "table.csv")
    for count in (6, 1):
        patchbank("predict", model_file, *sorted(images.iterdir())[:count], "-O", tmp_path / "out", "--no-overlays")
        assert (tmp_path / "out" / "predictions.csv").is_symlink()
        assert len((tmp_path / "far" / "table.csv").read_text().splitlines()) == count + 1


def piped(reads: int, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command whose reader takes some lines and leaves."""
    command = [sys.executable, "-m", "patchbank", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(reads):
        process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read() if process.stderr else ""
    return process.wait(timeout=120), error


def test_a_closed_pipe_loses_nothing(model_file: Path, images: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.patchbank"
    Image.fromarray(bad_image(1)).save(tmp_path / "bad.png")
    assert piped(0, "add", model_file, tmp_path / "bad.png", "-o", new) == (0, "")
    assert len(load(new).history) == 2
    assert piped(1, "predict", model_file, images, "--json", "-O", tmp_path / "out") == (0, "")
    assert len(table(tmp_path / "out")) == 6
    assert piped(0, "info", model_file) == (0, "")


INTERRUPTED = """
import os, signal, sys
from patchbank import cli
from patchbank.cli import results
add = results.PredictionFolder.add
def adding(self, row, source, prediction, name):
    add(self, row, source, prediction, name)
    if prediction.path.endswith("2.png"):
        os.kill(os.getpid(), {number})
results.PredictionFolder.add = adding
sys.argv = ["patchbank", *{words}]
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of a POSIX system")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_was_found_before_an_interruption_is_there(
    number: signal.Signals, model_file: Path, images: Path, tmp_path: Path
) -> None:
    words = ["predict", str(model_file), str(images), "-O", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(number=int(number), words=words)], capture_output=True, text=True,
        timeout=120, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), check=False,
    )  # fmt: skip
    out = tmp_path / "out"
    if number == signal.SIGKILL:
        (out / "predictions.csv.partial").rename(out / "predictions.csv")
    else:
        assert done.returncode == 128 + number
        assert "ended after 3 of 6 images; what was found so far is in" in done.stderr
        assert "Traceback" not in done.stderr
    assert [Path(row["path"]).name for row in table(out)] == ["0.png", "1.png", "2.png"]
    assert len(list((out / "overlays").iterdir())) == 3
    assert not (out / "predictions.csv.partial").exists()


def test_messages_in_any_encoding(model_file: Path, tmp_path: Path) -> None:
    for encoding, each in {
        "ascii": (["fit", "--help"], ["info", model_file], ["methods"], ["predict", "grü–n", "−"]),
        "cp1252": (["--help"], ["predict", "grü–n", "−"]),
        "latin-1:strict": (["info", model_file],),
    }.items():
        for words in each:
            command = [sys.executable, "-m", "patchbank", *map(str, words)]
            environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
            done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
            assert b"Traceback" not in done.stderr
            assert done.returncode == (2 if words[0] == "predict" else 0)


@pytest.mark.skipif(os.name == "nt", reason="names of a POSIX system")
def test_names_that_are_not_utf8(model_file: Path, images: Path, tmp_path: Path, parts: Path) -> None:
    odd = os.fsdecode(b"gr\xfcn")
    folder, model = tmp_path / odd, tmp_path / odd / f"{odd}.patchbank"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for i, name in enumerate((f"{odd}.png", "new\nline.png", "-dash é.png", "x" * 250 + ".png")):
        (images / f"{i}.png").rename(images / name)
    quick = ["--image-size", "64", "--bank-size", "60"]

    def run(*words: object) -> str:
        done = patchbank(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("fit", images, "-o", model, *quick)
    assert "gr\\udcfcn.png" in json.dumps(json.loads(run("info", model, "--images", "--json")))
    run("predict", model, images, "-O", folder / "out", "--maps")
    assert "gr\\udcfcn.png" in {Path(row["path"]).name for row in table(folder / "out")}
    assert len(list((folder / "out" / "overlays").iterdir())) == 6
    assert len(run("predict", model, images, "--json").splitlines()) == 6
    run("explain", model, images, "-O", folder / "why")
    run("audit", images, "-O", folder / "audit", *quick[:2])
    run("forget", model, f"{odd}.png", "--in-place")
    run("add", model, images / f"{odd}.png", "-o", folder / "new.patchbank")
    run("export", folder / "new.patchbank", "-O", folder / "export", "--format", "openvino")
    from patchbank.edge import runtime

    assert runtime.load(folder / "export").predict(images / f"{odd}.png").path.endswith(f"{odd}.png")
    root = tmp_path / f"{odd} parts"
    shutil.copytree(parts, root)
    (root / "test" / "spot").rename(root / "test" / odd)
    shutil.rmtree(root / "ground_truth")
    run("evaluate", model, root, "-O", folder / "evaluated")
    run("benchmark", root, "-O", folder / "grid", *quick)
    run("report", folder / "grid")


def gone_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, folder: Path) -> None:
    """Remove the images once a function has returned."""
    function: Callable[..., Any] = getattr(module, name)

    def removing(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        for path in folder.rglob("*.png"):
            path.unlink()
        return found

    monkeypatch.setattr(module, name, removing)


def test_files_that_go_away_during_evaluate_and_audit(
    model_file: Path, parts: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchbank import audit as auditing
    from patchbank.evaluation import evaluate as evaluating

    shutil.copytree(parts, tmp_path / "parts")
    gone_after(monkeypatch, evaluating, "_score", tmp_path / "parts")
    done = patchbank("evaluate", model_file, tmp_path / "parts", "-O", tmp_path / "out")
    assert done.returncode == 1
    assert "skipped" in done.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["image_auroc"] == 1
    assert len(list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))) == 8
    assert (tmp_path / "out" / "report.html").exists()
    gone_after(monkeypatch, auditing, "robust_deviations", images)
    done = patchbank("audit", images, "-O", tmp_path / "audit", "--image-size", "64")
    assert done.returncode == 1
    assert "6 images looked over" in done.stdout
    assert (tmp_path / "audit" / "report.html").exists()


# one process for all commands, on one small disk that is emptied after each
ON_A_TINY_DISK = """
import json, shutil, sys
from pathlib import Path
from tests.cli.running import patchbank
found = []
for words in json.loads(sys.argv[1]):
    done = patchbank(*words)
    found.append((done.returncode, done.stderr, [str(path) for path in Path("tiny").rglob("*")]))
    for path in Path("tiny").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
Path("found").write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(model_file: Path, parts: Path, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this system has no mount namespaces")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tmp").mkdir()
    model, data, good = str(model_file), str(parts), str(parts / "train" / "good")
    commands = [
        ["fit", good, "-o", "tiny/m.patchbank", "--image-size", "96"],
        ["predict", model, good, "-O", "tiny/out", "--maps"],
        ["export", model, "-O", "tiny/export"],
        ["export", model, "-O", "tiny/export", "--format", "openvino"],
        ["evaluate", model, data, "-O", "tiny/out"],
        ["explain", model, good, "-O", "tiny/out"],
    ]
    script = 'mount -t tmpfs -o size=32k tmpfs tiny || exit 77; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", ON_A_TINY_DISK, json.dumps(commands)]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=300, check=False)
    if done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    found = json.loads((tmp_path / "found").read_text())
    for words, (code, said, left) in zip(commands, found, strict=True):
        assert code in (1, 2), (words, said)
        assert "Traceback" not in said
        assert "No space left on device" in said, (words, said)
        assert "tiny/" in said
        assert not [name for name in left if ".tmp" in name or "m.patchbank" in name], (words, left)


def test_help_starts_quickly_without_libraries() -> None:
    code = "import sys; sys.argv = ['patchbank', '--help']\nfrom patchbank import cli\ntry: cli.main()\nfinally: "
    code += "print(sorted({'torch', 'numba', 'cv2', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == "[]"
    assert in_its_own_process("--help").returncode == 0
