"""The page in Chromium against the real service, end to end: one server and one browser for all of it."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from patchbank import PatchCore
from patchbank.service.app import build_app
from patchbank.service.config import Config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
Page = sync_api.Page
expect = sync_api.expect

TOKEN = "a long token"
SIZE = (96, 128)


def part(seed: int, bad: bool) -> Image.Image:
    """Calm stripes; a bad one with a large bright square, which even random features cannot miss."""
    stripes = 128 + 40 * np.sin(np.arange(SIZE[1]) / 5) + 2 * np.random.default_rng(seed).standard_normal(SIZE)
    picture = np.repeat(stripes.astype(np.uint8)[:, :, None], 3, axis=2)
    if bad:
        picture[30:66, 60:96] = (250, 40, 40)
    return Image.fromarray(picture)


@dataclass(frozen=True)
class Place:
    """Where the service answers, and its folders."""

    url: str
    folder: Path

    def send(self, name: str, bad: bool, seed: int = 0, model: str = "parts") -> dict[str, Any]:
        """Inspect an image as a camera would."""
        file = self.picture(name, bad, seed)
        answer = httpx.post(
            f"{self.url}/v1/models/{model}/inspect", files=[("images", (name, file.read_bytes()))], timeout=30
        )
        result: dict[str, Any] = answer.json()["results"][0]
        assert result["is_anomalous"] == bad
        return result

    def picture(self, name: str, bad: bool, seed: int = 0) -> Path:
        """A file of that name, with characters that a browser must not take for markup where asked for."""
        path = self.folder / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        part(100 + seed, bad).save(path)
        return path


@contextmanager
def running(config: Config) -> Iterator[str]:
    """The service on a free port, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(build_app(config), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/parts/good with 16 good images, and a model of them; another one that is taught more."""
    folder = tmp_path_factory.mktemp("page")
    good = folder / "root/parts/good"
    good.mkdir(parents=True)
    for i in range(16):
        part(i, bad=False).save(good / f"{i:02}.png")
    model = PatchCore(weights="random", image_size=64, bank_size=200, threads=1).fit(good)
    (folder / "models").mkdir()
    model.save(folder / "models/parts.patchbank")
    model.save(folder / "models/pupil.patchbank")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Place]:
    config = Config(
        models=tuple(folder / f"models/{name}.patchbank" for name in ("parts", "pupil")), weights="random", threads=1,
        history=folder / "history.sqlite", fit_root=folder / "root",
    )  # fmt: skip
    with running(config) as url:
        yield Place(url, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: object, service: Place) -> Iterator[Callable[[str], Page]]:
    """Opens an address of the page in a new tab; at the end nothing may have gone wrong in it, nor left the service."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")  # type: ignore[attr-defined]
    context.set_default_timeout(15_000)
    problems: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: None if request.url.startswith((service.url, "data:")) else problems.append(request.url),
    )

    def open_(address: str) -> Page:
        page.goto(f"{service.url}/{address}")
        return page

    yield open_
    context.close()
    assert problems == []


def is_problem(message: object) -> bool:
    """Not that the service refused something: the browser notes that, and the page tells people."""
    refused = "status of 4"
    return message.type in ("error", "warning") and refused not in message.text  # type: ignore[attr-defined]


def test_uploads_appear_with_their_verdicts(opened: Callable[[str], Page], service: Place) -> None:
    page = opened("")
    expect(page.get_by_text("Nothing inspected yet")).to_be_visible()
    files = [service.picture("fine.png", bad=False), service.picture("spot.png", bad=True)]
    page.get_by_label("Inspect images …").set_input_files(files)
    rows = page.locator(".row")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="fine.png")).to_contain_text("ACCEPTED")
    expect(rows.filter(has_text="spot.png")).to_contain_text("REJECTED")
    expect(page.locator("#uploads")).to_contain_text("2 images inspected, 1 rejected")
    expect(page.locator(".newest h1")).to_have_text("REJECTED")
    expect(page.locator(".newest .name")).to_have_text("spot.png")
    assert page.locator(".newest .sign polygon").count() == 1  # an octagon
    # the camera goes on, and the page follows by itself
    service.send("next.png", bad=False)
    expect(page.locator(".newest h1")).to_have_text("ACCEPTED")
    assert page.locator(".newest .sign circle").count() == 1
    expect(page.locator(".newest .layers img")).to_have_js_property("complete", True)
    assert page.locator(".newest .layers img").evaluate("image => image.naturalWidth") == SIZE[1]


