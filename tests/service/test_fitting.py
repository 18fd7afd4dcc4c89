"""Fits through the API: names of clients stay below the root, nothing is replaced, one ends before the next begins."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from patchbank import PatchCore
from patchbank.errors import DatasetError, OptionError
from patchbank.service.app import build_app
from patchbank.service.config import Config
from patchbank.service.fits import Job, Order
from patchbank.service.folders import folders_below, images_to_learn, inside, publish
from tests.conftest import good_image

QUICK = {"image_size": 64, "bank_size": 30}


def write_images(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(good_image(first + i, (64, 64))).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/ with folders to learn from, secret/ beside it, models/ with one model."""
    place = tmp_path_factory.mktemp("fits")
    write_images(place / "root/a/good", 6)
    write_images(place / "root/b", 1)
    write_images(place / "root/.hidden", 2)
    write_images(place / "secret", 3)
    (place / "root/notes.txt").write_text("no image")
    (place / "root/link").symlink_to(place / "secret")
    (place / "root/half").mkdir()
    (place / "root/half/0.png").symlink_to(place / "secret/0.png")
    write_images(place / "root/half/own", 1)
    model = PatchCore(weights="random", threads=1, **QUICK).fit(place / "root/a/good")
    (place / "models").mkdir()
    model.save(place / "models/first.patchbank")
    return place


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    config = Config(
        models=(place / "models/first.patchbank",), history=place / "history.sqlite", weights="random",
        fit_root=place / "root", threads=1,
    )  # fmt: skip
    with TestClient(build_app(config), base_url="http://localhost") as client:
        yield client


def ended(client: TestClient, number: int, seconds: float = 60) -> dict[str, object]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fit = client.get(f"/v1/fits/{number}").json()
        if fit["state"] not in ("waiting", "running"):
            return dict(fit)
        time.sleep(0.1)
    raise AssertionError(f"still {fit}")


def test_folders_are_listed_with_their_images(client: TestClient) -> None:
    listed = {f["name"]: f["images"] for f in client.get("/v1/fits/folders").json()["folders"]}
    # the link to a folder is passed over; the link to a picture counts, but is not learned from
    assert listed == {".": 9, "a": 6, "a/good": 6, "b": 1, "half": 2, "half/own": 1}


@pytest.mark.parametrize(
    "name",
    ["..", "../secret", "a/../../secret", "/etc", "link", "link/..", "a\\good", "nothing", "\0", "x" * 999, "\ud800"],
)
def test_names_that_lead_out_of_the_root_are_refused(place: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="is not a folder of the listing"):
        images_to_learn((place / "root").resolve(), name)


def test_links_to_pictures_outside_are_not_learned_from(place: Path) -> None:
    root = (place / "root").resolve()
    with pytest.raises(DatasetError, match="holds 1 images"):
        images_to_learn(root, "half")
    assert images_to_learn(root, "a") == ([Path("a/good") / f"{i}.png" for i in range(6)], [])


def test_what_is_not_learned_from_is_said(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    write_images(root / "lot/@eaDir", 1)
    for i in range(3):
        Image.fromarray(good_image(i, (64, 64))).save(root / f"lot/{i}.png")
    (root / "lot/phone.heic").touch()
    (root / "lot/link.png").symlink_to("/etc/hostname")
    images, notes = images_to_learn(root, "lot")
    assert len(images) == 3
    assert any("1 image in a format that is not read (lot/phone.heic)" in note for note in notes)
    assert any(note.startswith("lot/phone.heic: .heic images are not read") for note in notes)
    assert "lot: passed over 1 images that are links to other folders" in notes
    assert folders_below(root) == {".": 4, "lot": 4}
    write_images(root / "mixed/OK", 2)
    write_images(root / "mixed/NG", 2)
    with pytest.raises(DatasetError, match=r"holds defective parts \(mixed/NG\).*such as mixed/OK"):
        images_to_learn(root, "mixed")


def test_inside_resolves_every_link(place: Path) -> None:
    root = (place / "root").resolve()
    assert inside(root, "a/good") == root / "a/good"
    assert inside(root, ".") == root
    assert inside(root, "link") is None


def test_a_long_list_of_folders_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbank.service.folders._MOST_FOLDERS", 3)
    for i in range(9):
        write_images(tmp_path / f"{i}", 1)
    assert len(folders_below(tmp_path)) == 4


@pytest.mark.parametrize("with_links", [True, False])
def test_publishing_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not with_links:
        monkeypatch.setattr(os, "link", refuse)
    made, final = tmp_path / "made", tmp_path / "final"
    made.write_text("new")
    publish(made, final)
    assert final.read_text() == "new"
    made.unlink(missing_ok=True)
    made.write_text("newer")
    with pytest.raises(OptionError, match="already"):
        publish(made, final)
    assert final.read_text() == "new"


def test_a_fit_ends_in_service(client: TestClient, place: Path) -> None:
    asked = {"folder": "a/good", "name": "second", "options": QUICK}
    started = client.post("/v1/fits", json=asked)
    assert started.status_code == 202
    again = client.post("/v1/fits", json=asked)
    assert again.status_code == 409  # that name is taken from now on
    fit = ended(client, started.json()["id"])
    assert (fit["state"], fit["model"], fit["error"]) == ("done", "second", None)
    assert "second" in [model["name"] for model in client.get("/v1/models").json()["models"]]
    picture = (place / "root/a/good/0.png").read_bytes()
    answer = client.post("/v1/models/second/inspect", files=[("images", ("0.png", picture))]).json()
    assert not answer["results"][0]["is_anomalous"]
    assert sorted(file.name for file in (place / "models").iterdir()) == ["first.patchbank", "second.patchbank"]
    # the model names its images from the root: the server's paths stay on the server
    assert str(place) not in (place / "models/second.patchbank").read_bytes().decode("latin-1").replace(
        str((place / "root").resolve()), "", 1
    )


def test_mistakes_are_sentences(client: TestClient, place: Path) -> None:
    (place / "models/taken.patchbank").write_text("something")
    for asked, status, words in [
        ({"folder": "a", "name": "first"}, 409, "already"),
        ({"folder": "a", "name": "taken"}, 409, "already"),
        ({"folder": "b", "name": "x"}, 422, "holds 1 images"),
        ({"folder": "../secret", "name": "x"}, 422, "is not a folder of the listing"),
        ({"folder": "a", "name": "../x"}, 422, "name"),
        ({"folder": "a", "name": ".x"}, 422, "name"),
        ({"folder": "a", "name": "x\n"}, 422, "name"),
        ({"folder": "a", "name": "x", "method": "magic"}, 422, "method must be one of"),
        ({"folder": "a", "name": "x", "options": {"weights": "/etc/passwd"}}, 422, "weights"),
        ({"folder": "a", "name": "x", "method": "padim", "options": {"coreset": 0.1}}, 422, "no such option"),
    ]:
        answer = client.post("/v1/fits", json=asked)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]
    assert client.get("/v1/fits/999").status_code == 404
    assert (place / "models/taken.patchbank").read_text() == "something"


