"""Models in other people's programs: forked and spawned processes, threads, asyncio, pickle and copies."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchbank import load
from patchbank._system.threads import OfProcess
from patchbank.calibration.calibration import Calibration
from patchbank.data import RegionOfInterest
from patchbank.detector import Detector
from patchbank.edge import runtime
from patchbank.errors import OptionError
from patchbank.export import FORMATS, export
from patchbank.features.planning import Plan
from patchbank.methods import METHODS, Ensemble, PatchCore
from patchbank.prediction import Prediction
from tests.conftest import OF_PICTURES, bad_image, good_image

SIZE = (64, 96)
GOOD = [good_image(i, SIZE) for i in range(4)]
SEEN = [bad_image(60 + i, SIZE) for i in range(2)] + [good_image(50, SIZE)]
OPTIONS: dict[str, dict[str, Any]] = {
    "align": {"align": True, "image_size": 64},
    "float16": {"bank_dtype": "float16"},
    "roi": {"roi": RegionOfInterest(include=(((10.0, 5.0), (80.0, 5.0), (80.0, 55.0), (30.0, 60.0)),))},
    "tiles": {"tile": 128, "overlap": 64, "image_size": None},
}
fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def small(method: str = "patchcore", **options: Any) -> Detector:
    quick: dict[str, Any] = {"image_size": 64, "levels": (1, 2)}
    if method == "padim":
        quick["n_features"] = 12
    return METHODS[method](**quick | options)


def ensemble() -> Detector:
    return Ensemble(members=[small(), small("padim", image_size=96)])


MODELS: dict[str, Callable[[], Detector]] = {
    **{name: lambda name=name: small(name) for name in OF_PICTURES},  # type: ignore[misc]
    **{name: lambda options=options: small(**options) for name, options in OPTIONS.items()},  # type: ignore[misc]
    "ensemble": ensemble,
}


@pytest.fixture(scope="module", params=tuple(MODELS))
def model(request: pytest.FixtureRequest) -> Detector:
    fitted = MODELS[request.param]().fit(GOOD)
    fitted.predict(SEEN[0])
    return fitted


def same(one: Prediction, other: Prediction) -> bool:
    return one.score == other.score and np.array_equal(one.map, other.map, equal_nan=True) and one == other


def arrays_of(value: Any) -> set[int]:
    """Where the tensors and arrays of a model lie."""
    if isinstance(value, torch.Tensor):
        return {value.untyped_storage().data_ptr()} if value.numel() else set()
    if isinstance(value, np.ndarray):
        return {value.ctypes.data} if value.size else set()
    items: Any = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif hasattr(value, "__dict__") and type(value).__module__.startswith("patchbank"):
        items = [item for name, item in vars(value).items() if name != "_extractor"]
    return set().union(*map(arrays_of, items))


# ---- predictions that went elsewhere ---------------------------------------------------------------------------------


def test_a_prediction_that_was_copied_names_the_nearest_patch(model: Detector) -> None:
    x, y = 40, 30  # inspected also with the region of interest
    prediction = model.predict(SEEN[0])
    for copied in (pickle.loads(pickle.dumps(prediction)), copy.deepcopy(prediction), copy.copy(prediction)):
        if not model.parts()[0].keeps_patches:
            with pytest.raises(OptionError, match="keeps no training patches"):
                model.nearest(copied, x, y)
            continue
        neighbour = model.nearest(copied, x, y)
        assert neighbour == prediction.nearest(x, y)
        assert neighbour.image in model.parts()[0].digests
        assert neighbour.distance >= 0
        left, top, right, bottom = neighbour.box
        assert 0 <= left < right <= SIZE[1]
        assert 0 <= top < bottom <= SIZE[0]
        for outside in ((SIZE[1], 0), (0, SIZE[0]), (-1, 0)):
            with pytest.raises(OptionError, match="lies outside"):
                model.nearest(copied, *outside)
        with pytest.raises(OptionError, match="a position is a pixel column and row"):
            model.nearest(copied, 1.5, 2)  # type: ignore[arg-type]


def test_an_exported_model_names_no_patches(tmp_path: Path) -> None:
    model = small().fit(GOOD)
    export(model, tmp_path / "e", to="onnx", size=SIZE, images=GOOD[:1])
    exported = runtime.load(tmp_path / "e").predict(SEEN[0])
    with pytest.raises(OptionError, match="exported model, which names no patches: predict with this one"):
        model.nearest(exported, 3, 3)


# ---- pickle and copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy", "twice"])
def test_a_copy_says_the_same(model: Detector, way: str) -> None:
    copied: Detector = {
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
        "deepcopy": lambda: copy.deepcopy(model),
        "copy": lambda: copy.copy(model),
        "twice": lambda: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
    }[way]()
    assert type(copied) is type(model)
    assert copied.parameters() == model.parameters()
    for image in SEEN:
        assert same(copied.predict(image), model.predict(image))


def test_a_deep_copy_shares_nothing_that_changes(model: Detector) -> None:
    mine = arrays_of(model)
    assert mine
    assert not mine & arrays_of(copy.deepcopy(model))


def test_a_copy_learns_on_its_own(tmp_path: Path) -> None:
    for i, image in enumerate([*GOOD, good_image(30, SIZE)]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    names = [str(tmp_path / f"{i}.png") for i in range(5)]
    model = small(coreset=0.1, calibration="leave-one-out").fit(names[:4])
    before = model.predict(SEEN[0])
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.add([names[4]])
        copied.forget([names[0]])
        copied.save(tmp_path / "copied.patchbank")
        assert len(copied.bank_) != len(model.bank_)
    assert same(model.predict(SEEN[0]), before)
    model.save(tmp_path / "one.patchbank")
    pickle.loads(pickle.dumps(model)).save(tmp_path / "other.patchbank")
    assert (tmp_path / "one.patchbank").read_bytes() == (tmp_path / "other.patchbank").read_bytes()


def test_models_that_are_not_fitted_and_ones_from_a_file(tmp_path: Path) -> None:
    for name in OF_PICTURES:
        assert pickle.loads(pickle.dumps(small(name))).parameters() == small(name).parameters()
    model = small().fit(GOOD)
    model.save(tmp_path / "m.patchbank")
    loaded = load(tmp_path / "m.patchbank")
    copied = pickle.loads(pickle.dumps(loaded))  # not used yet
    assert same(copied.predict(SEEN[0]), model.predict(SEEN[0]))
    assert same(
        copied.restrict(OPTIONS["roi"]["roi"]).predict(SEEN[0]), loaded.restrict(OPTIONS["roi"]["roi"]).predict(SEEN[0])
    )


def test_a_pickle_holds_no_network() -> None:
    model = small(levels=(2, 3), bank_size=20, thumbnails_mb=0).fit(GOOD)
    model.predict(SEEN[0])
    assert len(pickle.dumps(model)) < 200_000


def test_results_are_plain_data(model: Detector) -> None:
    plans: list[Plan] = []
    small(bank_size=20).fit(GOOD, on_plan=plans.append)
    prediction = model.predict(SEEN[0])
    explained = model.explain(SEEN[0]) if model.localizes else None
    for value in (prediction, explained, model.calibration_, plans[0], model.thumbnails_):
        assert type(pickle.loads(pickle.dumps(value))) is type(value)
        assert type(copy.deepcopy(value)) is type(value)
    assert pickle.loads(pickle.dumps(prediction)) == prediction
    again: Calibration = pickle.loads(pickle.dumps(model.calibration_))
    assert again.threshold == model.calibration_.threshold


# ---- processes -------------------------------------------------------------------------------------------------------


def _predicted(model: Any, image: np.ndarray) -> Prediction:
    prediction: Prediction = model.predict(image)
    return prediction


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_pool_of_processes(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start}")
    model = small().fit(GOOD)
    expected = [model.predict(image) for image in SEEN]
    storage = model.bank_.vectors.untyped_storage()
    with multiprocessing.get_context(start).Pool(2) as pool:
        found = pool.starmap_async(_predicted, [(model, image) for image in SEEN]).get(120)
    assert all(map(same, found, expected))
    assert not storage.is_shared()  # arrays are copied, not moved


# what a parent does, and then its forked child; nothing may hang
FORK = """
import os, signal, sys, threading
import numpy as np
from PIL import Image
sys.path.insert(0, sys.argv[4])
from tests.conftest import OF_PICTURES, bad_image, good_image
import patchbank
from patchbank import PatchCore, load
runtime, search, ending = sys.argv[1:4]
os.chdir(sys.argv[5])
SIDE = (160, 224)  # large enough for several threads
for i in range(5):
    os.makedirs("good", exist_ok=True)
    Image.fromarray(good_image(i, SIDE)).save(f"good/{i}.png")
