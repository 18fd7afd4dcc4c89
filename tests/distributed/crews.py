"""Workers in the process of the test: calls are pickled as they would be, and a worker can be lost at any call."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.crew import Crew, LostError
from patchbank.distributed.shard import Call, Shard


class Here:
    """See `crew.Workers`. `loses(worker, method, number)`: whether the worker dies in this call, the `number`th of
    that method."""

    def __init__(self, count: int, loses: Callable[[int, str, int], bool] = lambda *_: False):
        self.shards: list[Shard | None] = [Shard() for _ in range(count)]
        self.loses, self.calls = loses, dict[tuple[int, str], int]()
        self.handles, self.results = itertools.count(), dict[int, Any]()

    def __len__(self) -> int:
        return len(self.shards)

    def submit(self, worker: int, calls: Sequence[Call]) -> int:
        handle = next(self.handles)
        self.results[handle] = worker, pickle.dumps(list(calls))
        return handle

    def wait(self, handles: Sequence[int]) -> tuple[int, Any]:
        handle = max(handles)  # never the order in which they were sent
        worker, calls = self.results.pop(handle)
        calls, shard = pickle.loads(calls), self.shards[worker]
        method = calls[-1].method
        number = self.calls[worker, method] = self.calls.get((worker, method), 0) + 1
        if shard is None or self.loses(worker, method, number):
            self.shards[worker] = None
            return handle, LostError("killed")
        return handle, pickle.loads(pickle.dumps(shard.run(calls)))

    def replace(self, worker: int) -> None:
        self.shards[worker] = Shard()

    def share(self, value: Any) -> Any:
        return value


def here(count: int, loses: Callable[[int, str, int], bool] = lambda *_: False) -> ClusterFit:
    """A cluster in this process."""
    return ClusterFit(Crew(Here(count, loses)), [count] * count)
