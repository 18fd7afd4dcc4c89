"""Images where they are: fit, predict, evaluate and resume with a real S3 server, and what breaks on the way to it."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchbank
from patchbank._system import object_store
from patchbank._system.remote import located
from patchbank.data import gather
from patchbank.data.datasets import Dataset, open_dataset
from patchbank.data.listing import list_folder
from patchbank.errors import DatasetError, ImageError, OptionError, PatchbankWarning
from patchbank.methods import METHODS
from tests.cli.running import patchbank as command
from tests.conftest import small_model
from tests.object_server import ObjectServer, fresh, reached_at, running, store, wire_to

PLAIN = {"Content-Type": "text/plain"}

__all__ = ["running", "store"]  # fixtures


@pytest.fixture
def parts_there(store: ObjectServer, parts: Path) -> str:
    """The small dataset, below an address."""
    return store.copy(parts, "bucket/parts")


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.fitted.scorer.state()[0])


# ---- the same as from files ------------------------------------------------------------------------------------------


def test_a_fit_learns_what_it_learns_from_files(parts_there: str, fitted: Any, store: ObjectServer) -> None:
    model = small_model().fit(f"{parts_there}/train/good")
    here, there = tensors(fitted), tensors(model)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert model.calibration_.threshold == fitted.calibration_.threshold
    names = [f"s3://bucket/parts/train/good/{i:03}.png" for i in range(8)]
    assert [ref.name for ref in model.fitted.scorer.refs] == names
    assert sorted(model.thumbnails_) == names
    fetched = Counter(key for key, first in store.calls if first is None)
    assert max(fetched.values()) == 1, "each content once"


def test_predictions_are_those_of_files(parts_there: str, parts: Path, fitted: Any, store: ObjectServer) -> None:
    there = list(fitted.predict_many(f"{parts_there}/test"))
    here = list(fitted.predict_many(parts / "test"))
    assert [p.score for p in there] == [p.score for p in here]
    assert all(np.array_equal(a.map, b.map) for a, b in zip(there, here, strict=True))
    assert there[0].path == f"{parts_there}/test/good/000.png"
    assert Counter(store.calls) == Counter({(p.path.removeprefix("s3://"), None): 1 for p in there})


def test_one_image_takes_two_requests(parts_there: str, fitted: Any, store: ObjectServer) -> None:
    with wire_to(store, lambda line, answer: answer) as (url, lines), pytest.MonkeyPatch.context() as patch:
        reached_at(url, patch)
        fitted.predict(f"{parts_there}/test/spot/000.png")
        assert [line.split()[0] for line in lines] == ["GET", "GET"], "what lies beside it, and its content"
        fitted.predict(f"{parts_there}/test/spot/000.png")
        assert len(lines) == 4, "asked anew: it may be another image now"


def test_the_command_line(parts_there: str, model_file: Path, tmp_path: Path, store: ObjectServer) -> None:
    model, out = tmp_path / "m.patchbank", tmp_path / "out"
    done = command("fit", parts_there, "-o", model, "--image-size", 96, "--bank-size", 100)
    assert done.returncode == 0, done.stderr
    assert f"learned from 8 images of {parts_there} (mvtec layout)" in done.stdout
    store.calls.clear()
    done = command("predict", model, f"{parts_there}/test", f"{parts_there}/none.png", "-O", out)
    assert done.returncode == 1
    assert f"{parts_there}/none.png: cannot be fetched: there is no such object or folder" in done.stderr
    assert "8 images inspected" in done.stdout
    assert (out / "overlays/good/000.png").is_file()
    assert f"{parts_there}/test/spot/003.png," in (out / "predictions.csv").read_text()
    assert max(Counter(key for key, _ in store.calls).values()) == 1, "the picture takes no second request"
    done = command("evaluate", model, parts_there, "-O", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "test/spot/000.png" in (tmp_path / "report" / "scores.csv").read_text()
    assert "AUPRO" in done.stdout


def test_a_benchmark(parts_there: str, tmp_path: Path) -> None:
    options = ("--methods", "patchcore", "-o", tmp_path, "--image-size", 64, "--bank-size", 20)
    done = command("benchmark", parts_there, *options)
    assert done.returncode == 0, done.stderr


def test_results_stay_here(model_file: Path, fitted: Any, store: ObjectServer) -> None:
    done = command("predict", model_file, "s3://bucket/x", "-O", "s3://bucket/out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "s3://bucket/out: results are written to local files: name one with -O, and copy it" in done.stderr
    done = command("fit", "s3://bucket/x", "-o", "s3://bucket/m.patchbank")
    assert "s3://bucket/m.patchbank: results are written to local files: name one with --output" in done.stderr
    assert not Path("s3:").exists()
    done = command("info", "s3://bucket/m.patchbank")
    assert done.stderr.endswith("s3://bucket/m.patchbank: models are read from local files: copy it, and name that\n")
    with pytest.raises(OptionError, match=r"s3://bucket/m.patchbank: models are written to local files: name one, and"):
        fitted.save("s3://bucket/m.patchbank")
    done = command("watch", model_file, "s3://bucket/x")
    assert done.stderr == (
        "patchbank: s3://bucket/x: is not a local folder; watch takes the one that images arrive in\n"
    )


def test_a_training_goes_on(parts_there: str, tmp_path: Path) -> None:
    images = [f"{parts_there}/train/good/{i:03}.png" for i in range(2)]
    make = lambda: METHODS["simplenet"](image_size=64, epochs=2, hidden=8, threads=1)  # noqa: E731

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("training 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(images, checkpoints=tmp_path / "t", progress=stop)
    assert list((tmp_path / "t").glob("*.safetensors"))
    told = set[str]()
    again = make().fit(images, checkpoints=tmp_path / "t", resume=True, progress=lambda *stage: told.add(stage[0]))
    assert not any(stage.startswith("training 1") for stage in told)
    whole = tensors(make().fit(images))
    assert all(torch.equal(value, whole[name]) for name, value in tensors(again).items())


# ---- folders ---------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "folder": ["b.png", "a.png", "deep/c.png", ".hidden.png", "notes.txt", "more.heic", "odd.zzz"],
    "mvtec": ["train/good/0.png", "test/good/0.png", "test/bent/0.png", "ground_truth/bent/0_mask.png", "readme.txt"],
    "loco": ["train/good/0.png", "test/bent/0.png", "ground_truth/bent/0/0.png", "ground_truth/bent/0/1.png"],
    "mvtec3d": [
        "train/good/rgb/0.png", "train/good/xyz/0.tiff", "test/hole/rgb/0.png", "test/hole/xyz/0.tiff",
        "test/hole/gt/0.png",
    ],
    "mtd": ["MT_Free/Imgs/0.jpg", "MT_Free/Imgs/1.jpg", "MT_Crack/Imgs/2.jpg", "MT_Crack/Imgs/2.png"],
}  # fmt: skip


def described(dataset: Dataset) -> dict[str, Any]:
    """All of a dataset, with paths relative to its root."""
    below = lambda path: path and path.relative_to(dataset.root).as_posix()  # noqa: E731
    found = [(below(p.example), p.reason, p.count) for p in dataset.train_found.passed_over]
    return {
        "layout": dataset.layout, "name": dataset.name, "train": list(map(below, dataset.train)),
        "test": [(below(one.path), one.defect, below(one.mask)) for one in dataset.test], "found": found,
    }  # fmt: skip


def write(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_those_of_folders(layout: str, store: ObjectServer, tmp_path: Path) -> None:
    write(tmp_path / layout, LAYOUTS[layout])
    there = store.copy(tmp_path / layout, f"bucket/layouts/{layout}")
    assert described(open_dataset(there, quiet=True)) == described(open_dataset(tmp_path / layout, quiet=True))


def test_visa_has_its_table_in_the_store(store: ObjectServer, tmp_path: Path) -> None:
    write(tmp_path / "candle/Data/Images", ["Normal/0.JPG", "Normal/1.JPG", "Anomaly/0.JPG"])
    rows = ["object,split,label,image,mask", "candle,train,normal,candle/Data/Images/Normal/0.JPG,"]
    rows += ["candle,test,normal,candle/Data/Images/Normal/1.JPG,"]
    rows += ["candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,"]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    there = store.copy(tmp_path, "bucket/visa")
    found = described(open_dataset(f"{there}/candle", quiet=True))
    assert found == described(open_dataset(tmp_path / "candle", quiet=True))
    assert (found["layout"], len(found["train"]), len(found["test"])) == ("visa", 1, 2)


def test_folders_that_hold_defects_are_refused(parts_there: str, parts: Path) -> None:
    said = []
    for folder in (parts_there, str(parts)):
        with pytest.raises(DatasetError) as error:
            small_model().fit(folder)
        said.append(str(error.value).replace(folder, "FOLDER"))
    assert said[0] == said[1]
    assert said[0].startswith("FOLDER: holds defective") or "so not all of its images are good parts" in said[0]


def test_pictures_find_their_points(solid: Path, store: ObjectServer) -> None:
    """In a folder, and one by one without a list of all."""
    there = store.copy(solid / "train", "bucket/solid/train")
    of_folder = gather(f"{there}/good")
    assert len(of_folder) == 10
    assert all(sample.has_geometry and len(sample.channels) == 2 for sample in of_folder)
    names = [sample.name for sample in of_folder]
    one_by_one = gather(names)
    assert [dict(sample.channels) for sample in one_by_one] == [dict(sample.channels) for sample in of_folder]
    store.put("bucket/beside/007.png", (solid / "train/good/rgb/000.png").read_bytes())
    store.put("bucket/beside/007_depth.pfm", b"Pf\n1 1\n-1.0\n\0\0\0\0")
    (sample,) = gather("s3://bucket/beside/007.png")
    assert str(sample.channels["xyz"]) == "s3://bucket/beside/007_depth.pfm"


def test_a_list_has_all_pages(store: ObjectServer) -> None:
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    for i in range(1_205):
        backend.put_object("bucket", f"many/{i:05}.png", b"x")
    backend.put_object("bucket", "many/", b"")
    backend.put_object("bucket", "many//nameless.png", b"x")
    listing = list_folder(located("s3://bucket/many"))
    assert [path.name for path in listing.files] == [f"{i:05}.png" for i in range(1_205)]
    assert [str(failed.error) for failed in listing.failed] == [
        "s3://bucket/many: has names below it with two slashes in a row, which are not read: rename"
    ]


def test_exact_copies_are_used_once(store: ObjectServer, parts: Path) -> None:
    data = [(parts / f"train/good/{i:03}.png").read_bytes() for i in (0, 1, 2, 3, 0)]
    for i, each in enumerate(data):
        store.put(f"bucket/copies/{i}.png", each)
    with pytest.warns(
        PatchbankWarning, match=r"1 of 5 images are exact copies .* s3://bucket/copies/4.png of s3://.*/0"
    ):
        model = small_model().fit("s3://bucket/copies")
    assert len(model.fitted.scorer.refs) == 4


def test_patterns(parts_there: str, parts: Path, fitted: Any, store: ObjectServer) -> None:
    found = gather(f"{parts_there}/test/*/00[01].png")
    below = ["good/000.png", "good/001.png", "spot/000.png", "spot/001.png"]
    assert [sample.name for sample in found] == [f"{parts_there}/test/{name}" for name in below]
    odd = store.put("bucket/odd/[1].png", (parts / "test/spot/000.png").read_bytes())
    assert fitted.predict(odd).path == odd, "a name with brackets is no pattern where it exists"


# ---- what breaks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(store: ObjectServer) -> Iterator[ObjectServer]:
    """The server asks who comes."""
    reset = f"{store.url}/moto-api/reset-auth"
    urllib.request.urlopen(urllib.request.Request(reset, b"0", PLAIN, method="POST")).close()
    yield store
    urllib.request.urlopen(urllib.request.Request(reset, b"inf", PLAIN, method="POST")).close()


def test_wrong_credentials(parts_there: str, guarded: ObjectServer, model_file: Path, tmp_path: Path) -> None:
    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to an account that may list and read it"
    with pytest.raises(DatasetError, match=rf"^{parts_there}/train/good: the store refuses access \(.+\): {remedy}$"):
        small_model().fit(f"{parts_there}/train/good")
    with pytest.raises(ImageError, match=rf"^{parts_there}/test/spot/000.png: cannot be fetched: .*{remedy}$"):
        patchbank.load(model_file).predict(f"{parts_there}/test/spot/000.png")
    done = command("fit", parts_there, "-o", tmp_path / "m.patchbank")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"patchbank: {parts_there}: the store refuses access (")


def test_no_credentials(parts_there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fresh()
    with pytest.raises(DatasetError, match=r"refuses access \(Unable to locate credentials\): set AWS_ACCESS_KEY_ID"):
        gather(f"{parts_there}/train/good")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert len(gather(f"{parts_there}/train/good")) == 8, "they are looked for again"


@pytest.mark.parametrize("address", ["s3://bucket/no/such/folder", "s3://no-such-bucket/parts"])
def test_nothing_there(address: str, store: ObjectServer) -> None:
    with pytest.raises(DatasetError, match=f"^{address}: there is no such object or folder$"):
        gather(address)
    with pytest.raises(DatasetError, match=f"^{address} does not exist; name the folder of the images.$"):
        open_dataset(address)


def broken(times: int, name: str, how: str) -> Any:
    """A plan: the first answers with the content of `name` are no good."""
    left = [times]

    def plan(line: str, answer: bytes) -> bytes:
        if name not in line.split("?")[0] or not left[0]:
            return answer
        left[0] -= 1
        if how == "cut":
            return answer[: len(answer) // 2]
        if how == "closed":
            return b""
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        return b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)

    return plan


@pytest.mark.parametrize("how", ["cut", "closed", "busy"])
def test_a_connection_that_breaks_is_made_again(
    how: str, parts_there: str, fitted: Any, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wire_to(store, broken(3, "/000.png", how)) as (url, lines):
        reached_at(url, monkeypatch)
        prediction = fitted.predict(f"{parts_there}/test/spot/000.png")
        assert sum("/000.png" in line for line in lines) == 4
    reached_at(store.url, monkeypatch)
    assert prediction.score == fitted.predict(f"{parts_there}/test/spot/000.png").score


@pytest.mark.parametrize("how", ["cut", "busy"])
def test_one_image_that_never_comes_does_not_end_the_run(
    how: str, parts_there: str, fitted: Any, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with wire_to(store, broken(1_000, "/spot/001.png", how)) as (url, lines):
        reached_at(url, monkeypatch)
        found = list(fitted.predict_many(f"{parts_there}/test", on_error=lambda name, error: told.append(str(error))))
        assert sum("/spot/001.png" in line for line in lines) == 4
    assert len(found) == 7
    assert len(told) == 1
    assert re.fullmatch(
        rf"{parts_there}/test/spot/001.png: cannot be fetched: the store does not answer after 4 tries \(.+\): check "
        "the network and AWS_ENDPOINT_URL",
        told[0],
    )


def test_what_is_missing_or_forbidden_is_asked_for_once(
    parts_there: str, fitted: Any, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
    plan = lambda line, answer: denied if "/spot/000.png" in line else answer  # noqa: E731
    told: list[str] = []
    with wire_to(store, plan) as (url, lines):
        reached_at(url, monkeypatch)
        images = [f"{parts_there}/test/spot/{name}.png" for name in ("000", "none", "001")]
        found = list(fitted.predict_many(images, on_error=lambda name, error: told.append(str(error))))
        assert [sum(f"/spot/{name}.png" in line for line in lines) for name in ("000", "none")] == [1, 1]
    assert [prediction.path for prediction in found] == images[2:]
    assert [words.partition(" (")[0] for words in told] == [
        f"{images[0]}: cannot be fetched: the store refuses access",
        f"{images[1]}: cannot be fetched: there is no such object or folder",
    ]


def test_no_server(monkeypatch: pytest.MonkeyPatch, store: ObjectServer) -> None:
    reached_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(DatasetError, match=r"^s3://bucket/x: the store does not answer after 4 tries \(.*127.0.0.1:9"):
        gather("s3://bucket/x")


# ---- other stores, and none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_stores_go_the_same_way(scheme: str, parts: Path, fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    files = memory.MemoryFileSystem()
    for path in sorted((parts / "train").rglob("*.png")):
        files.pipe_file(f"/{scheme}-bucket/good/{path.name}", path.read_bytes())

    class Rooted:
        """Names without the slash that the memory's begin with, as those of a store."""

        def ls(self, key: str, **options: Any) -> Any:
            return [entry | {"name": entry["name"].lstrip("/")} for entry in files.ls(key, detail=True)]

        def info(self, key: str, **options: Any) -> Any:
            return files.info(key)

        def cat_file(self, key: str, **options: Any) -> Any:
            return files.cat_file(key, **options)

    fresh()
    monkeypatch.setattr(object_store, "_file_system", lambda scheme: Rooted())
    model = small_model().fit(f"{scheme}://{scheme}-bucket/good")
    assert all(torch.equal(value, tensors(fitted)[name]) for name, value in tensors(model).items())
    assert model.fitted.scorer.refs[0].name == f"{scheme}://{scheme}-bucket/good/000.png"


def test_the_base_install_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = "import sys, patchbank, patchbank.data; assert not {'fsspec', 's3fs', 'aiohttp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
    fresh()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    done = command("fit", "gs://bucket/good", "-o", tmp_path / "m.patchbank")
    missing = "patchbank: gs:// needs packages that are missing: `pip install patchbank[gs]`\n"
    assert (done.returncode, done.stderr) == (2, missing)


def test_warnings_are_ours(parts_there: str) -> None:
    """No warning of a client's own reaches the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gather(f"{parts_there}/train/good")
