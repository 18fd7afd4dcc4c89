"""Safe writes, and whether a place can be written, tried without leaving anything behind."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from patchbank._system.files import (
    keep_copy,
    reason,
    replacing,
    replacing_folder,
    shown,
    spelled,
    why_not_file,
    why_not_folder,
    write_csv,
    write_text,
)
from patchbank._system.written import Results, output_names, written_into

posix = pytest.mark.skipif(os.name == "nt", reason="modes and links of a POSIX system")


def test_a_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127, os.fsdecode(b"\xff" * 255)):
        assert why_not_file(tmp_path / name) is None
        write_text(tmp_path / name, "all of it")
        assert (tmp_path / name).read_text() == "all of it"
    assert len(list(tmp_path.iterdir())) == 3


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    copy = keep_copy(link)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert copy == tmp_path / "far" / "target.bak"
    assert copy.stat().st_mode & 0o777 == 0o640
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path / "far", target_is_directory=True)
    with replacing_folder(folder) as temporary:
        (temporary / "only").write_text("this")
    assert folder.is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["only"]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "to come")
    write_text(dangling, "new")
    assert (tmp_path / "to come").read_text() == "new"


def test_errors_name_the_file_that_was_wanted(tmp_path: Path) -> None:
    wanted = tmp_path / "table.csv"
    with pytest.raises(OSError, match=r"table\.csv") as caught, replacing(wanted):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(wanted)
    assert list(tmp_path.iterdir()) == []
    assert reason(Exception("I/O error: No space left on device (os error 28)")) == os.strerror(28)


@posix
def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert why_not_file(tmp_path / "folder") == "is a folder"
    assert "is no folder" in (why_not_file(tmp_path / "file" / "m.patchbank") or "")
    assert "is no folder" in (why_not_file(tmp_path / "file" / "deep" / "m.patchbank") or "")
    assert "name too long" in (why_not_file(tmp_path / ("x" * 256)) or "")
    assert "name too long" in (why_not_file(tmp_path / "new" / ("x" * 256) / "m") or "")
    assert "name too long" in (why_not_folder("/".join([str(tmp_path), *["x" * 200] * 30])) or "")
    assert why_not_file(tmp_path / "pipe") == "is no regular file"
    assert why_not_file("/dev/null") == "is no regular file"
    assert "symbolic links" in (why_not_file(tmp_path / "loop") or "")
    assert "null byte" in (why_not_file(f"{tmp_path}/a\0b") or "")
    assert why_not_folder(tmp_path / "file") == "is a file"
    before = sorted(tmp_path.iterdir())
    assert why_not_folder(tmp_path / "a" / "b" / "c") is None
    assert why_not_file(tmp_path / "a" / "b" / "c.patchbank") is None
    assert why_not_file(tmp_path / "file") is None
    assert sorted(tmp_path.iterdir()) == before
    if os.path.isdir("/proc/self"):
        assert "cannot be written" in (why_not_file("/proc/self/m.patchbank") or "")  # not writable even for root
    if os.getuid():
        (tmp_path / "folder").chmod(0o555)
        assert "Permission denied" in (why_not_file(tmp_path / "folder" / "m.patchbank") or "")


@posix
def test_names_that_are_not_utf8_are_written_and_opened(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn")
    write_csv(tmp_path / "t.csv", ("path",), [{"path": name}, {"path": "new\nline"}, {"path": "ü"}])
    rows = list(csv.DictReader((tmp_path / "t.csv").open(newline="", encoding="utf-8")))
    assert [row["path"] for row in rows] == ["gr\\udcfcn", "new\nline", "ü"]
    assert shown(name) == "gr\\udcfcn"
    (tmp_path / name).mkdir()
    (tmp_path / name / name).write_text("inside")
    for path in (tmp_path / name / name, tmp_path / name / "plain", tmp_path):
        if not path.exists():
            path.write_text("inside")
        with spelled(path) as other:
            str(other).encode()
            assert other.samefile(path)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    mine = tmp_path / "overlays" / "mine.png"
    first = Results(tmp_path, "predict")
    first.begin()
    for name in ("overlays/a.png", "overlays/sub/b.png", "maps/c.tiff"):
        path = first.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    mine.write_text("")
    listed = written_into(tmp_path, os.listdir(tmp_path))
    assert {Path(path).name for path in listed} == {"a.png", "b.png", "c.tiff"}
    with (tmp_path / ".patchbank-wrote-predict").open("a") as file:  # a torn line, and one that leads out
        file.write('"../../etc/passwd"\n"/etc/passwd"\n"overlays/')
    Results(tmp_path, "explain").begin()
    assert (tmp_path / "maps" / "c.tiff").exists()
    Results(tmp_path, "predict").begin()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["overlays", "overlays/mine.png"]


def test_long_names_of_results_are_shortened() -> None:
    long = ["é" * 126 + str(i) + ".j" for i in range(2)]
    names = output_names([], [f"in/{name}" for name in long])
    made = [names[f"in/{name}"].name for name in long]
    assert len(set(made)) == 2
    assert all(len(os.fsencode(f"{name}.tiff")) <= 255 for name in made)
    assert output_names([], ["a/x.png", "b/x.png"])["b/x.png"].name == "x-2.png"
