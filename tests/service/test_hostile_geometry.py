"""Geometry made to hurt: each is refused with a sentence, by its header where that says enough."""

from __future__ import annotations

import io
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from patchbank.service.folders import images_to_learn
from patchbank.service.uploads import TooLarge, Upload
from patchbank.shape.files.arrays import NPY
from tests.service.conftest import URL, Start
from tests.service.solid import SIZE, encoded, fit, part, write

_MANY = 9600  # × 9600 pixels are more than the service decodes


def npy_header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npz(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def ply(vertices: int, *lines: str, coding: str = "binary_little_endian", data: bytes = b"") -> bytes:
    axes = [f"property float {axis}" for axis in "xyz"]
    head = ["ply", f"format {coding} 1.0", *lines, f"element vertex {vertices}", *axes, "end_header"]
    return "\n".join(head).encode() + b"\n" + data


def pcd(width: int, height: int, points: int, coding: str = "binary") -> bytes:
    head = ["VERSION .7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "COUNT 1 1 1"]
    head += [f"WIDTH {width}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {points}", f"DATA {coding}"]
    return "\n".join(head).encode() + b"\n"


def grid(value: float) -> bytes:
    return encoded(".tiff", np.full((SIZE, SIZE), value, np.float32))


HOSTILE = {
    "an array that is too large": (npy_header((_MANY, _MANY)), 413),
    "the same, packed": (npz(npy_header((_MANY, _MANY))), 413),
    "a grid of points that is too large": (pcd(_MANY, _MANY, _MANY**2), 413),
    "a cloud that says it is one": (ply(_MANY**2, f"obj_info num_cols {_MANY}", f"obj_info num_rows {_MANY}"), 413),
    "an endless array": (npy_header((2**31, 2**31)), 422),
    "an array without values": (npy_header((SIZE, SIZE)), 422),
    "an array of objects": (pickled(), 422),
    "a header that is a program": (npy_header((SIZE, SIZE)).replace(b"(96, 96)", b"exit(96)"), 422),
    "a bomb": (npz(npy_header((SIZE, SIZE)) + bytes(4 * SIZE * SIZE)), 422),
    "a PLY that promises a billion points": (ply(10**9), 422),
    "one with fewer than none": (ply(-5), 422),
    "one in words": (ply(10**6, coding="ascii", data=b"1 2 3\n"), 422),
    "one that is no grid": (ply(4, data=struct.pack("<12f", *range(12))), 422),
    "a PCD whose header does not add up": (pcd(SIZE, SIZE, 7), 422),
    "a PCD of a coding that is not read": (pcd(SIZE, SIZE, SIZE**2, "binary_compressed"), 422),
    "an STL of four billion triangles": (b"\0" * 80 + struct.pack("<I", 2**32 - 1) + bytes(50), 422),
    "a narrow table": (b"1\n" * 200_000, 422),
    "a path": (b"/etc/passwd", 422),
    "no points": (grid(np.nan), 422),
    "points at no distance": (grid(0.0), 422),
    "a TIFF that is cut off": (grid(0.5)[:600], 422),
}


@pytest.fixture(scope="module")
def solid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solid")
    fit(folder / "parts").save(folder / "parts.patchbank")
    return folder / "parts.patchbank"


@pytest.fixture
def solid(start: Start, solid_file: Path, tmp_path: Path) -> TestClient:
    return start(models=(Path(shutil.copy(solid_file, tmp_path / "parts.patchbank")),))


def test_hostile_geometry_is_refused(solid: TestClient) -> None:
    rgb = part(70)["rgb"]
    for what, (data, status) in HOSTILE.items():
        began = time.monotonic()
        answer = solid.post(URL, files=[("rgb", ("a.png", rgb)), ("xyz", ("a.bin", data))])
        assert answer.status_code == status, (what, answer.text)
        detail = answer.json()["detail"]
        assert detail.startswith("a.png: xyz: "), (what, detail)
        assert "Traceback" not in detail
        assert time.monotonic() - began < 20, what
    assert solid.get("/v1/history").json()["items"] == []
    files = part(70)
    answer = solid.post(URL, files=[("rgb", ("a.png", files["rgb"])), ("xyz", ("a.tiff", files["xyz"]))])
    assert answer.status_code == 200


def test_what_is_too_large_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(NPY), "read", lambda *_: pytest.fail("read"), raising=False)
    for data in (data for data, status in HOSTILE.values() if status == 413):
        with pytest.raises(TooLarge, match="xyz: has 9600×9600 pixels, more than the 64 million"):
            Upload("bomb", {"rgb": part(70)["rgb"], "xyz": data}).check(64_000_000)


def test_names_of_files_and_fields_lead_nowhere(solid: TestClient, tmp_path: Path) -> None:
    files = part(71)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    answer = solid.post(
        URL, files=[("rgb", ("../../up.png", files["rgb"])), ("xyz", ("/etc/../up.tiff", files["xyz"]))]
    )  # fmt: skip
    assert answer.json()["results"][0]["name"] == "up.png"
    new = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {path.name for path in before}
    assert {name for name in new if "sqlite" not in name} == {"1.image", "1.geometry", "1.map.png"}
    odd = solid.post(URL, files=[("rgb", ("a.png", files["rgb"])), ("../\x07xyz", ("a.tiff", files["xyz"]))])
    assert odd.status_code == 422
    assert odd.json()["detail"].startswith("'%07xyz' is no channel")


def test_geometry_outside_the_root_is_not_learned_from(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for number in range(4):
        write(tmp_path / "secret", str(number), part(72 + number))
        write(root / "lot", str(number), part(72 + number))
    for number in (0, 1):
        (root / f"lot/xyz/{number}.tiff").unlink()
        (root / f"lot/xyz/{number}.tiff").symlink_to(tmp_path / f"secret/xyz/{number}.tiff")
    images, notes = images_to_learn(root.resolve(), "lot")
    assert images == [Path("lot/rgb/2.png"), Path("lot/rgb/3.png")]
    assert any("passed over 2 images that are links" in note for note in notes)
