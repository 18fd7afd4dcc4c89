"""How many threads, for everything that has threads: torch, OpenCV, and the loops of this package.

A forked child has none of the threads of its parent, and what waits for them waits for ever. The loops of this package
start new ones there. OpenMP cannot: torch and faiss run on one thread in a forked child (docs/guides/embedding.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_inside = threading.local()
_lock = threading.Lock()
_within, _torch_threads = 0, 0
_chosen: int | None = None
_opencv_blocks, _opencv_before = 0, 0
_pools: dict[int, ThreadPoolExecutor] = {}  # by their number of threads
_forked = False
_kept: weakref.WeakSet[Any] = weakref.WeakSet()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """The threads of the context that the calling thread is in; otherwise those of the process: all processors that it
    may use, unless the command line says otherwise."""
    return getattr(_inside, "count", None) or _chosen or cores()


def set_default(count: int | None) -> None:
    """Threads of whatever has no context of its own. For the command line alone, whose process it is."""
    global _chosen
    _chosen = count


@dataclass(frozen=True)
class RuntimeContext:
    """What one detector may use of the machine, handed down to what computes for it. `threads`: None for what the
    process has."""

    threads: int | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the calling thread computes with these threads; afterwards everything is as it was. OpenCV
        has one number for the process, which changes for as long as any thread is in such a block."""
        if self.threads is None and _chosen is None:
            yield
            return
        before, count = getattr(_inside, "count", None), self.threads or thread_count()
        _inside.count = count
        try:
            with torch_threads(count), _opencv_threads(count):
                yield
        finally:
            _inside.count = before


@contextmanager
def _opencv_threads(count: int) -> Iterator[None]:
    import cv2

    global _opencv_blocks, _opencv_before
    with _lock:
        if _opencv_blocks == 0:
            _opencv_before = cv2.getNumThreads()
        _opencv_blocks += 1
        if not _forked:
            cv2.setNumThreads(count)
        elif count == 1:
            cv2.setNumThreads(0)  # without threads; any other number would make it wait for those of the parent
    try:
        yield
    finally:
        with _lock:
            _opencv_blocks = max(_opencv_blocks - 1, 0)
            if _opencv_blocks == 0 and not _forked:
                cv2.setNumThreads(_opencv_before)


def within(context: RuntimeContext, items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in the context; between two of them the caller is not in it."""
    while True:
        with context.active():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def openmp_threads(count: int | None = None) -> int:
    """Threads for what uses OpenMP: that many (None: `thread_count`), in a forked child one."""
    return 1 if _forked else count or thread_count()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch on `count` threads within the block, for the calling thread; in a forked child on one.

    Torch keeps one number for each thread and one that new threads begin with, and sets both at once. Several threads
    may be in such a block at a time: each finds its own number again, and new threads that of the others.
    """
    import torch

    global _within, _torch_threads
    with _lock:
        before = torch.get_num_threads()
        if _within == 0 and (before > 1 or threading.current_thread() is threading.main_thread() or not _torch_threads):
            _torch_threads = before
        elif before == 1 and not getattr(_inside, "block", 0):
            before = _torch_threads  # a new thread, which began with what another had set for its block
        _within += 1
        _inside.block = getattr(_inside, "block", 0) + 1
        torch.set_num_threads(openmp_threads(count))
    try:
        yield
    finally:
        with _lock:
            _within, _inside.block = max(_within - 1, 0), max(_inside.block - 1, 0)  # a fork may have begun anew
            torch.set_num_threads(openmp_threads(before))


def on_this_thread() -> AbstractContextManager[None]:
    """Small tensor operations on the calling thread alone: waking torch's other threads would cost more than they do,
    and delay the network that runs next by milliseconds."""
    return torch_threads(1)


class OfProcess(Generic[Result]):
    """What has threads of its own, such as a compiled network: made again, by `make`, in each process that uses it.
    A forked child keeps that of its parent for ever: to take it down it would wait for the threads."""

    def __init__(self, make: Callable[[], Result], made: Result | None = None):
        self._make, self._lock = make, threading.Lock()
        self._made = None if made is None else (os.getpid(), made)
        keep_in_children(self)

    def get(self) -> Result:
        """That of this process."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                if self._made is made:
                    _leave_alone(made)
                    self._made = os.getpid(), self._make()
                made = self._made
        assert made is not None
        return made[1]

    def __getstate__(self) -> Callable[[], Result]:
        return self._make

    def __setstate__(self, make: Callable[[], Result]) -> None:
        OfProcess.__init__(self, make)


def keep_in_children(thing: Any) -> None:
    """Never take something down in a forked child; its `_lock` is a new one there."""
    _kept.add(thing)


def _leave_alone(thing: Any) -> None:
    """Also not at the end of the process: to take it down is to wait for threads, or to abort where they are gone."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


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
    count = thread_count()
    pool = _pools.get(count)
    if pool is None:
        with _lock:
            pool = _pools.setdefault(count, ThreadPoolExecutor(count, thread_name_prefix="patchbank"))
    return pool


def _after_fork() -> None:
    """In a forked child, before anything else runs."""
    global _pools, _lock, _within, _torch_threads, _forked, _opencv_blocks
    for pool in _pools.values():
        _leave_alone(pool)
    _pools, _lock, _within, _opencv_blocks = {}, threading.Lock(), 0, 0
    _inside.worker, _inside.block, _inside.count = False, 0, None
    for thing in _kept:
        _leave_alone(thing)
        if hasattr(thing, "_lock"):
            thing._lock = threading.Lock()  # another thread may have held it
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        _forked, _torch_threads = True, 1
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