def test_a_folder_is_sent_without_what_is_no_image(opened: Callable[[str], Page], service: Place) -> None:
    inside = service.folder / "dropped/deep"
    inside.mkdir(parents=True)
    shutil.copy(service.picture("a.png", bad=False), inside / "deep.png")
    (inside / "notes.txt").write_text("no image")
    (inside / "broken.png").write_bytes(b"no image either")
    page = opened("")
    page.get_by_label("Inspect a folder …").set_input_files(inside.parent)
    panel = page.locator("#uploads")
    expect(panel).to_contain_text("1 image inspected, 0 rejected, 1 not")
    expect(panel).to_contain_text("1 file without an image's ending left out")
    expect(panel.locator("li")).to_contain_text("broken.png is a text file, not an image file")


def test_a_dropped_file_is_sent(opened: Callable[[str], Page], service: Place) -> None:
    page = opened("")
    content = list(service.picture("dropped.png", bad=False).read_bytes())
    transfer = page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("main", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.locator(".newest .name")).to_have_text("dropped.png")
    expect(page.locator("#drop")).to_be_hidden()


def test_names_are_never_markup(opened: Callable[[str], Page], service: Place) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    result = service.send(name, bad=True, seed=1)
    page = opened("")
    expect(page.locator(".newest .name")).to_have_text(name)
    expect(page.locator(".row").first).to_contain_text(name)
    page.goto(f"{service.url}/#/image/{result['id']}")
    expect(page.locator(".picture .name")).to_have_text(name)
    page.keyboard.press("o")
    page.goto(f"{service.url}/#/alarms")
    expect(page.locator(".cards")).to_contain_text(name)
    httpx.post(f"{service.url}/v1/history/{result['id']}/verdict", json={"verdict": None})
    assert page.locator("img[src=x]").count() == 0


def test_a_picture_its_layers_and_its_neighbours(opened: Callable[[str], Page], service: Place) -> None:
    result = service.send("spot.png", bad=True, seed=2)
    page = opened(f"#/image/{result['id']}")
    expect(page.locator(".verdict h1")).to_have_text("REJECTED")
    expect(page.locator(".about")).to_contain_text("good parts scores this high or higher")
    heat = page.locator(".stage .heat")
    assert quote(result["when"], safe="") in heat.get_attribute("src")  # another history has the same ids
    expect(heat).to_have_css("opacity", "0.6")
    page.locator("#opacity").fill("25")
    expect(heat).to_have_css("opacity", "0.25")
    page.keyboard.press("m")
    expect(heat).to_have_css("opacity", "0")
    page.keyboard.press("m")
    expect(heat).to_have_css("opacity", "0.25")
    # the regions lie where they are in the picture, to the pixel
    box, stage = page.locator(".regions .over").first.bounding_box(), page.locator(".stage").bounding_box()
    left, top, _, bottom = result["regions"][0]["box"]
    scale = stage["width"] / SIZE[1]
    assert box["x"] - stage["x"] == pytest.approx(left * scale, abs=3)
    assert box["height"] == pytest.approx((bottom - top) * scale, abs=5)
    page.keyboard.press("r")
    expect(page.locator(".regions")).to_be_hidden()
    page.keyboard.press("+")
    assert "scale(1.5)" in page.locator(".stage .base").get_attribute("style")
    page.keyboard.press("0")
    assert "scale(1)" in page.locator(".stage .base").get_attribute("style")
    nearest = page.locator(".nearest img")
    expect(nearest).to_be_visible()
    assert nearest.evaluate("image => image.naturalWidth") > 500