Image.fromarray(good_image(9, SIDE)).save("new.png")
Image.fromarray(bad_image(10, SIDE)).save("bad.png")
names = [f"good/{i}.png" for i in range(5)]
options = dict(image_size=160, runtime=runtime, search=search, calibration="leave-one-out", threads=2)
model = PatchCore(**options).fit(names)
model.save("m.patchbank")
model = load("m.patchbank", runtime=runtime, threads=2)
expected = model.predict("bad.png")
patchbank.PaDiM(image_size=160, n_features=20).fit(names)
import torch
torch.rand(1000, 1000) @ torch.rand(1000, 1000)
pid = os.fork()
if pid == 0:
    signal.alarm(100)  # ends the process: an alarm is not passed on to a forked child
    def same(p):
        assert abs(p.score - expected.score) < 1e-4 * expected.score, (p.score, expected.score)
        assert np.allclose(p.map, expected.map, rtol=1e-3)
    same(model.predict("bad.png"))
    found = []
    many = [threading.Thread(target=lambda: found.append(model.predict("bad.png"))) for _ in range(3)]
    [t.start() for t in many]; [t.join() for t in many]
    assert len(found) == 3
    [same(p) for p in found]
    assert model.explain("bad.png").places
    again = load("m.patchbank", runtime=runtime, threads=2)
    same(again.predict("bad.png"))
    again.add(["new.png"])
    again.forget(["new.png"])
    again.save("child.patchbank")
    PatchCore(**options | {"threads": 1}).fit(names).predict("bad.png")
    PatchCore(**options | {"levels": (1,)}).fit(names)
    patchbank.SubspaceAD(image_size=160).fit(names)
    patchbank.FAPM(image_size=160).fit(names).predict("bad.png")
    if search == "auto":
        from patchbank.export import export
        export(model, "out", images=["bad.png"])
    grandchild = os.fork()
    if grandchild == 0:
        signal.alarm(60)
        same(load("m.patchbank", runtime=runtime).predict("bad.png"))
        os._exit(0)
    assert os.waitpid(grandchild, 0)[1] == 0
    signal.alarm(0)
    print("done", flush=True)
    if ending == "hard":
        os._exit(0)
    sys.exit(0)
