"""The files of inspections in an object store: a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchbank._system.remote import RemotePath
from patchbank.errors import OptionError
from patchbank.service.stations.images import KINDS, FolderImages, StoredImages, images_in
from tests.object_server import ObjectServer, reached_at
from tests.service.stations.server import Server
from tests.service.test_history import record

KEYS = ["ab" * 16, "ab" + "0" * 30, "07" * 16]


def test_files_of_inspections_lie_in_a_bucket(store: ObjectServer) -> None:
    images = images_in(RemotePath("s3:/bucket/line"))
    assert isinstance(images, StoredImages)
    for number, key in enumerate(KEYS):
        images.write(key, {"image": b"first", "map.png": b"map"})
        images.write(key, {"image": bytes([number]) * 3})  # an earlier try is replaced
    store.put("bucket/line/07/mine.txt", b"mine")
    assert [images.read(key, "image") for key in KEYS] == [b"\0\0\0", b"\1\1\1", b"\2\2\2"]
    assert images.read(KEYS[0], "geometry") is None
    assert list(images.older_than(3600)) == []
    assert list(images.older_than(-60)) == [[KEYS[2]], sorted(KEYS[:2])]
    images.remove(KEYS[:2])
    assert [images.read(key, kind) for key in KEYS[:2] for kind in KINDS] == [None] * 6
    assert images.read(KEYS[2], "map.png") == b"map"
    assert list(images.older_than(-60)) == [[KEYS[2]]]


def test_a_bucket_that_cannot_hold_them_is_refused(store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"s3://nowhere/line: cannot hold images: there is no such"):
        images_in(RemotePath("s3:/nowhere/line"))
    with pytest.raises(OptionError, match="names no bucket"):
        images_in(RemotePath("s3:/"))
    images = images_in(RemotePath("s3:/bucket/line"))
    reached_at("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(OSError, match="the store does not answer"):
        images.write(KEYS[0], {"image": b"1"})
    assert images.read(KEYS[0], "image") is None


def test_stations_share_a_bucket(server: Server, database: str, store: ObjectServer) -> None:
    history = pytest.importorskip(
        "patchbank.service.stations.history", reason="needs `pip install patchbank[postgres]`"
    )
    one, other = (
        history.SharedHistory(server.address(database), images_in(RemotePath("s3:/bucket/shared")), 10**6)
        for _ in range(2)
    )
    row = record(image=b"picture")
    one.record([row])
    assert other.kept_image(row.id) == b"picture"
    for each in (one, other):
        each.close()


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert isinstance(images_in(tmp_path / "images"), FolderImages)
