"""Work in processes: what fails or dies is named, and loses only itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patchbank.errors import DatasetError
from patchbank.evaluation.workers import run_in_processes

if TYPE_CHECKING:  # the processes import this module: without torch they start at once
    from patchbank.errors import OnError


def do(item: tuple[str, Path], on_error: OnError) -> None:
    """In the process: leave a file, or die in one of several ways."""
    what, folder = item
    (folder / f"{what}-{os.getpid()}").touch()
    if what == "tells":
        on_error("an image", DatasetError("an image: cannot be read"))
    elif what == "mistake":
        raise DatasetError("no such thing")
    elif what == "fault":
        raise ZeroDivisionError("by nothing")
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exits":
        os._exit(7)


@pytest.mark.skipif(os.name == "nt", reason="signals of a POSIX system")
def test_the_others_are_done(tmp_path: Path) -> None:
    kinds = ["killed", "fine", "tells", "mistake", "fault", "exits", "fine", "fine"]
    heard: dict[str, str] = {}
    progress: list[tuple[int, int]] = []
    done = run_in_processes(
        do,
        [(f"{i} {kind}", (kind, tmp_path)) for i, kind in enumerate(kinds)],
        2,
        lambda name, error: heard.update({name: str(error)}),
        lambda stage, count, total: progress.append((count, total)),
    )
    assert sorted(done) == [1, 2, 6, 7]
    assert heard == {
        "an image": "an image: cannot be read",
        "0 killed": "0 killed: its process ended with signal 9 (SIGKILL), perhaps for want of memory: fewer --jobs, "
        "or --memory-budget",
        "3 mistake": "3 mistake: no such thing",
        "4 fault": "4 fault: ZeroDivisionError: by nothing",
        "5 exits": "5 exits: its process ended with exit code 7",
    }
    assert progress == [(i, 8) for i in range(1, 9)]
    assert len(list(tmp_path.iterdir())) == 8  # each once
    assert (
        len({path.name.rpartition("-")[2] for path in tmp_path.iterdir()}) == 4
    )  # two, and two in the place of the dead


def forever(item: Path, on_error: OnError) -> None:
    item.write_text(str(os.getpid()))
    time.sleep(600)


def test_processes_end_where_nobody_listens_any_more(tmp_path: Path) -> None:
    quick_then_forever = [("quick", tmp_path / "quick"), ("slow", tmp_path / "slow")]
    running = run_in_processes(quick_or_forever, quick_then_forever, 2, lambda name, error: None)
    assert next(running) == 0
    while not (tmp_path / "slow").exists() or not (tmp_path / "slow").read_text():
        time.sleep(0.01)
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "slow").read_text()), 0)


def quick_or_forever(item: Path, on_error: OnError) -> None:
    if item.name == "slow":
        forever(item, on_error)