def test_the_keyboard_decides(opened: Callable[[str], Page], service: Place) -> None:
    older, newer = service.send("older.png", bad=True, seed=3), service.send("newer.png", bad=False, seed=4)
    page = opened(f"#/image/{newer['id']}")
    expect(page.locator(".picture .name")).to_have_text("newer.png")
    page.keyboard.press("c")
    expect(page.locator(".said")).to_contain_text("confirmed")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".picture .name")).to_have_text("older.png")
    page.keyboard.press("n")
    page.keyboard.type("could it be dust, or a scratch?")  # letters that are keys elsewhere
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator(".said")).to_contain_text("overruled: was good")
    kept = httpx.get(f"{service.url}/v1/history/{older['id']}").json()
    assert (kept["verdict"], kept["note"]) == ("overruled", "could it be dust, or a scratch?")
    page.keyboard.press("u")
    expect(page.locator(".said")).to_contain_text("Nobody has looked at it yet")
    assert httpx.get(f"{service.url}/v1/history/{older['id']}").json()["verdict"] is None
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".picture .name")).to_have_text("newer.png")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".newest")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("o")  # the focused row, not the newest one
    expect(page.locator(".row").nth(1).locator(".said")).to_contain_text("overruled")
    page.keyboard.press("u")
    expect(page.locator(".row").nth(1).locator(".said")).to_be_empty()


def test_keys_step_through_inspections_that_are_not_in_the_list(opened: Callable[[str], Page], service: Place) -> None:
    first, middle, last = (service.send(f"{name}.png", bad=False, seed=4) for name in ("first", "middle", "last"))
    page = opened("")
    page.route("**/v1/history?limit=60", lambda route: route.fulfill(json={"items": [last], "next": None}))
    page.goto(f"{service.url}/#/image/{first['id']}")
    page.reload()
    for key, name in (("ArrowLeft", "middle"), ("ArrowLeft", "last"), ("ArrowRight", "middle")):
        page.keyboard.press(key)
        expect(page.locator(".picture .name")).to_have_text(f"{name}.png")
    assert page.url.endswith(f"#/image/{middle['id']}")


def test_what_was_said_last_is_kept(opened: Callable[[str], Page], service: Place) -> None:
    result = service.send("twice.png", bad=True, seed=5)
    page = opened(f"#/image/{result['id']}")
    expect(page.locator(".picture .name")).to_have_text("twice.png")
    said: list[Any] = []

    def first_is_refused(route: object) -> None:
        said.append(route.request.post_data_json["verdict"])  # type: ignore[attr-defined]
        if len(said) == 1:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "busy"})  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/verdict", first_is_refused)
    page.keyboard.press("c")
    expect(page.locator(".said")).to_contain_text("trying again")
    page.keyboard.press("o")
    expect(page.locator(".said")).to_contain_text("overruled: was good")
    page.wait_for_timeout(1500)  # the first one would have been tried again by now
    assert said == ["confirmed", "overruled"]
    httpx.post(f"{service.url}/v1/history/{result['id']}/verdict", json={"verdict": None})


def test_only_what_is_unfinished_is_sent_again(opened: Callable[[str], Page], service: Place) -> None:
    files = [service.picture(f"{name}-half.png", bad=False, seed=6) for name in ("one", "two")]
    page = opened("")
    expect(page.locator("#model")).not_to_be_empty()
    done = {"id": 1, "name": "one-half.png", "is_anomalous": True}
    late = {"name": "two-half.png", "error": "this took longer than 1 seconds", "unfinished": True}
    answers = iter([{"results": [done, late]}])

    def half(route: object) -> None:
        answer = next(answers, None)
        route.continue_() if answer is None else route.fulfill(json=answer)  # type: ignore[attr-defined]

    page.route("**/inspect?*", half)
    page.get_by_label("Inspect images …").set_input_files(files)
    expect(page.locator("#uploads")).to_contain_text("this took longer than 1 seconds; trying again")
    expect(page.locator("#uploads")).to_contain_text("2 images inspected, 1 rejected")
    items = httpx.get(f"{service.url}/v1/history").json()["items"]
    assert [item["name"] for item in items if "-half.png" in item["name"]] == ["two-half.png"]