status = os.waitpid(pid, 0)[1]
after = model.predict("bad.png")  # eager torch may round otherwise from call to call
assert abs(after.score - expected.score) < 1e-5 * expected.score, (after.score, expected.score)
assert np.allclose(after.map, expected.map, rtol=1e-4)
sys.exit(status != 0)
"""


def run_script(script: str, *arguments: str, limit: int = 150) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=limit, check=False,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@fork_only
@pytest.mark.parametrize(
    ("backend", "search", "ending"),
    [("openvino", "auto", "soft"), ("onnxruntime", "hnsw", "hard")],
)
def test_a_forked_child_does_everything(backend: str, search: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    if search == "hnsw":
        pytest.importorskip("faiss")
    assert "done" in run_script(FORK, backend, search, ending, str(Path(__file__).parents[1]), str(tmp_path))


FORK_EXPORT = """
import os, signal, sys, pickle
import numpy as np
sys.path.insert(0, sys.argv[2])
from tests.conftest import bad_image
from patchbank.edge import runtime
from patchbank.errors import OptionError
exported = runtime.load(sys.argv[1], threads=2)
image = bad_image(1, (160, 224))
expected = exported.predict(image)
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    for one in (exported, runtime.load(sys.argv[1], threads=2), pickle.loads(pickle.dumps(exported))):
        assert np.allclose(one.predict(image).map, expected.map, rtol=1e-3)
    print("done", flush=True)
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1] != 0)
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnxruntime")
    root, size = tmp_path_factory.mktemp("exports"), (160, 224)
    model = small(image_size=160, levels=(2,), bank_size=100).fit([good_image(i, size) for i in range(3)])
    both = Ensemble(members=[small(bank_size=50), small("padim")]).fit([good_image(i, size) for i in range(3)])
    for to in FORMATS:
        export(model, root / to, to=to, images=[good_image(9, size)])
    export(both, root / "ensemble", to="onnx", images=[good_image(9, size)])
    return {name: root / name for name in (*FORMATS, "ensemble")}


