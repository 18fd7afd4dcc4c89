"""Every method in every format computes what the model does; exporting changes nothing and repeats itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import patchbank
from patchbank._system.files import replacing_folder
from patchbank.data import RegionOfInterest
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import ExportError, ModelFileError, OptionError
from patchbank.export import FORMATS, export
from patchbank.export import folder as exporting
from patchbank.export import quantise as quantising
from patchbank.memory.search import make_index
from patchbank.methods import METHODS
from patchbank.prediction import Prediction
from tests.conftest import OF_PICTURES, bad_image, good_image

pytest.importorskip("onnxruntime")

SIZE = (64, 96)
GOOD = [good_image(i, SIZE) for i in range(4)]
CHECKED = [good_image(50, SIZE), bad_image(60, SIZE)]
ROI = RegionOfInterest(include=(((10.0, 5.0), (80.0, 5.0), (80.0, 55.0), (30.0, 60.0)),))


def small(method: str, **options: Any) -> Detector:
    quick = {"image_size": 64, "threads": 2, "runtime": "torch", "levels": (1, 2), "stride": 2}
    if method in ("fapm", "spade", "mahalanobis"):  # no stride
        del quick["stride"]
    if method == "padim":
        quick["n_features"] = 12
    return METHODS[method](**quick | options)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module", params=tuple(OF_PICTURES))
def model(request: pytest.FixtureRequest) -> Detector:
    return small(request.param).fit(GOOD)


@dataclasses.dataclass(frozen=True)
class Exports:
    """A model in every format, below `folder`, with what its exports said; and its predictions and file before."""

    folder: Path
    documents: dict[str, Any]
    before: list[Prediction]

    @property
    def file(self) -> Path:
        return self.folder / "before.patchbank"


@pytest.fixture(scope="module")
def exports(model: Detector, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Do not change them."""
    folder = tmp_path_factory.mktemp("exports")
    before = [model.predict(image) for image in CHECKED]
    model.save(folder / "before.patchbank")
    return Exports(folder, {to: export(model, folder / to, to=to, images=CHECKED) for to in FORMATS}, before)


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_computes_what_the_model_does(model: Detector, exports: Exports, to: str) -> None:
    parity = exports.documents[to]["parity"]
    assert parity == json.loads((exports.folder / to / "patchbank.json").read_text())["parity"]
    assert parity["images"] == 2
    assert parity["verdicts"] == 0
    assert 0 <= parity["score"]["relative"] < 1e-5
    assert (parity["map"] is None) == (not model.localizes)
    exported = runtime.load(exports.folder / to, threads=2)
    for image in CHECKED:
        one, other = model.predict(image), exported.predict(image)
        assert other.score == pytest.approx(one.score, rel=1e-5, abs=1e-4)
        assert other.threshold == one.threshold
        assert other.map_threshold == one.map_threshold
        assert (other.p_value, other.is_anomalous) == (one.p_value, one.is_anomalous)
        assert [r.box for r in other.regions] == [r.box for r in one.regions]
        np.testing.assert_allclose(other.map, one.map, rtol=1e-4, atol=1e-3)
    # a batch of any size gives what its images give alone
    feeds = [{"image": exported.geometry.view(*SIZE).apply(image)[None]} for image in (*CHECKED, GOOD[0])]
    together = exported.run({"image": np.concatenate([f["image"] for f in feeds])})
    for i, feed in enumerate(feeds):
        for name, alone in exported.run(feed).items():
            scale = float(np.abs(together[name]).max())
            np.testing.assert_allclose(together[name][i], alone[0], atol=1e-5 * scale)


def test_the_bank_may_lie_beside_the_graph(model: Detector, exports: Exports, tmp_path: Path) -> None:
    """In both formats, which the methods take in turn."""
    to = ("onnx", "openvino")[list(OF_PICTURES).index(model.method) % 2]
    beside = export(model, tmp_path / "beside", to=to, images=CHECKED, bank="external")
    files = [entry["file"] for entry in beside["inputs"] if "file" in entry]
    assert files
    assert set(beside["files"]) == set(exports.documents[to]["files"]) | set(files)
    one, other = (
        runtime.load(folder, threads=2).predict(CHECKED[1]) for folder in (exports.folder / to, tmp_path / "beside")
    )
    assert other.score == pytest.approx(one.score, rel=1e-5)