def model_of(service: Place, name: str) -> dict[str, Any]:
    models = httpx.get(f"{service.url}/v1/models").json()["models"]
    return next(model for model in models if model["name"] == name)


def test_an_overruled_alarm_is_taught(opened: Callable[[str], Page], service: Place) -> None:
    first, second = (service.send(f"{name}.png", bad=True, model="pupil") for name in ("teach", "leave"))
    for result in (first, second):
        httpx.post(f"{service.url}/v1/history/{result['id']}/verdict", json={"verdict": "overruled", "note": "dust"})
    before = model_of(service, "pupil")
    page = opened("#/alarms")
    page.locator("#model").select_option("pupil")
    expect(page.locator(".cards li")).to_have_count(2)
    expect(page.locator(".cards li").first).to_contain_text("dust")
    page.get_by_label("Teach leave.png").uncheck()
    page.get_by_role("button", name="Teach 1 part to pupil").click()
    expect(page.locator(".answer")).to_contain_text("pupil learned 1 part")
    expect(page.locator(".cards li")).to_have_count(1)
    after = model_of(service, "pupil")
    assert after["version"] != before["version"]
    assert httpx.get(f"{service.url}/v1/history/{first['id']}").json()["added_at"]
    assert not httpx.get(f"{service.url}/v1/history/{second['id']}").json()["added_at"]


def test_the_slider_counts_and_changes_nothing(opened: Callable[[str], Page], service: Place) -> None:
    for i in range(3):
        service.send(f"good-{i}.png", bad=False, seed=20 + i)
    items = httpx.get(f"{service.url}/v1/history", params={"limit": 500, "model": "parts"}).json()["items"]
    model = model_of(service, "parts")
    page = opened("#/what-if")
    count = page.locator("#would")
    expect(count).to_have_text(str(sum(item["score"] > model["threshold"] for item in items)))
    slider = page.locator("#threshold")
    for share in (0.1, 0.9):
        low, high = (float(slider.get_attribute(name)) for name in ("min", "max"))
        step = float(slider.get_attribute("step"))
        wanted = low + round(share * (high - low) / step) * step
        slider.fill(str(wanted))
        threshold = float(slider.input_value())
        expect(count).to_have_text(str(sum(item["score"] > threshold for item in items)))
        changed = [item for item in items if (item["score"] > threshold) != item["is_anomalous"]]
        expect(page.locator(".list li")).to_have_count(len(changed))
    assert model_of(service, "parts")["threshold"] == model["threshold"]


def test_drift_is_told_in_words(opened: Callable[[str], Page], service: Place) -> None:
    service.send("today.png", bad=False, seed=30)
    page = opened("#/drift")
    expect(page.locator(".alarm")).to_contain_text("too few to tell")
    expect(page.locator("svg.chart .day")).to_have_count(1)
    expect(page.locator("tbody tr")).to_have_count(2)
    answer = httpx.get(f"{service.url}/v1/models/parts/drift").json()
    page.route("**/drift?*", lambda route: route.fulfill(json=answer))
    answer["warning"] = "the last 200 scores are higher than those the threshold was set from"
    page.locator("#days").select_option("90")
    expect(page.locator(".alarm.rejected")).to_contain_text("The last 200 scores are higher")


def test_a_model_is_fitted_from_a_folder(opened: Callable[[str], Page], service: Place) -> None:
    page = opened("#/fit")
    page.locator("#folder").select_option("parts/good")
    expect(page.locator("#name")).to_have_value("parts-2")
    page.locator("#name").fill("parts")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("there is a model named parts already")
    page.locator("#name").fill("fresh")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".fitcard progress")).to_be_visible()
    service.send("meanwhile.png", bad=False, seed=31)  # inspection goes on
    page.get_by_role("link", name="Inspect with fresh").click(timeout=60_000)
    expect(page.locator("#model")).to_have_value("fresh")
    expect(page.get_by_text("Nothing inspected yet")).to_be_visible()
    service.send("by-fresh.png", bad=False, seed=32, model="fresh")
    expect(page.locator(".row")).to_have_count(1)


