"""The loop that all methods share which learn weights."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from patchbank._system.signals import undivided
from patchbank.errors import DatasetError, ModelFileError
from patchbank.training import loop
from patchbank.training.checkpoint import Checkpoints
from patchbank.training.loop import Outcome, Training, train
from patchbank.training.session import Session
from tests.training.toy import IMAGES, ROWS, Line

POINTS = IMAGES * ROWS


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, also where whoever started the tests has switched it off, as `nohup` does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Clock:
    """Time that goes on by a second whenever it is asked for."""

    def __init__(self, second: float = 1.0):
        self.now, self.second = 0.0, second

    def monotonic(self) -> float:
        self.now += self.second
        return self.now


# ---- epochs, rates, ends ---------------------------------------------------------------------------------------------


def test_each_item_is_seen_once_in_each_epoch() -> None:
    task = Line()
    outcome = train(task, Training(epochs=3, batch=50))
    assert outcome.steps == len(task.seen)
    assert (outcome.epochs, outcome.ended) == (3, "epochs")
    per_epoch = len(task.seen) // 3
    epochs = [task.seen[i : i + per_epoch] for i in range(0, len(task.seen), per_epoch)]
    orders = [[number for numbers in epoch for number in numbers] for epoch in epochs]
    assert all(sorted(order) == list(range(POINTS)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_the_line_is_found_and_frozen() -> None:
    task, before = Line(), torch.get_rng_state()
    outcome = train(task, Training(epochs=20, batch=20))
    assert torch.allclose(task.weights(), torch.tensor([1.0, -2.0, 0.5, 0.3]), atol=0.05)
    assert outcome.loss < 0.05
    assert not task.network.training
    assert not any(parameter.requires_grad for parameter in task.network.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_one_seed_one_order_and_one_noise() -> None:
    one, two, other = Line(), Line(), Line()
    for task, seed in ((one, 3), (two, 3), (other, 4)):
        train(task, Training(epochs=2, batch=20, seed=seed))
    assert one.seen == two.seen != other.seen
    assert torch.equal(one.weights(), two.weights())
    assert not torch.equal(one.weights(), other.weights())


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_learning_rates(schedule: str, warmup: float) -> None:
    task = Line()
    train(task, Training(epochs=4, batch=50, schedule=schedule, warmup=warmup))
    steps = len(task.rates) // 4
    for step, rate in enumerate(task.rates):
        epoch = (step + 1) / steps
        if epoch < warmup:
            share = epoch / warmup
        elif schedule == "constant":
            share = 1.0
        else:
            share = 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (4 - warmup)))
        assert rate == pytest.approx(0.1 * share, abs=1e-9)


def test_the_gradient_is_no_longer_than_asked() -> None:
    task, lengths = Line(), list[float]()
    task._optimiser = torch.optim.SGD(task.network.parameters(), lr=1.0)
    before = task.weights()
    task._before = lambda step: lengths.append(float((task.weights() - before).norm()))
    train(task, Training(epochs=1, batch=POINTS // 2, clip=0.01))
    assert lengths[1] == pytest.approx(0.01, rel=1e-4)


def test_patience_ends_a_training_that_no_longer_learns() -> None:
    task = Line()
    outcome = train(task, Training(epochs=500, batch=20, patience=2))
    assert outcome.ended == "patience"
    assert 3 <= outcome.epochs < 500
    learned = {row // ROWS for numbers in task.seen for row in numbers}
    assert len(learned) == IMAGES - IMAGES // 10  # the others are what it was stopped by


def test_a_single_image_is_learned_from_with_patience_too() -> None:
    assert train(Line(images=1), Training(epochs=3, batch=20, patience=0)).ended == "epochs"


def test_minutes_are_shared_by_the_trainings_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    for fits, of_each in ((1, 1), (6, 1), (1, 2)):
        monkeypatch.setattr(loop, "time", Clock())
        session = Session(fits=fits, of_each=of_each)
        outcome = train(Line(), Training(epochs=10_000, batch=20, max_minutes=2), session)
        assert outcome.ended == "minutes"
        steps.append(outcome.steps)
    assert steps[0] > 100
    assert steps[1] == pytest.approx(steps[0] / 6, abs=2)
    assert steps[2] == pytest.approx(steps[0] / 2, abs=2)


def test_progress_tells_of_the_loss_and_of_the_trainings() -> None:
    told: list[tuple[str, int, int]] = []
    session = Session(lambda *said: told.append(said))
    train(Line(), Training(epochs=2, batch=50), session)
    assert [done for _, done, _ in told] == list(range(1, len(told) + 1))
    assert {total for *_, total in told} == {len(told)}
    assert all(stage.startswith("training: loss ") for stage, *_ in told)
    told.clear()
    session.begin(fits=6)
    train(Line(), Training(epochs=1, batch=50), session)
    train(Line(), Training(epochs=1, batch=50), session)
    assert told[0][0].startswith("training 1 of 6: loss ")
    assert told[-1][0].startswith("training 2 of 6: loss ")


def test_a_loss_that_is_no_number() -> None:
    task = Line()

    def spoil(step: int) -> None:
        if step == 4:
            task.items.vectors[:] = torch.nan

    task._before = spoil
    with pytest.raises(DatasetError, match="the loss is nan after 3 steps: use a smaller learning rate"):
        train(task, Training(epochs=2, batch=20))


# ---- broken off, and resumed -----------------------------------------------------------------------------------------

LONG = Training(epochs=4, batch=20, seed=2, schedule="cosine", warmup=1, clip=1.0, patience=100)


def resumed(folder: Path, training: Training = LONG, learned: str = "all") -> tuple[Line, Outcome, Checkpoints]:
    task, kept = Line(), Checkpoints(folder, resume=True)
    outcome = train(task, training, Session(checkpoints=kept), learned)
    return task, outcome, kept


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Line, Outcome]:
    task = Line()
    return task, train(task, LONG)


@pytest.mark.parametrize("step", [1, 2, 6, 7, 13, 20])
def test_a_training_that_was_interrupted(step: int, undisturbed: tuple[Line, Outcome], tmp_path: Path) -> None:
    """Ctrl-C within a step waits for its end, so that what is kept is a whole step."""

    def interrupt(now: int) -> None:
        if now == step:
            signal.raise_signal(signal.SIGINT)

    task = Line(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(task, LONG, Session(checkpoints=Checkpoints(tmp_path)), "all")
    assert len(task.seen) == step
    again, outcome, kept = resumed(tmp_path)
    assert kept.found == 1
    assert task.seen + again.seen == undisturbed[0].seen
    assert torch.equal(again.weights(), undisturbed[0].weights())
    assert outcome == undisturbed[1]


def test_ctrl_c_between_two_steps(
    undisturbed: tuple[Line, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, steps = Line(), [0]
    batches = task.items.batches

    def interrupted(*given: Any) -> Any:
        for numbers in batches(*given):
            steps[0] += 1
            if steps[0] == 9:
                signal.raise_signal(signal.SIGINT)
            yield numbers

    monkeypatch.setattr(task.items, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(task, LONG, Session(checkpoints=Checkpoints(tmp_path)), "all")
    again, _, _ = resumed(tmp_path)
    assert task.seen
    assert task.seen + again.seen == undisturbed[0].seen
    assert torch.equal(again.weights(), undisturbed[0].weights())


class Power(Exception):
    """It failed."""


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(
    undisturbed: tuple[Line, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(now: int) -> None:
        if now == 12:
            raise Power

    monkeypatch.setattr(loop, "time", Clock())
    monkeypatch.setattr(loop, "_EVERY", 8.0)  # three seconds a step: every third step
    with pytest.raises(Power):
        train(Line(fail), LONG, Session(checkpoints=Checkpoints(tmp_path)), "all")
    again, _, _ = resumed(tmp_path)
    done = len(undisturbed[0].seen) - len(again.seen)
    assert 9 <= done < 11
    assert torch.equal(again.weights(), undisturbed[0].weights())


def test_a_training_that_was_complete_is_not_done_again(undisturbed: tuple[Line, Outcome], tmp_path: Path) -> None:
    train(Line(), LONG, Session(checkpoints=Checkpoints(tmp_path)), "all")
    again, outcome, _ = resumed(tmp_path)
    assert again.seen == []
    assert outcome == undisturbed[1]
    assert torch.equal(again.weights(), undisturbed[0].weights())


def test_rates_come_down_by_the_end_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "time", Clock())
    task = Line()
    train(task, Training(epochs=10_000, batch=20, schedule="cosine", max_minutes=2))
    assert task.rates == sorted(task.rates, reverse=True)
    assert task.rates[0] > 0.09
    assert task.rates[-1] < 0.001


def test_more_minutes_go_on_where_the_minutes_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "time", Clock())
    first = Training(epochs=50, batch=20, max_minutes=0.2)
    assert train(Line(), first, Session(checkpoints=Checkpoints(tmp_path)), "all").ended == "minutes"
    again, outcome, _ = resumed(tmp_path, first, "all")
    assert (again.seen, outcome.ended) == ([], "minutes")
    again, outcome, _ = resumed(tmp_path, Training(epochs=50, batch=20, max_minutes=100), "all")
    assert outcome.ended == "epochs"
    assert again.seen


def test_what_is_kept_of_other_images_is_not_used(tmp_path: Path) -> None:
    train(Line(), LONG, Session(checkpoints=Checkpoints(tmp_path)), "some")
    again, _, kept = resumed(tmp_path)
    assert kept.found == 0
    assert again.seen


def test_several_trainings_on_the_same_images_are_kept_apart(tmp_path: Path) -> None:
    """Such as those of two channels."""
    session = Session(checkpoints=Checkpoints(tmp_path))
    for seed in (0, 1):
        train(Line(seed=seed), Training(epochs=1, batch=20), session, "all")
    assert len(list(tmp_path.iterdir())) == 2
    session, found = Session(checkpoints=Checkpoints(tmp_path, resume=True)), []
    for seed in (0, 1):
        task = Line(seed=seed)
        train(task, Training(epochs=1, batch=20), session, "all")
        assert task.seen == []
        found.append(task.weights())
    assert not torch.equal(*found)


def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    train(Line(), LONG, Session(checkpoints=Checkpoints(tmp_path)), "all")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"\0" * 200):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="is no intact checkpoint of this training: remove it, or leave out"):
            resumed(tmp_path)


# ---- signals ---------------------------------------------------------------------------------------------------------


def test_signals_wait_for_the_end_of_a_block() -> None:
    done = []

    def block() -> None:
        with undivided():
            with undivided():
                signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")
        done.append("after it")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_come_back_after_an_error() -> None:
    with pytest.raises(Power), undivided():
        raise Power
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_handle_no_signals() -> None:
    done = []

    def block() -> None:
        with undivided():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]
