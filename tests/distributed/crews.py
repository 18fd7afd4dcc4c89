"""Workers in the process of the test: calls are pickled as they would be, and a worker can be lost at any call."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.crew import Crew, LostError
from patchbank.distributed.shard import Call, Shard


@dataclass(frozen=True)
class Shared:
    """What stands for a value that several workers are given."""

    number: int


class Here:
    """See `crew.Workers`. `loses(worker, method, number)`: whether the worker dies in this call, the `number`th of
    that method."""

    def __init__(self, count: int, loses: Callable[[int, str, int], bool] = lambda *_: False):
        self.shards: list[Shard | None] = [Shard() for _ in range(count)]
        self.loses, self.calls = loses, dict[tuple[int, str], int]()
        self.shared, self.fetched = list[bytes](), dict[tuple[int, int], Any]()
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
        shard = self.shards[worker]
        calls = [
            replace(call, args=tuple(self._fetched(worker, arg) for arg in call.args)) for call in pickle.loads(calls)
        ]
        method = calls[-1].method
        number = self.calls[worker, method] = self.calls.get((worker, method), 0) + 1
        if shard is None or self.loses(worker, method, number):
            self.shards[worker] = None
            return handle, LostError("killed")
        return handle, pickle.loads(pickle.dumps(shard.run(calls)))

    def replace(self, worker: int) -> None:
        self.shards[worker] = Shard()
        self.fetched = {key: value for key, value in self.fetched.items() if key[0] != worker}

    def share(self, value: Any) -> Any:
        self.shared.append(pickle.dumps(value))
        return Shared(len(self.shared) - 1)

    def _fetched(self, worker: int, value: Any) -> Any:
        if not isinstance(value, Shared):
            return value
        if (worker, value.number) not in self.fetched:
            self.fetched[worker, value.number] = pickle.loads(self.shared[value.number])
        return self.fetched[worker, value.number]


def here(count: int, loses: Callable[[int, str, int], bool] = lambda *_: False) -> ClusterFit:
    """A cluster in this process."""
    return ClusterFit(Crew(Here(count, loses)), [count] * count)
