"""The table of `patchbank watch`: what it takes for its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank.errors import OptionError
from patchbank.service.watching import COLUMNS, Table

HEADER = (",".join(COLUMNS) + "\r\n").encode()


@pytest.mark.parametrize("text", [b"a,b\n1,2\n3,4", b"no newline", b"\n", HEADER[:-2] + b",more\r\n1", b"when,paths"])
def test_another_file_is_refused_and_keeps_its_bytes(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(text)
    with pytest.raises(OptionError, match="not a table of `patchbank watch`"):
        Table(path)
    assert path.read_bytes() == text


@pytest.mark.parametrize("length", [0, 1, len(HEADER) - 2, len(HEADER) - 1, len(HEADER)])
def test_a_header_cut_by_a_power_failure_is_written_again(tmp_path: Path, length: int) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(HEADER[:length])
    table = Table(path)
    table.append({"path": "a.png", "bytes": 7, "modified": 9})
    table.close()
    again = Table(path)
    again.close()
    assert path.read_bytes().startswith(HEADER + b",a.png,")
    assert again.seen == {"a.png": (7, 9)}


def test_a_row_cut_by_a_power_failure_goes(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    table = Table(path)
    for name in ("a.png", "b.png"):
        table.append({"path": name, "bytes": 7, "modified": 9})
    table.close()
    path.write_bytes(path.read_bytes()[:-4])
    again = Table(path)
    again.close()
    assert again.seen == {"a.png": (7, 9)}
    assert path.read_bytes() == HEADER + b",a.png,,,,,,,7,9\r\n"
