"""Addresses of object stores as paths, what is asked of a store, and what becomes of its errors; without a server."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchbank._system import object_store, remote
from patchbank._system.object_store import AccessRefused, NoFolder, NoSuchObject, StoreError
from patchbank._system.remote import RemotePath, child_of, entries_of, is_remote, located, open_remote, read_remote
from patchbank.errors import DatasetError, MissingPackageError
from tests.object_server import fresh

# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["s3://bucket/parts/a b.png", "gs://bucket/x", "az://container/ü.png", "s3://bucket"])
def test_an_address_stays_as_it_is(text: str) -> None:
    path = located(text)
    assert isinstance(path, RemotePath)
    assert str(path) == path.__fspath__() == f"{path}" == text
    assert str(located(Path(text))) == text, "Path has taken a slash away"
    assert located(path) is path
    assert path == located(text)
    assert hash(path) == hash(located(text))
    assert str(pickle.loads(pickle.dumps(path))) == text
    assert path.scheme + "://" + path.key == text


def test_paths_below_an_address() -> None:
    root = located("s3://bucket/parts/")
    file = root / "good" / "007.png"
    assert (str(file), file.name, file.stem, file.suffix) == (
        "s3://bucket/parts/good/007.png",
        "007.png",
        "007",
        ".png",
    )
    assert type(file) is type(file.parent) is RemotePath
    assert str(file.parent) == "s3://bucket/parts/good"
    assert str(file.with_suffix(".tiff")) == "s3://bucket/parts/good/007.tiff"
    assert file.relative_to(root).as_posix() == "good/007.png"
    assert file.is_relative_to(root)
    assert not file.is_relative_to(located("s3://bucket/other"))
    assert root.resolve().name == "parts"


def test_addresses_sort_as_files_do(tmp_path: Path) -> None:
    names = ["b/1.png", "a.png", "a/2.png", "a/10.png", "a b/0.png", "B/0.png"]
    here = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path / name for name in names)]
    root = located("s3://bucket/x")
    assert [path.relative_to(root).as_posix() for path in sorted(root / name for name in names)] == here


def test_what_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(is_remote, ["parts", "/a/s3://b", "http://host/x.png", "s3", "s3x:/a", "C:/x", ""]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    assert not is_remote(Path("s3:/bucket")), "a folder of that name"
    assert is_remote("s3://bucket")
    with pytest.raises(DatasetError, match="s3:// names no bucket: give it as in s3://bucket/parts/good"):
        located("s3://").exists()


# ---- requests --------------------------------------------------------------------------------------------------------


class Files:
    """A store as fsspec has it: `content` by key; `fails`: what the next requests raise."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content, self.fails, self.asked = content, list[Exception](), list[str]()

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fails:
            raise self.fails.pop(0)

    def cat_file(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self._ask(f"cat {key}" + ("" if end is None else f" {start}-{end}"))
        if key not in self.content:
            raise FileNotFoundError(key)
        return self.content[key][start:end]

    def ls(self, key: str, detail: bool, refresh: bool) -> list[dict[str, Any]]:
        self._ask(f"ls {key}")
        found = {}
        for name, data in self.content.items():
            if name == key or name.startswith(f"{key}/"):
                child = "/".join(name.split("/")[: key.count("/") + 2])
                is_file = child == name
                found[child] = {"name": child, "type": "file" if is_file else "directory", "size": len(data)}
        if not found:
            raise FileNotFoundError(key)
        return list(found.values())

    def info(self, key: str, refresh: bool) -> dict[str, Any]:
        self._ask(f"info {key}")
        if key in self.content:
            return {"type": "file", "size": len(self.content[key])}
        if any(name.startswith(f"{key}/") for name in self.content):
            return {"type": "directory", "size": 0}
        raise FileNotFoundError(key)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    made = Files({"b/x/2.png": b"two", "b/x/1.png": b"one", "b/x/sub/3.png": b"three", "b/big": bytes(100_000)})
    fresh()
    monkeypatch.setattr(object_store, "_file_system", lambda scheme: made)
    monkeypatch.setattr(object_store, "PAUSES", (0.0, 0.0, 0.0))
    return made


def test_a_folder_is_listed_once(files: Files) -> None:
    folder = located("s3://b/x")
    assert [(e.name, e.is_dir(), e.is_file(), e.is_symlink()) for e in entries_of(folder)] == [
        ("1.png", False, True, False), ("2.png", False, True, False), ("sub", True, False, False)
    ]  # fmt: skip
    assert child_of(folder, entries_of(folder)[0]).stat().st_size == 3
    assert (folder / "1.png").is_file()
    assert (folder / "sub").is_dir()
    assert not (folder / "none").exists()
    assert [path.name for path in folder.iterdir()] == ["1.png", "2.png", "sub"]
    assert files.asked == ["ls b/x"]
    remote.forget()
    entries_of(folder)
    assert files.asked == ["ls b/x", "ls b/x"]


def test_keys_that_no_path_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder as an empty object of its own; two slashes in a row."""
    raw = [{"name": "b/x/", "type": "file", "size": 0}, {"name": "b/x/", "type": "directory", "size": 0}]
    raw += [{"name": "b/x/1.png", "type": "file", "size": 4}]
    monkeypatch.setattr(object_store, "_asked", lambda scheme, key, ask: raw)
    assert [(facts.name, facts.size) for facts in object_store.listed("s3", "b/x")] == [("", None), ("1.png", 4)]
    assert object_store.listed("s3", "b/x/1.png") == object_store.listed("s3", "b/x/1.png")


def test_contents_wait_for_a_second_use(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    path = located("s3://b/x/1.png")
    assert isinstance(path, RemotePath)
    assert [read_remote(path), read_remote(path)] == [b"one", b"one"]
    assert files.asked == ["cat b/x/1.png"]
    files.content["b/x/1.png"] = b"new"
    assert read_remote(path) == b"new", "a third use asks again"
    other = RemotePath(path)
    files.content["b/x/1.png"] = b"newer"
    assert read_remote(other) == b"newer", "so does a path that was given anew"
    monkeypatch.setattr(remote, "_KEPT", 2)
    remote.forget()
    assert [read_remote(path), read_remote(path)] == [b"newer", b"newer"]
    assert len(files.asked) == 5, "what has no room is asked for twice"


def test_a_header_takes_no_more_than_the_first_bytes(files: Files) -> None:
    path = located("s3://b/big")
    assert isinstance(path, RemotePath)
    with open_remote(path, header=True) as file:
        assert file.read(4) == bytes(4)
        file.seek(20_000)
        assert len(file.read(100)) == 100
        assert files.asked == ["cat b/big 0-32768"]
        file.seek(-10, 2)
        assert (file.tell(), len(file.read())) == (99_990, 10)
        assert files.asked == ["cat b/big 0-32768", "cat b/big"]
    with located("s3://b/x/2.png").open(encoding="utf-8") as text:
        assert text.read() == "two"


# ---- errors ----------------------------------------------------------------------------------------------------------


class HTTPClientError(Exception):
    """As botocore's."""


class NoCredentialsError(Exception):
    """As botocore's."""


def answered(status: int, error: type[Exception] = OSError, words: str = "from the server") -> Exception:
    cause = Exception("client error")
    cause.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    made = error(words)
    made.__cause__ = cause
    return made


def of_status(name: str, status: int) -> Exception:
    error = Exception("as said")
    setattr(error, name, status)
    return error


def broken_off() -> Exception:
    """As aiohttp says that an answer was cut off."""
    error = type("ClientPayloadError", (Exception,), {})("not enough data")
    error.__cause__ = of_status("code", 400)
    return error


PASSING: list[Callable[[], Exception]] = [
    broken_off, lambda: answered(503), lambda: answered(500), lambda: answered(429), lambda: of_status("code", 502),
    lambda: of_status("status_code", 500), lambda: HTTPClientError("broke off"), lambda: TimeoutError("slow"),
    lambda: ConnectionResetError("reset"), lambda: EOFError("short"),
]  # fmt: skip
LASTING: list[tuple[Callable[[], Exception], type[StoreError], str]] = [
    (lambda: answered(404), NoSuchObject, "there is no such object or folder"),
    (lambda: FileNotFoundError("x"), NoSuchObject, "there is no such object or folder"),
    (
        lambda: answered(403, PermissionError, "Forbidden"),
        AccessRefused,
        r"access \(Forbidden\): set AWS_ACCESS",
    ),
    (lambda: NoCredentialsError("none found"), AccessRefused, "none found"),
    (lambda: of_status("status", 401), AccessRefused, "refuses access"),
    (lambda: answered(400), StoreError, r"the store refuses the request \(from the server\)"),
    (lambda: ValueError("bad name"), StoreError, r"the store refuses the request \(bad name\)"),
]


@pytest.mark.parametrize("error", PASSING)
def test_what_may_pass_is_tried_again(files: Files, error: Callable[[], Exception]) -> None:
    files.fails = [error() for _ in range(3)]
    assert object_store.content("s3", "b/x/1.png") == b"one"
    assert len(files.asked) == 4
    files.fails = [error() for _ in range(20)]
    with pytest.raises(
        StoreError, match=r"does not answer after 4 tries \(.+\): check the network and AWS_ENDPOINT_URL"
    ):
        object_store.content("s3", "b/x/1.png")
    assert len(files.asked) == 8
    with pytest.raises(StoreError, match="does not answer"):
        object_store.content("s3", "b/x/1.png")
    assert len(files.asked) == 9, "a store that is down is asked once for each further image"
    files.fails = []
    assert object_store.content("s3", "b/x/1.png") == b"one"
    files.fails = [error()]
    assert object_store.content("s3", "b/x/1.png") == b"one", "and as before once it is up again"


@pytest.mark.parametrize(("error", "kind", "words"), LASTING)
def test_what_lasts_is_said_at_once(
    files: Files, error: Callable[[], Exception], kind: type[StoreError], words: str
) -> None:
    files.fails = [error()]
    with pytest.raises(kind, match=words):
        object_store.content("s3", "b/x/1.png")
    assert len(files.asked) == 1


def test_questions_about_a_path_tell_why_they_fail(files: Files) -> None:
    folder = located("gs://b/x")
    for ask in (folder.exists, folder.is_dir, (folder / "1.png").is_file):
        files.fails = [answered(403, PermissionError, "Forbidden")]
        with pytest.raises(DatasetError, match=r"gs://b/x: the store refuses access .*GOOGLE_APPLICATION_CREDENTIALS"):
            ask()
    with pytest.raises(NoFolder):
        object_store.listed("s3", "b/x/1.png")
    assert not located("s3://b/none/1.png").is_file()


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs"), ("az", "az"), ("abfs", "az")])
def test_a_missing_package_is_named(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingPackageError, match=rf"{scheme}:// needs packages .*`pip install patchbank\[{extra}\]`"):
        located(f"{scheme}://bucket/x").exists()
