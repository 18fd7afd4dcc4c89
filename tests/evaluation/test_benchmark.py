"""A grid gives the same tables in any order, with or without a cache, in one process or several, and after a kill."""

from __future__ import annotations

import csv
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from patchbank import PatchCore
from patchbank._system.files import write_text
from patchbank.data import gather
from patchbank.data.datasets import open_dataset
from patchbank.evaluation import benchmark
from patchbank.evaluation.benchmark import Cell, Runner
from patchbank.evaluation.finished import read_grid
from patchbank.evaluation.results import Evaluation
from tests.cli.running import patchbank

# a model's file has the seconds of its fit in it
TIMES = ("latency_ms_p50", "latency_ms_p95", "images_per_second", "peak_rss_mb", "model_file_mb", "fit_cached", "jobs")
QUICK = ["--image-size", "96", "--bank-size", "60", "--weights", "random", "--threads", "1"]


def cells(parts: Path, seeds: tuple[int, ...] = (0, 1)) -> list[Cell]:
    dataset = open_dataset(parts)
    return [
        Cell(dataset, PatchCore(image_size=96, bank_size=60, weights="random", threads=1, seed=seed, sampler=sampler))
        for seed in seeds
        for sampler in ("greedy", "random")
    ]


def give_up(name: str, error: Exception) -> None:
    raise error


def write_metrics(evaluation: Evaluation, folder: Path) -> None:
    """As the command does, without the report."""
    write_text(folder / "metrics.json", json.dumps(evaluation.metrics))


