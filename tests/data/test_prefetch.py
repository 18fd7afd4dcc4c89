"""Decoding ahead keeps the order, is bounded, and passes errors on."""

from __future__ import annotations

import threading
import time

import pytest

from patchbank.data import prefetch


def test_order_is_kept() -> None:
    assert list(prefetch(lambda i: (time.sleep(0.01 * (i % 3)), i)[1], range(20))) == list(range(20))


def test_it_never_runs_far_ahead() -> None:
    started = 0
    lock = threading.Lock()

    def work(i: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return i

    results = prefetch(work, range(100), ahead=5)
    for taken in range(10):
        next(results)
        assert started <= taken + 1 + 5
    results.close()  # type: ignore[attr-defined]


def test_an_exception_is_raised_at_its_item() -> None:
    results = prefetch(lambda i: 1 // (2 - i), range(5))
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_list_is_run_ahead_and_an_iterator_is_not() -> None:
    begun = threading.Event()

    def work(i: int) -> int:
        if i:
            begun.set()
        return i

    results = prefetch(work, list(range(9)))
    next(results)
    assert begun.wait(10)
    results.close()  # type: ignore[attr-defined]
    taken = []
    results = prefetch(lambda i: i, (taken.append(i) or i for i in range(9)))  # type: ignore[func-returns-value]
    for number in range(3):
        assert next(results) == number
        assert taken == list(range(number + 1))
