"""`make tutorials`: execute the notebooks of docs/tutorials in a clean kernel, and store what they show.

Each runs in an empty folder of its own, with the interpreter that runs this. `--check` stores nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
MOST_SECONDS = 600  # of one cell: a hung kernel must not hang the tests
MOST_BYTES, MOST_PICTURE_BYTES = 700_000, 100_000
# a folder of a machine, its name, and an address of a package index have no place in what readers see
_MACHINE = re.compile(r"(?<![\w.])(?:/(?:home|root|tmp|work|Users|var|opt|usr)/|[A-Z]:\\)[^\s\"']*")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(r"^.*[━╸╺].*\n?", re.MULTILINE)


def notebooks() -> list[Path]:
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> Any:
    """The executed notebook, run in an empty folder. Raises `nbclient.exceptions.CellExecutionError`."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    scripts = sysconfig.get_path("scripts")  # where `patchbank` is, for the cells that are shell commands
    changed = {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1", "COLUMNS": "110"}
    changed |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # the latter as the command line
    with mock.patch.dict(os.environ, changed):
        client = NotebookClient(
            notebook, timeout=MOST_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return tidied(notebook)


def tidied(notebook: Any) -> Any:
    """Without times, colours and what names the kernel's machine; the pieces of one stream become one."""
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type != "code":
            continue
        merged: list[Any] = []
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = plain(output.text)
                if merged and merged[-1].output_type == "stream" and merged[-1].name == output.name:
                    merged[-1].text += output.text
                    continue
            output.pop("metadata", None)
            if output.output_type != "stream":
                output.metadata = {}
            merged.append(output)
        cell.outputs = merged
    return notebook


def plain(text: str) -> str:
    """What stays on a terminal: without colours and progress bars."""
    lines = _CONTROL.sub("", text).replace("\r\n", "\n").split("\n")
    return _BAR.sub("", "\n".join(line.rpartition("\r")[2] for line in lines))


def texts(notebook: dict[str, Any]) -> Iterator[str]:
    """Every text that a stored notebook shows: sources, streams and results."""
    for cell in notebook["cells"]:
        yield "".join(cell["source"])
        for output in cell.get("outputs", []):
            yield "".join(output.get("text", ""))
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield "".join(data)


def faults(path: Path) -> list[str]:
    """What must not be in a stored notebook: machine paths, errors, cells that were not run, and too many bytes."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    wrong = [f"{path.name} names {found[0]}" for text in texts(notebook) for found in _MACHINE.finditer(text)]
    if path.stat().st_size > MOST_BYTES:
        wrong.append(f"{path.name} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        wrong.append(f"{path.name} was not executed from top to bottom: run `make tutorials`")
    for output in (output for cell in cells for output in cell["outputs"]):
        if output["output_type"] == "error":
            wrong.append(f"{path.name} shows the error {output['ename']}")
        for kind, data in output.get("data", {}).items():
            if kind.startswith("image/") and len("".join(data)) * 3 / 4 > MOST_PICTURE_BYTES:
                wrong.append(f"{path.name} has a picture of {len(''.join(data)) * 3 // 4} bytes")
    return wrong


def main() -> int:
    import nbformat

    parser = argparse.ArgumentParser(description="Execute the tutorials and store what they show.")
    parser.add_argument("names", nargs="*", help="parts of names of notebooks [default: all]")
    parser.add_argument("--check", action="store_true", help="execute only")
    given = parser.parse_args()
    wrong: list[str] = []
    for path in notebooks():
        if given.names and not any(name in path.stem for name in given.names):
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(path, Path(folder))
        print(f"{path.name}: {time.perf_counter() - started:.0f} s")
        if not given.check:
            path.write_text(nbformat.writes(executed) + "\n", encoding="utf-8")
            wrong += faults(path)
    print("\n".join(wrong), end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