def table(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8") as file:
        return [
            {k: v for k, v in row.items() if k not in TIMES and not k.startswith("fit_seconds")}
            for row in csv.DictReader(file)
        ]


def run(work: list[Cell], output: Path, **options: Any) -> list[dict[str, Any]]:
    return list(Runner(output, write_metrics, **options).run(work, on_error=give_up))


def test_any_order_and_any_cache_give_one_table(parts: Path, tmp_path: Path) -> None:
    work = cells(parts)
    run(work, tmp_path / "plain")
    expected = table(tmp_path / "plain")
    assert len(expected) == 4
    assert not (tmp_path / "plain" / "cache").exists()
    shuffled = work.copy()
    random.Random(3).shuffle(shuffled)
    assert shuffled != work
    rows = run(shuffled, tmp_path / "shuffled", cache=10**9)
    assert sorted(table(tmp_path / "shuffled"), key=str) == sorted(expected, key=str)
    assert rows[0]["fit_cached"] == 0
    # other seeds have other random weights; with the first cell of a seed the features of the second are there
    assert sorted(row["fit_cached"] for row in rows) == [0, 0, 1, 1]
    run(work, tmp_path / "small", cache=200_000)  # room for a few images
    assert table(tmp_path / "small") == expected
    for cell in work:  # every number of an evaluation, not only those of the table
        plain, cached = (
            json.loads((tmp_path / place / cell.name / "metrics.json").read_text()) for place in ("plain", "shuffled")
        )
        for key in ("image_ap", "per_defect", "threshold", "bank_vectors", "misclassified"):
            assert plain[key] == cached[key]


def test_latencies_are_taken_without_the_cache(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    predict = PatchCore.predict

    def spied(self: PatchCore, image: Any) -> Any:
        assert self.feature_cache is not None
        asked.append(self.feature_cache.digest(gather(image)[0]))
        return predict(self, image)

    monkeypatch.setattr(PatchCore, "predict", spied)
    rows = run(cells(parts, (0,))[:1], tmp_path, cache=10**9)
    assert asked == [None] * 8  # no digest: not asked
    assert rows[0]["images_per_second"] > 0


def test_processes_give_the_same_table_and_what_fails_is_named(parts: Path, tmp_path: Path) -> None:
    work = cells(parts, (0,))
    run(work, tmp_path / "one")
    heard: dict[str, str] = {}
    wrong = Cell(open_dataset(parts), PatchCore(image_size=96, coreset=7.0))
    runner = Runner(tmp_path / "two", write_metrics, jobs=2, cache=10**9)
    rows = list(runner.run([wrong, *work], on_error=lambda name, error: heard.update({name: str(error)})))
    assert table(tmp_path / "two") == table(tmp_path / "one")
    assert {row["jobs"] for row in rows} == {2}
    assert len(rows) == 2
    assert list(heard) == [wrong.name]
    assert "such as 0.1 for 10 %" in heard[wrong.name]


def test_a_fault_of_ours_costs_one_cell_only(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = cells(parts, (0,))
    fit = PatchCore.fit

    def out_of_memory(self: PatchCore, *args: Any, **options: Any) -> Any:
        if self.sampler == "greedy":
            raise RuntimeError("CUDA out of memory")
        return fit(self, *args, **options)

    monkeypatch.setattr(PatchCore, "fit", out_of_memory)
    heard: dict[str, str] = {}
    runner = Runner(tmp_path, write_metrics)
    rows = list(runner.run([first, second], on_error=lambda name, error: heard.update({name: str(error)})))
    assert [row["cell"] for row in rows] == [second.name]
    assert heard == {first.name: f"{first.name}: RuntimeError: CUDA out of memory"}


def test_each_process_has_its_share_of_the_memory(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int | None] = []
    fit = PatchCore.fit

    def spied(self: PatchCore, *args: Any, **options: Any) -> Any:
        budgets.append(self.memory_budget)
        return fit(self, *args, **options)

    monkeypatch.setattr(PatchCore, "fit", spied)
    (cell, *_), heard = cells(parts, (0,)), []
    evaluated = benchmark.evaluate
    monkeypatch.setattr(
        benchmark, "evaluate", lambda *a, pixel_memory, **o: heard.append(pixel_memory) or evaluated(*a, **o)
    )
    for free in (None, 5 * 10**9):
        Runner(tmp_path, write_metrics, jobs=2, free=free).one(cell, give_up)
    assert budgets == [None, 4 * 10**9]
    assert heard == [None, 25 * 10**8]


def test_a_cell_is_named_by_what_its_files_hold(parts: Path, tmp_path: Path) -> None:
    roi, weights = tmp_path / "roi.png", tmp_path / "weights.pth"
    names = set()
    for i in range(2):
        roi.write_bytes(bytes([i]))
        for j in range(2):
            weights.write_bytes(bytes([j]))
            for backbone in ("resnet18", ["resnet18", "resnet50"]):
                detector = PatchCore(backbone=backbone, roi=str(roi), weights=str(weights))
                names.add(Cell(open_dataset(parts), detector).name)
    assert len(names) == 8


def test_an_ensemble_by_the_command(parts: Path, tmp_path: Path) -> None:
    quick = ["--image-size", "64", "--bank-size", "30", "--weights", "random", "--threads", "1", "--subsample", "2"]
    done = patchbank("benchmark", parts, "-O", tmp_path, "--backbones", "efficientnet_lite0+resnet18", *quick)
    assert done.returncode == 0, done.stderr
    (only,) = read_grid(tmp_path).configurations
    assert (only.label, only.backbone, only.seeds) == ("ensemble", "efficientnet_lite0+resnet18", [0])
    assert "ensemble" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_variants_that_are_one_cell_are_run_once(parts: Path, tmp_path: Path) -> None:
    one = cells(parts, (0,))[0]
    written: list[Path] = []

    def write(evaluation: Evaluation, folder: Path) -> None:
        written.append(folder)
        write_metrics(evaluation, folder)

    twice = [one, Cell(one.dataset, one.detector, "the same")]
    rows = list(Runner(tmp_path, write).run(twice, on_error=give_up))
    assert [row["label"] for row in rows] == [None, "the same"]
    assert len(written) == 1
    assert "| the same |" in (tmp_path / "results.md").read_text()


def test_a_cell_is_let_go_of_before_the_next(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    banks: list[Any] = []
    fit = PatchCore.fit

    def watched(self: PatchCore, *args: Any, **options: Any) -> Any:
        assert all(bank() is None for bank in banks)  # the one before it has gone
        fitted = fit(self, *args, **options)
        banks.append(weakref.ref(self.bank_))
        return fitted

    monkeypatch.setattr(PatchCore, "fit", watched)
    for row in Runner(tmp_path, write_metrics).run(cells(parts), on_error=give_up):
        assert row["image_auroc"] is not None
    gc.collect()
    assert len(banks) == 4


def command(parts: Path, output: Path, *more: str) -> list[str]:
    options = ["--seeds", "0,1", "--methods", "patchcore", *QUICK, *more]
    return [sys.executable, "-m", "patchbank", "benchmark", str(parts), "-O", str(output), *options]


def start(parts: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(parts, output, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), start_new_session=True,
    )  # fmt: skip


def wait_for(there: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="signals of a POSIX system")
def test_a_killed_run_goes_on_where_it_stopped(parts: Path, tmp_path: Path) -> None:
    killed = start(parts, tmp_path / "killed")
    wait_for(lambda: len(list((tmp_path / "killed").glob("*/metrics.json"))) >= 1, killed)
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/metrics.json")}
    assert len(before) == 1
    for output in ("killed", "whole"):
        done = patchbank(*command(parts, tmp_path / output)[3:])
        assert done.returncode == 0, done.stderr
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert len(table(tmp_path / "killed")) == 2
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert not list((tmp_path / "killed").glob("*/.*.tmp"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux which processes there are")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(number: signal.Signals, parts: Path, tmp_path: Path) -> None:
    process = start(parts, tmp_path, "--jobs", "2")
    wait_for(lambda: len(of_session(process.pid)) >= 3, process)  # the command, and its two
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGKILL)
    if number is signal.SIGINT:
        assert error.strip().splitlines()[-1].startswith("patchbank: interrupted")
        assert "Traceback" not in error
    deadline = time.monotonic() + 30
    while of_session(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of_session(session: int) -> list[int]:
    """Processes of a session that are not merely waiting to be buried, helpers of the standard library apart."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            words = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z" and b"resource_tracker" not in words:
            found.append(int(stat.parent.name))
    return found