PAPER = {"geometry": "paper", "backbone": "resnet18", "weights": "random"}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("patchcore", {**PAPER, "stride": 1, "neighbours": 0}),
        ("anomalydino", {"levels": (2, 3), "neighbours": 5, "patch_size": 3}),
        ("patchcore", {"image_score": "top", "bank_dtype": "float16"}),
        ("patchcore", {"image_score": "smoothed", "roi": ROI}),
        ("patchcore", {"image_score": "top", "roi": ROI}),
        ("patchcore", {"image_score": "max", "roi": ROI}),
        ("lmf", {"projection": 0, "roi": ROI, "normalise": False}),
        ("fapm", {"image_score": "max", "search_radius": 1}),
        ("fapm", {"layer_wise": False, "neighbours": 0}),
        ("fapm", {"roi": ROI}),
        ("padim", {"covariance": "tied", "roi": ROI}),
        ("padim", {"covariance": "diagonal"}),
        ("spade", {"k": 2}),
        ("spade", {"k": 2, "roi": ROI, "bank_dtype": "float16"}),
        ("subspace", {"roi": ROI}),
    ],
)
def test_options_of_the_methods(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = small(method, **options).fit(GOOD)
    to = "openvino" if options.get("roi") or method == "fapm" else "onnx"
    document = export(model, tmp_path / "out", to=to, images=CHECKED)
    assert document["parity"]["score"]["relative"] < 2e-5
    assert document["parity"]["map"]["relative"] < 2e-5
    one, other = model.predict(CHECKED[1]), runtime.load(tmp_path / "out").predict(CHECKED[1])
    assert np.array_equal(np.isnan(one.map), np.isnan(other.map))
    assert [r.box for r in other.regions] == [r.box for r in one.regions]


def test_tiles_are_in_the_graph(tmp_path: Path) -> None:
    images = [good_image(i, (160, 224)) for i in range(3)]
    model = small("patchcore", tile=128, overlap=64, bank_size=100, image_size=None, stride=1).fit(images)
    document = export(model, tmp_path / "out", images=images[:1])
    assert document["inspected"] == [160, 224]
    assert document["parity"]["map"]["relative"] < 1e-5


def test_a_region_of_interest_given_later(tmp_path: Path) -> None:
    model = small("patchcore").fit(GOOD).restrict(ROI)
    export(model, tmp_path / "out", images=CHECKED)
    one, other = model.predict(CHECKED[1]), runtime.load(tmp_path / "out").predict(CHECKED[1])
    assert other.score == pytest.approx(one.score, rel=1e-5)
    np.testing.assert_allclose(other.map, one.map, rtol=1e-4)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_ensemble(to: str, tmp_path: Path) -> None:
    members = [small("patchcore"), small("padim", image_size=96)]
    model = patchbank.Ensemble(members=members).fit(GOOD)
    document = export(model, tmp_path / "out", to=to, images=CHECKED)
    assert document["members"] == ["member0", "member1"]
    exported = runtime.load(tmp_path / "out", threads=2)
    for image in CHECKED:
        one, other = model.predict(image), exported.predict(image)
        assert other.score == pytest.approx(one.score, rel=1e-4, abs=1e-4)
        assert other.threshold == one.threshold
        np.testing.assert_allclose(other.map, one.map, rtol=1e-3, atol=1e-3)


def test_exporting_changes_nothing_and_any_order_gives_the_same_files(
    model: Detector, exports: Exports, tmp_path: Path
) -> None:
    model.save(tmp_path / "after.patchbank")
    assert exports.file.read_bytes() == (tmp_path / "after.patchbank").read_bytes()
    for one, image in zip(exports.before, CHECKED, strict=True):
        other = model.predict(image)
        assert one.score == other.score
        assert np.array_equal(one.map, other.map, equal_nan=True)
    again = patchbank.load(tmp_path / "after.patchbank", threads=2, runtime="torch")
    for to in reversed(FORMATS):
        document = export(again, tmp_path / to, to=to, images=CHECKED)
        assert document["parity"] == exports.documents[to]["parity"]
        assert files_of(exports.folder / to) == files_of(tmp_path / to), to


def test_another_bank_needs_no_new_graph(tmp_path: Path) -> None:
    model = small("patchcore", coreset=0.1, calibration="leave-one-out").fit(GOOD)
    export(model, tmp_path / "before", bank="external", images=CHECKED)
    grown = small("patchcore", coreset=0.1, calibration="leave-one-out").fit(GOOD)
    grown.add([bad_image(70, SIZE)])
    assert len(grown.bank_) > len(model.bank_)
    export(grown, tmp_path / "after", bank="external", images=CHECKED)
    old, new = files_of(tmp_path / "before"), files_of(tmp_path / "after")
    assert old["model.onnx"] == new["model.onnx"]
    assert old["bank.npy"] != new["bank.npy"]
    for name in ("bank.npy", "patchbank.json"):
        (tmp_path / "before" / name).write_bytes(new[name])
    exported = runtime.load(tmp_path / "before")
    assert exported.predict(CHECKED[1]).score == pytest.approx(grown.predict(CHECKED[1]).score, rel=1e-5)
    (tmp_path / "before" / "bank.npy").write_bytes(old["bank.npy"])
    with pytest.raises(ModelFileError, match=r"bank\.npy"):
        runtime.load(tmp_path / "before")


@pytest.fixture
def wrong_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs whose scores are half a percent too small."""
    make = exporting.make_graph

    def wrong(*arguments: Any) -> Any:
        graph = make(*arguments)
        graph.normal = (0.0, 1.005)
        return graph

    monkeypatch.setattr(exporting, "make_graph", wrong)
    return


@pytest.mark.usefixtures("wrong_graphs")
def test_a_graph_that_differs_is_not_written(tmp_path: Path) -> None:
    model = small("patchcore").fit(GOOD)
    with pytest.raises(ExportError, match=r"score differs by 5\.0e-03"):
        export(model, tmp_path / "out", images=CHECKED)
    assert list(tmp_path.iterdir()) == []


def test_int8(tmp_path: Path) -> None:
    import onnx

    model = small("patchcore", bank_size=100).fit(GOOD)
    export(model, tmp_path / "out", images=CHECKED)
    document = export(model, tmp_path / "int8", images=CHECKED, int8=True)
    int8 = document["int8"]
    assert document["parity"]["score"]["relative"] < 1e-5  # of the float graph
    assert 1e-4 < int8["score"]["relative"] < 0.5
    assert int8["map"]["relative"] < 0.5
    assert 0.8 < int8["score_ratio"] < 1.5
    assert int8["mb"][1] < int8["mb"][0]
    assert min(int8["ms"]) > 0
    assert set(document["files"]) == {"model.onnx"}
    nodes = onnx.load(str(tmp_path / "int8" / "model.onnx")).graph.node
    made = {node.output[0]: node for node in nodes}
    for node in nodes:
        if node.op_type == "Conv":
            assert made[node.input[0]].op_type == "DequantizeLinear"
        if node.op_type == "MatMul":  # the comparison stays in float32
            assert all(made[i].op_type != "DequantizeLinear" for i in node.input if i in made)
    exported = runtime.load(tmp_path / "int8")
    assert exported.predict(CHECKED[0]).score < exported.predict(CHECKED[1]).score


def test_the_pictures_in_the_model_check_it(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(good_image(i, (400, 500))).save(tmp_path / f"{i}.png")
    model = small("patchcore", bank_size=50).fit(tmp_path)
    document = export(model, tmp_path / "out")
    assert document["parity"]["images"] == 3
    # at the size of the images, not of the pictures: the map belongs to those
    assert document["inspected"] == list(model.extractor.geometry.view(400, 500).inspected)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    model, out = small("patchcore").fit(GOOD), tmp_path / "out"
    for options, words in (
        ({"to": "tensorrt"}, "onnx, openvino, torchscript"),
        ({"bank": "outside"}, "inside, external"),
        ({"to": "openvino", "int8": True}, "onnx"),
        ({"size": (96, 96)}, "64x96"),
        ({"images": [good_image(0, (64, 64))]}, "64x64"),
    ):
        with pytest.raises(OptionError, match=words):
            export(model, out, **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="not been fitted"):
        export(small("patchcore"), out)
    with pytest.raises(OptionError, match="--images"):
        export(small("padim").fit(GOOD), out)
    with pytest.raises(OptionError, match="align=true cannot be exported"):
        export(small("patchcore", align=True).fit(GOOD), out)
    with pytest.raises(OptionError, match="foreground"):
        export(small("anomalydino", foreground=True).fit(GOOD), out)
    (out / "mine").mkdir(parents=True)
    with pytest.raises(OptionError, match="no earlier export"):
        export(model, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_an_approximate_search_becomes_an_exact_one(tmp_path: Path) -> None:
    model: Any = small("patchcore", bank_size=60, neighbours=0).fit(GOOD)
    exact, bank = model.predict(CHECKED[1]), model.bank_
    scorer = model.scorer.with_bank(dataclasses.replace(bank, search="hnsw"))
    model.fitted = dataclasses.replace(model.fitted, scorer=scorer)
    model.bank_.__dict__["index"] = make_index(bank.vectors[:5])  # one that misses much
    assert model.predict(CHECKED[1]).score > 1.01 * exact.score
    document = export(model, tmp_path / "out", images=CHECKED)
    assert document["parity"]["map"]["relative"] < 1e-5
    assert runtime.load(tmp_path / "out").predict(CHECKED[1]).score == pytest.approx(exact.score, rel=1e-5)


def test_so_do_the_members_of_an_ensemble(tmp_path: Path) -> None:
    members: Any = [small("patchcore", bank_size=60, neighbours=0), small("patchcore", bank_size=50)]
    model = patchbank.Ensemble(members=members).fit(GOOD)
    members = model.members
    exact, bank = model.predict(CHECKED[1]), members[0].bank_
    scorer = members[0].scorer.with_bank(dataclasses.replace(bank, search="hnsw"))
    members[0].fitted = dataclasses.replace(members[0].fitted, scorer=scorer)
    members[0].bank_.__dict__["index"] = make_index(bank.vectors[:5])
    document = export(model, tmp_path / "out", images=CHECKED)
    assert document["parity"]["map"]["relative"] < 1e-4
    assert runtime.load(tmp_path / "out").predict(CHECKED[1]).score == pytest.approx(exact.score, rel=1e-4)
    assert members[0].bank_.search == "hnsw"


def test_int8_sees_what_the_model_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def kept(exported: Any, graph: Path, sources: Any) -> Any:
        made.extend(quantise(exported, graph, sources))
        return made

    quantise = quantising.quantise
    monkeypatch.setattr(quantising, "quantise", kept)
    model = small("patchcore", bank_size=60, roi=ROI).fit(GOOD)
    export(model, tmp_path / "out", images=CHECKED[1:], int8=True)
    (feeds,) = made
    corner = feeds["image"][0, :, -1, 0]  # outside the region: the mean of what is inside
    inside = CHECKED[1][ROI.pixels(*SIZE)].mean(axis=0)
    np.testing.assert_allclose(corner, inside, atol=1)
    assert 0 < feeds["inside"].mean() < 1


def test_torchscript_runs_on_as_many_threads_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    export(small("patchcore").fit(GOOD), tmp_path / "out", to="torchscript", images=CHECKED)
    exported: Any = runtime.load(tmp_path / "out", threads=1)
    torch.set_num_threads(2)
    asked: list[int] = []
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: asked.append(count) or set_threads(count))
    exported.predict(CHECKED[0])
    assert asked == [1, 2]


def test_an_earlier_export_is_replaced_or_stays_whole(tmp_path: Path) -> None:
    model, out = small("patchcore").fit(GOOD), tmp_path / "out"
    export(model, out, to="openvino")
    export(model, out, to="onnx")
    assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "patchbank.json"]
    before = files_of(out)
    with pytest.raises(FileNotFoundError), replacing_folder(out) as temporary:
        (temporary / "no-such-folder" / "half").write_text("")
    assert files_of(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_threshold_is_data(tmp_path: Path) -> None:
    model = small("patchcore").fit(GOOD)
    model.calibration_ = dataclasses.replace(model.calibration_, chosen=5.0, chosen_by="labels")
    export(model, tmp_path / "out", images=CHECKED)
    exported = runtime.load(tmp_path / "out")
    assert exported.predict(CHECKED[0]).threshold == 5.0
    exported.calibration = exported.calibration.at_rate(0.3)
    assert exported.predict(CHECKED[0]).threshold == model.calibration_.at_rate(0.3).threshold
    path = tmp_path / "out" / "patchbank.json"
    document = json.loads(path.read_text())
    document["calibration"]["threshold"] = 1e6
    path.write_text(json.dumps(document))
    edited = runtime.load(tmp_path / "out").predict(CHECKED[1])
    assert (edited.threshold, edited.is_anomalous, edited.regions) == (1e6, False, ())