def test_a_cancelled_fit_leaves_nothing(client: TestClient, place: Path) -> None:
    orders = [{"folder": "a", "name": name, "options": QUICK} for name in ("c", "d")]
    first, second = (client.post("/v1/fits", json=order).json()["id"] for order in orders)
    assert client.get(f"/v1/fits/{second}").json()["state"] == "waiting"
    for number in (second, first):
        assert client.delete(f"/v1/fits/{number}").status_code == 204
    assert ended(client, first)["state"] == "cancelled"
    assert ended(client, second)["state"] == "cancelled"
    assert not [file for file in (place / "models").iterdir() if file.name.startswith(("c", "d", ".fit"))]


def test_a_fit_that_cannot_work_says_why(client: TestClient, place: Path) -> None:
    folder = write_images(place / "root/broken", 2)
    for file in folder.iterdir():
        file.write_bytes(b"no picture")
    number = client.post("/v1/fits", json={"folder": "broken", "name": "e", "options": QUICK}).json()["id"]
    fit = ended(client, number)
    assert fit["state"] == "failed"
    assert fit["skipped"] == 2
    assert fit["error"]
    assert str(place) not in str(fit["error"])


def test_without_a_root_there_are_no_fits(place: Path, tmp_path: Path) -> None:
    config = Config(models=(place / "models/first.patchbank",), history=tmp_path / "history.sqlite", weights="random")
    with TestClient(build_app(config), base_url="http://localhost") as client:
        for answer in (client.get("/v1/fits"), client.post("/v1/fits", json={"folder": "a", "name": "x"})):
            assert answer.status_code == 404
            assert "--fit-root" in answer.json()["detail"]


def test_a_stage_goes_on_while_its_loss_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time that is left would be measured from the last step."""
    job, now = Job(1, Order(Path("."), ".", "new", "simplenet", {}, [], Path("new"))), [100.0]
    job.state = "running"
    monkeypatch.setattr("patchbank.service.fits.time.monotonic", lambda: now[0])
    for done in range(1, 11):
        now[0] += 1
        job.advance(f"training 1 of 6: loss {1 / done:.3g}", done, 100)
    assert job.stage == "training 1 of 6: loss 0.1"
    assert job.eta_seconds == pytest.approx(9 / 10 * 90)
    job.advance("training 2 of 6: loss 1", 1, 100)
    assert job.eta_seconds is None


def test_a_method_that_learns_weights_tells_of_its_training(client: TestClient) -> None:
    order = {
        "folder": "a/good", "name": "trained", "method": "simplenet",
        "options": {"image_size": 64, "epochs": 3, "max_minutes": 10},
    }  # fmt: skip
    number = client.post("/v1/fits", json=order).json()["id"]
    stages = set()
    while (fit := client.get(f"/v1/fits/{number}").json())["state"] in ("waiting", "running"):
        stages.add(fit["stage"])
        time.sleep(0.02)
    assert fit["state"] == "done", fit["error"]
    assert "trained" in {model["name"] for model in client.get("/v1/models").json()["models"]}
    assert any(stage.startswith("training ") and " of 6: loss " in stage for stage in stages), stages
