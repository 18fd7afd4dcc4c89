"""The tutorials run from a clean kernel, and what is stored of them is clean."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tools.tutorials import MOST_BYTES, faults, notebooks, plain

NOTEBOOKS = {path.stem: path for path in notebooks()}
SHOWN = {  # what must be said in each run, whatever the scores are
    "first-station": (
        r"threshold \d+\.\d from 50 photos",
        r"guaranteed: True",
        r"score \d+\.\d, threshold \d+\.\d, rejected: True",
        r"the model rejects \d+ of 24 defective parts",
        r"the station is ready",
        r"hole-000.png +score +\d+\.\d  REJECTED",
        r"today-0.png +score +\d+\.\d  REJECTED",
        r"4 false alarms, added: \[4, 5, 6, 7\]",
        r"today-5.png +score +\d+\.\d  accepted",
        r"ended with 0 after 9 inspections",
    ),
    "reproduce-a-table": (
        r"gear \| patchcore \| efficientnet_lite0",
        r"weave  patchcore +image AUROC 0\.\d+  \(95 %: 0\.\d+ to [01]\.\d+\)",
        r"mahalanobis +- patchcore .*(could be chance|real)",
        r"seed 2: image AUROC",
        r"inside the interval of the first: (True|False)",
    ),
    "add-a-method": (
        r"\['kmeans', 'kmeans\.small'\]",
        r"k must be 1 or more, not 0",
        r"KMeans with k = 256",
        r"the same score: True",
        r"kmeans +image_auroc 0\.\d+",
        r"patchcore +image_auroc 0\.\d+",
        r"aupro +[+-]0\.\d+: (could be chance|real)",
    ),
}


def printed(notebook: dict[str, Any]) -> str:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return "\n".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


def pictures(notebook: dict[str, Any]) -> int:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return sum(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))


def test_there_are_three() -> None:
    assert set(NOTEBOOKS) == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_stored_is_clean(name: str) -> None:
    assert faults(NOTEBOOKS[name]) == []


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_stored_shows_the_results(name: str) -> None:
    notebook = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))
    said = printed(notebook)
    assert [line for line in SHOWN[name] if not re.search(line, said)] == []
    assert pictures(notebook) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_it_runs_from_a_clean_kernel(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from tools.tutorials import execute

    notebook = execute(NOTEBOOKS[name], tmp_path)  # a cell that fails raises
    said = printed(notebook)
    assert [line for line in SHOWN[name] if not re.search(line, said)] == []
    assert pictures(notebook) == pictures(json.loads(NOTEBOOKS[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"output_type": "stream", "name": "stdout", "text": "saved /home/ann/out.png"}, "names /home/ann/out.png"),
        ({"output_type": "stream", "name": "stdout", "text": "in C:\\Users\\ann"}, "names C:"),
        ({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}, "the error ValueError"),
        ({"output_type": "display_data", "metadata": {}, "data": {"image/png": "A" * 200_000}}, "a picture of"),
        ({"output_type": "stream", "name": "stdout", "text": "x" * MOST_BYTES}, "bytes, more than"),
    ],
)
def test_what_must_not_be_stored_is_named(output: dict[str, Any], reason: str, tmp_path: Path) -> None:
    cell = {"cell_type": "code", "execution_count": 1, "source": "pass", "outputs": [output]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    assert len(faults(path)) == 1
    assert reason in faults(path)[0]


def test_a_cell_that_was_not_run_is_named(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "execution_count": None, "source": "pass", "outputs": []}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    assert "was not executed" in faults(path)[0]


def test_progress_leaves_nothing_behind() -> None:
    assert plain("\x1b[?25lfit ━━╸ 1/9\rfit ━━━━ 9/9\n\x1b[1mdone\x1b[0m\r\nsecond\n") == "done\nsecond\n"
