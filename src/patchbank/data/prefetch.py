"""Decoding ahead of the network, in background threads (Pillow releases the interpreter lock while it decodes)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(function: Callable[[T], R], items: Iterable[T], *, workers: int = 2, ahead: int = 8) -> Iterator[R]:
    """`map(function, items)` in order, at most `ahead` results held in memory; an exception is raised at its item.

    Nothing is taken ahead from what is no sequence: an iterator may be a camera, whose next frame is yet to come.
    """
    if not isinstance(items, Sequence):
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if len(first) < 2:  # nothing to do ahead
        yield from map(function, first)
        return
    remaining = chain(first, remaining)
    with ThreadPoolExecutor(workers, thread_name_prefix="patchbank-decode") as pool:
        try:
            pending.extend(pool.submit(function, item) for item in islice(remaining, ahead))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