def test_a_busy_or_lost_service_loses_nothing(browser: object, service: Place) -> None:
    context = browser.new_context()  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto(service.url)
    expect(page.locator("#model")).not_to_be_empty()
    answers = iter([429, None])

    def sometimes(route: object) -> None:
        status = next(answers, "go on")
        if status == 429:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "64 images are waiting already"})  # type: ignore[attr-defined]
        elif status is None:
            route.abort()  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/inspect?*", sometimes)
    page.get_by_label("Inspect images …").set_input_files(service.picture("patient.png", bad=False))
    expect(page.locator("#uploads")).to_contain_text("64 images are waiting already; trying again")
    expect(page.locator("#uploads")).to_contain_text("the service does not answer; trying again")
    expect(page.locator("#uploads")).to_contain_text("1 image inspected", timeout=15_000)
    page.route("**/v1/**", lambda route: route.abort())
    expect(page.locator("#connection")).to_contain_text("No connection to the service since")
    expect(page.locator(".newest .name")).to_have_text("patient.png")
    page.unroute("**/v1/**")
    expect(page.locator("#connection")).to_be_hidden()
    for body in ("<html>a proxy's own page</html>", '{"items": ['):
        page.route("**/v1/history?*", answering(200, body))
        expect(page.locator("#connection")).to_be_visible()
        page.unroute("**/v1/history?*")
        expect(page.locator("#connection")).to_be_hidden()
    service.send("after all.png", bad=False, seed=7)
    expect(page.locator(".newest .name")).to_have_text("after all.png")
    context.close()


def answering(status: int, body: str, method: str = "GET") -> Callable[[Any], None]:
    return lambda route: (
        route.fulfill(status=status, body=body) if route.request.method == method else route.continue_()
    )


def test_it_says_what_it_does_not_know(browser: object, service: Place) -> None:
    result = service.send("perhaps.png", bad=True, seed=8)
    verdict = f"{service.url}/v1/history/{result['id']}/verdict"
    httpx.post(verdict, json={"verdict": "overruled"})
    context = browser.new_context()  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto(f"{service.url}/#/alarms")
    page.locator("#model").select_option("parts")
    for status, words in ((409, "The model is unchanged: no"), (500, "It is not known whether it learned: no")):
        expect(page.get_by_role("button", name="to parts")).to_be_enabled()
        page.route("**/feedback", answering(status, '{"detail": "no"}', "POST"))
        page.get_by_role("button", name="to parts").click()
        expect(page.locator(".answer")).to_contain_text(words)
        page.unroute("**/feedback")
    expect(page.get_by_role("button", name="to parts")).to_be_enabled()
    context.close()
    httpx.post(verdict, json={"verdict": None})


def test_nothing_is_wider_than_the_window(opened: Callable[[str], Page], service: Place) -> None:
    result = service.send(f"{'a-long-name-of-a-camera' * 5}.png", bad=True, seed=40)
    page = opened("")
    for address in ("", f"#/image/{result['id']}", "#/what-if", "#/alarms", "#/drift", "#/fit"):
        page.goto(f"{service.url}/{address}")
        expect(page.locator("main")).not_to_contain_text("Loading …")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_a_token_is_asked_for(browser: object, folder: Path) -> None:
    config = Config(
        models=(folder / "models/parts.patchbank",), history=folder / "closed.sqlite", token=TOKEN, weights="random"
    )
    with running(config) as url:
        for path, status in [("", 303), ("page/main.js", 401), ("page/small/1", 401), ("page/page.css", 200)]:
            assert httpx.get(f"{url}/{path}").status_code == status
        context = browser.new_context()  # type: ignore[attr-defined]
        page = context.new_page()
        page.goto(url)
        page.get_by_label("Token").fill("a wrong token")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_text("Nothing inspected yet")).to_be_visible()
        assert page.evaluate("document.cookie") == ""  # scripts do not see it
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        context.close()
