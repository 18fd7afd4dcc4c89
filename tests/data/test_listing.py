"""A folder is listed once and wholly, and what is no image is counted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from patchbank.data import list_folder, list_images
from patchbank.data.listing import IMAGE_SUFFIXES, as_plain

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def write(root: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_images(root)]


def counts(root: Path) -> dict[str, int]:
    return {group["reason"]: group["count"] for group in as_plain(list_folder(root).passed_over)}


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "above" / "g"
    write(root, "0.png", "sub/1.png")
    for name, target in (("again", "."), ("sub/up", ".."), ("sub/above", "../../.."), ("twice", "sub")):
        (root / name).symlink_to(target)
    assert names(root) == ["0.png", "sub/1.png"]
    assert counts(root) == {"links to folders that are listed already": 4}


def test_two_links_to_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, "a/0.png", "b/1.png")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    assert names(tmp_path) == ["a/0.png", "b/1.png"]
    assert names(tmp_path / "a") == ["0.png", "b/1.png"]


def test_a_link_to_another_folder_is_followed_once_and_a_link_to_a_file_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "other/0.png", "file.png", "g/1.png")
    for name in ("link", "second"):
        (tmp_path / "g" / name).symlink_to(tmp_path / "other")
    (tmp_path / "g/2.png").symlink_to(tmp_path / "file.png")
    assert names(tmp_path / "g") == ["1.png", "2.png", "link/0.png"]


def test_a_folder_keeps_its_own_path_where_a_link_to_it_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "z/0.png")
    (tmp_path / "a").symlink_to("z")
    assert names(tmp_path) == ["z/0.png"]


def test_every_plain_ending_in_any_case(tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES:
        write(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")
    assert len(names(tmp_path)) == 3 * len(IMAGE_SUFFIXES)
    assert {".jfif", ".jpe", ".jp2", ".pnm", ".pbm", ".tga", ".dib", ".avif"} <= IMAGE_SUFFIXES
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".svg"} & IMAGE_SUFFIXES


def test_photographs_that_are_not_read_fail(tmp_path: Path) -> None:
    write(tmp_path, "0.png", "a.heic", "b.DNG", "c.eps")
    write(tmp_path, "noending", "img.001", content=PNG)
    write(tmp_path, "LICENSE", "x.bak", content=b"words")
    listing = list_folder(tmp_path)
    assert [failed.path.name for failed in listing.failed] == ["a.heic", "b.DNG", "c.eps", "img.001", "noending"]
    assert "by its first bytes" in str(listing.failed[-1].error)
    assert counts(tmp_path) == {"images in formats that are not read": 5, "files that are no images": 2}
    assert listing.note
    assert "passed over 5 images in formats that are not read (such as " in listing.note
    assert listing.note.endswith("; 1 images are taken")


def test_files_of_the_system_are_never_images(tmp_path: Path) -> None:
    write(tmp_path, "0.png", "Thumbs.db", "desktop.ini", ".DS_Store", "._0.png")
    for folder in ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"):
        write(tmp_path, f"{folder}/1.png")
    write(tmp_path, ".Trash-1000/2.png", ".thumbnails/3.png", ".git/config", ".hidden.png")
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.files] == ["0.png"]
    assert listing.failed == ()
    assert counts(tmp_path) == {"files or folders of the system": 7, "hidden images or folders of images": 3}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path, "0.png")
    os.mkfifo(tmp_path / "camera.png")
    os.mkfifo(tmp_path / "control")
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.files] == ["0.png"]
    assert [failed.path.name for failed in listing.failed] == ["camera.png"]
    assert counts(tmp_path) == {"pipes, sockets or devices": 2}


def test_a_broken_link_to_an_image_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "gone").symlink_to("nowhere")
    assert names(tmp_path) == ["gone.png"]
    assert counts(tmp_path) == {"broken links": 1}


def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "0.png", "sub/1.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # for those who run the tests as root
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_folder(tmp_path)
    (failed,) = listing.failed
    assert (failed.path, listing.files) == (tmp_path / "sub", (tmp_path / "0.png",))
    assert "the folder cannot be opened (Permission denied)" in str(failed.error)


def test_a_folder_that_goes_away_while_it_is_listed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "0.png", "a/1.png", "b/2.png")
    scandir = os.scandir

    def removing(path: Path) -> object:
        if path == tmp_path / "a":
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.files] == ["0.png", "1.png"]
    assert listing.failed == ()
