"""How many threads, for everything that has threads: torch, OpenCV, and the loops of this package."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from patchbank.environment import cores

Item = TypeVar("Item")
Result = TypeVar("Result")
_inside = threading.local()
_lock = threading.Lock()
_alone, _torch_threads = 0, 1
_chosen: int | None = None
_before: tuple[int, int] | None = None  # threads of torch and OpenCV
_pool: tuple[int, ThreadPoolExecutor] | None = None


def thread_count() -> int:
    """The number that was set, or the processors this process may use."""
    return cores() if _chosen is None else _chosen


def set_threads(count: int | None) -> None:
    """Use that many threads everywhere in this process; None is what there was before the first call."""
    global _chosen, _before
    if count is None and _before is None:
        return
    import cv2
    import torch

    if _before is None:
        _before = torch.get_num_threads(), cv2.getNumThreads()
    _chosen = count
    torch.set_num_threads(count or _before[0])
    cv2.setNumThreads(count or _before[1])


@contextmanager
def on_this_thread() -> Iterator[None]:
    """Small tensor operations on the calling thread alone: waking torch's other threads would cost more than they do,
    and delay the network that runs next by milliseconds."""
    import torch

    global _alone, _torch_threads
    with _lock:  # several threads may predict at once: the first one in remembers, the last one out restores
        if _alone == 0:
            _torch_threads = torch.get_num_threads()
        _alone += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _alone -= 1
            if _alone == 0:
                torch.set_num_threads(_torch_threads)


def spread(function: Callable[[int, int], None], total: int, grain: int = 1) -> None:
    """Call function(start, stop) on pieces that cover range(total), in parallel; pieces begin at multiples of `grain`.

    The function must release the GIL to gain anything. An exception in a piece is raised here.
    """
    pieces = 1 if getattr(_inside, "worker", False) else min(thread_count(), -(-total // grain))
    if pieces <= 1:
        if total:
            function(0, total)
        return
    step = -(-total // (pieces * grain)) * grain
    starts = range(0, total, step)
    pending = [_workers().submit(function, start, min(start + step, total)) for start in starts[1:]]
    function(0, step)  # the caller works too
    for piece in pending:
        piece.result()


def for_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """[function(item) for item in items], several at a time; what spreads its own work inside stays on one thread."""

    def alone(item: Item) -> Result:
        _inside.worker = True
        try:
            return function(item)
        finally:
            _inside.worker = False

    if thread_count() == 1 or len(items) < 2 or getattr(_inside, "worker", False):
        return [function(item) for item in items]
    return list(_workers().map(alone, items))


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool[0] != thread_count():
        _pool = thread_count(), ThreadPoolExecutor(thread_count(), thread_name_prefix="patchbank")
    return _pool[1]


def _forget_workers() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child has none of the parent's threads
    os.register_at_fork(after_in_child=_forget_workers)
