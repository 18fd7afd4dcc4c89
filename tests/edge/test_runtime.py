"""An export runs without torch, on ONNX Runtime or OpenVINO alone, and says the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchbank import PatchCore
from patchbank.data import RegionOfInterest
from patchbank.edge import runtime
from patchbank.errors import DatasetError, ImageError, ModelFileError, OptionError
from patchbank.export import export
from tests.conftest import bad_image, good_image, small_model

pytest.importorskip("onnxruntime")

GOOD = [good_image(i) for i in range(6)]
ROI = RegionOfInterest(ignore=(((0.0, 0.0), (30.0, 0.0), (30.0, 95.0), (0.0, 95.0)),))

# what must not be there, and what must come out all the same
ALONE = """
import importlib.abc, json, sys
import numpy as np

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "numba", "safetensors", "typer", "rich", "matplotlib", "jinja2", "psutil", "typing_extensions", *sys.argv[4:]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from patchbank.edge import runtime
p = runtime.load(sys.argv[1], threads=1).predict(sys.argv[2])
np.save(sys.argv[3], p.map)
print(json.dumps(p.to_dict()))
"""  # noqa: E501


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return small_model(roi=ROI).fit(GOOD)


@pytest.fixture(scope="module")
def folders(model: PatchCore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    for to in ("onnx", "openvino"):
        export(model, root / to, to=to)
    return {to: root / to for to in ("onnx", "openvino")}


@pytest.mark.parametrize(("to", "other"), [("onnx", "openvino"), ("openvino", "onnxruntime")])
def test_without_torch(model: PatchCore, folders: dict[str, Path], to: str, other: str, tmp_path: Path) -> None:
    image, saved = tmp_path / "bad.png", tmp_path / "map.npy"
    Image.fromarray(bad_image(9)).save(image)
    source = Path(runtime.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folders[to]), str(image), str(saved), other, "onnx"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(source)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), model.predict(image)
    assert found["path"] == expected.path
    assert found["score"] == pytest.approx(expected.score, rel=1e-4)
    assert found["threshold"] == expected.threshold
    assert found["p_value"] == expected.p_value
    assert found["is_anomalous"] is expected.is_anomalous is True
    assert [r["box"] for r in found["regions"]] == [list(r.box) for r in expected.regions]
    assert [r["area"] for r in found["regions"]] == [r.area for r in expected.regions]
    anomaly = np.load(saved)
    assert np.isnan(anomaly[:, :30]).all()  # outside the region of interest
    np.testing.assert_allclose(anomaly, expected.map, rtol=1e-3)


def test_images_it_is_not_for(folders: dict[str, Path]) -> None:
    exported = runtime.load(folders["onnx"])
    wide = good_image(0, (96, 256))
    with pytest.raises(ImageError, match="--input-size 96x256"):
        exported.predict(wide)
    failed: list[str] = []
    images = [GOOD[0], wide, bad_image(3)]
    found = list(exported.predict_many(images, on_error=lambda name, error: failed.append(name)))
    assert [p.path for p in found] == ["image 0", "image 2"]
    assert failed == ["image 1"]
    with pytest.warns(UserWarning, match="skipped: image 1"):
        assert len(list(exported.predict_many(images))) == 2
    with pytest.raises(OptionError, match="predict_many"):
        exported.predict(images)
    with pytest.raises(DatasetError):
        exported.predict("no-such-image.png")


def test_an_iterator_is_taken_frame_by_frame(folders: dict[str, Path]) -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        while len(taken) < 50:
            taken.append(good_image(len(taken) % 9))
            yield taken[-1]

    predictions = runtime.load(folders["onnx"]).predict_many(camera())
    for number in range(1, 4):
        assert next(predictions).path == f"image {number - 1}"
        assert len(taken) == number


def test_batches_and_other_things(folders: dict[str, Path]) -> None:
    exported, frame = runtime.load(folders["onnx"]), good_image(0)
    assert len(list(exported.predict_many(np.stack([frame, frame])))) == 2
    with pytest.raises(OptionError, match="is None"):
        exported.predict(None)
    with pytest.raises(OptionError, match="use predict_many"):
        exported.predict(np.stack([frame, frame]))
    told: list[str] = []
    found = exported.predict_many(iter([None, frame]), on_error=lambda name, error: told.append(str(error)))
    assert len(list(found)) == 1
    assert "is None" in told[0]


def test_folders_that_are_no_export(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not an exported model"):
        runtime.load(tmp_path)
    document = json.loads((folders["onnx"] / "patchbank.json").read_text())
    (tmp_path / "patchbank.json").write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match=r"model\.onnx is missing"):
        runtime.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes((folders["onnx"] / "model.onnx").read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match="checksum"):
        runtime.load(tmp_path / "model.onnx")
    (tmp_path / "patchbank.json").write_text(json.dumps(document | {"export_version": 99}))
    with pytest.raises(ModelFileError, match="newer"):
        runtime.load(tmp_path)


def test_from_the_command_line(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    Image.fromarray(good_image(20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert runtime.main([str(folders["onnx"]), str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == str(tmp_path / "a.png")
    assert "b.png" in err
    assert runtime.main([str(folders["onnx"]), str(tmp_path / "a.png")]) == 0
    assert runtime.main([str(folders["onnx"]), str(tmp_path / "b.png")]) == 2
    assert runtime.main([str(tmp_path), str(tmp_path / "a.png")]) == 2
    capsys.readouterr()
    assert runtime.main([]) == 2
    assert "FOLDER  the folder that `patchbank export` wrote" in capsys.readouterr().err


def test_what_is_no_export_is_named_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts.patchbank").write_bytes(b"a model file")
    for given in ("parts.patchbank", "nowhere"):
        assert runtime.main([given, "a.png"]) == 2
        assert capsys.readouterr().err == (
            f"patchbank: {given}: is not an exported model: give the folder that `patchbank export` wrote\n"
        )


def test_a_model_of_one_image_has_no_threshold(tmp_path: Path) -> None:
    model = small_model().fit(GOOD[:1])
    export(model, tmp_path / "out")
    found = runtime.load(tmp_path / "out").predict(bad_image(9))
    assert found.threshold == np.inf
    assert not found.is_anomalous
