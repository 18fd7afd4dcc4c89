"""Work is spread over the threads that were asked for, and nothing else runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from patchbank import PatchCore
from patchbank._system import threads


@pytest.fixture(autouse=True)
def restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_chosen", threads._chosen)


@pytest.mark.parametrize(("count", "total", "grain"), [(1, 10, 1), (3, 100, 16), (4, 5, 4), (8, 3, 1), (2, 0, 1)])
def test_pieces_cover_everything_once(count: int, total: int, grain: int) -> None:
    threads._chosen = count
    seen, pieces = [0] * total, []

    def work(start: int, stop: int) -> None:
        pieces.append(start)
        for i in range(start, stop):
            seen[i] += 1

    threads.spread(work, total, grain)
    assert seen == [1] * total
    assert len(pieces) <= count
    assert all(start % grain == 0 for start in pieces)


def test_an_exception_in_a_piece_is_raised() -> None:
    threads._chosen = 2

    def work(start: int, stop: int) -> None:
        if start:
            raise ValueError("in the second half")

    with pytest.raises(ValueError, match="second half"):
        threads.spread(work, 10)


def test_work_inside_work_stays_on_its_thread() -> None:
    threads._chosen = 3
    names: list[set[str]] = []

    def one(_: int) -> int:
        mine: set[str] = set()
        threads.spread(lambda start, stop: mine.add(threading.current_thread().name), 100)
        names.append(mine)
        return len(mine)

    assert threads.for_each(one, list(range(20))) == [1] * 20
    assert all(len(mine) == 1 for mine in names)


def test_on_this_thread_restores_the_number() -> None:
    before = torch.get_num_threads()
    with threads.on_this_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_overlapping_threads_find_their_numbers_again() -> None:
    """The second comes in before the first goes out; a third begins while both are inside."""
    inside = [threading.Event() for _ in range(3)]
    after: list[int] = []

    def block(number: int, waits_for: threading.Event | None) -> None:
        with threads.on_this_thread():
            assert torch.get_num_threads() == 1
            with threads.on_this_thread():  # one in another
                pass
            assert torch.get_num_threads() == 1
            inside[number].set()
            if waits_for:
                waits_for.wait(10)
        after.append(torch.get_num_threads())

    first = threading.Thread(target=block, args=(0, inside[1]))
    second = threading.Thread(target=block, args=(1, inside[2]))
    first.start()
    inside[0].wait(10)
    second.start()
    inside[1].wait(10)
    third = threading.Thread(target=block, args=(2, None))
    third.start()
    for thread in (first, second, third):
        thread.join(10)
    assert after == [2, 2, 2]
    assert torch.get_num_threads() == 2
    new = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    new.start()
    new.join(10)
    assert after == [2, 2, 2, 2]


@pytest.mark.usefixtures("two_threads")
def test_the_number_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), threads.torch_threads(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == 2
    with threads.torch_threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("count", [1, 2, 8])
def test_predictions_from_several_threads_are_the_serial_ones(count: int) -> None:
    images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8) for i in range(8)]
    model = PatchCore(image_size=64, threads=1).fit(images[:4])
    serial = [model.predict(image) for image in images]
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(model.predict, images)) == serial
        assert set(pool.map(lambda _: torch.get_num_threads(), range(count))) == {2}
    assert torch.get_num_threads() == 2


_COUNT = """
import json, os, sys, threading, time
import numpy as np
busiest = 0
def watch():
    global busiest
    while True:
        running = 0
        for task in os.listdir("/proc/self/task"):
            try:
                running += open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()[0] == "R"
            except OSError:
                pass
        samples.append(running)
        time.sleep(0.002)
samples = []
from patchbank import PatchCore
images = [np.random.default_rng(i).integers(0, 255, (128, 128, 3), dtype=np.uint8) for i in range(12)]
model = PatchCore(threads=1, image_size=128, bank_size=300)
model.extractor
threading.Thread(target=watch, daemon=True).start()
model.fit(images)
print(json.dumps(sorted(samples)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the running threads in /proc")
def test_one_thread_is_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True)
    samples = json.loads(done.stdout)
    # the watcher itself is one, a decoder may be another
    assert samples[len(samples) // 2] <= 3