@fork_only
@pytest.mark.parametrize("name", [*FORMATS, "ensemble"])
def test_a_forked_child_uses_exports(exports: dict[str, Path], name: str) -> None:
    assert "done" in run_script(FORK_EXPORT, str(exports[name]), str(Path(__file__).parents[1]), limit=100)


@pytest.mark.parametrize("name", [*FORMATS, "ensemble"])
def test_exports_from_several_threads_and_copied(exports: dict[str, Path], name: str) -> None:
    exported = runtime.load(exports[name], threads=2)
    images = [bad_image(i, (160, 224)) for i in range(8)]
    serial, before = [exported.predict(image) for image in images], torch.get_num_threads()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(exported.predict, images * 3))
    for one, other in zip(serial * 3, found, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-6)
        np.testing.assert_allclose(other.map, one.map, rtol=1e-5)
    assert torch.get_num_threads() == before
    for copied in (pickle.loads(pickle.dumps(exported)), copy.deepcopy(exported), copy.copy(exported)):
        assert same(copied.predict(images[0]), exported.predict(images[0]))


def test_an_export_that_was_replaced_is_not_opened_again(exports: dict[str, Path], tmp_path: Path) -> None:
    from patchbank.errors import ModelFileError

    (tmp_path / "out").mkdir()
    for path in exports["onnx"].iterdir():
        (tmp_path / "out" / path.name).write_bytes(path.read_bytes())
    passed = pickle.dumps(runtime.load(tmp_path / "out"))
    (tmp_path / "out" / "model.onnx").write_bytes(b"another")
    with pytest.raises(ModelFileError, match="replaced"):
        pickle.loads(passed).predict(bad_image(1, (160, 224)))


# ---- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_threads_give_the_serial_numbers(model: Detector, workers: int) -> None:
    images = [*SEEN, *GOOD]
    expected, before = [model.predict(image) for image in images], torch.get_num_threads()
    counts: list[int] = []

    def one(image: np.ndarray) -> Prediction:
        counts.append(torch.get_num_threads())
        prediction = model.predict(image)
        counts.append(torch.get_num_threads())
        return prediction

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, images * 2))
    assert all(map(same, found, expected * 2))
    assert torch.get_num_threads() == before


def test_a_model_is_opened_once_by_many_threads(tmp_path: Path) -> None:
    small().fit(GOOD).save(tmp_path / "m.patchbank")
    model, found = load(tmp_path / "m.patchbank"), list[Prediction]()
    model._opened = None
    threads = [threading.Thread(target=lambda: found.append(model.predict(SEEN[0]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(same(found[0], other) for other in found)


def test_asyncio(model: Detector) -> None:
    expected = [model.predict(image) for image in SEEN]

    async def together() -> list[Prediction]:
        return await asyncio.gather(*(asyncio.to_thread(model.predict, image) for image in SEEN))

    assert all(map(same, asyncio.run(together()), expected))


def test_what_belongs_to_a_process_is_made_once_in_it() -> None:
    made: list[int] = []
    thing = OfProcess(lambda: made.append(len(made)) or len(made))
    assert [thing.get(), thing.get()] == [1, 1]
    thing._made = (os.getpid() + 1, 7)  # of a parent
    assert [thing.get(), thing.get()] == [2, 2]


def test_a_fit_in_a_thread_while_another_predicts() -> None:
    model = small().fit(GOOD)
    expected = model.predict(SEEN[0])
    with ThreadPoolExecutor(2) as pool:
        fitting = pool.submit(lambda: PatchCore(image_size=64, levels=(1, 2)).fit(GOOD))
        while not fitting.done():
            assert same(model.predict(SEEN[0]), expected)
    assert same(fitting.result().predict(SEEN[0]), expected)
