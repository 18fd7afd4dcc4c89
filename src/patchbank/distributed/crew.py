"""The workers as the driver sees them: calls that every worker makes, and what a new worker must make again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from patchbank.distributed.shard import Call
from patchbank.errors import PatchbankError, notify

MOST_LOSSES = 4  # of workers within one call, before it is said to be the call's fault

Batch = Sequence[Call]


class ClusterError(PatchbankError):
    """The cluster cannot be reached, or loses its workers again and again."""


class LostError(Exception):
    """A worker went away before it answered. The message says how, as far as it is known."""


class Workers(Protocol):
    """Processes with a `Shard` each."""

    def __len__(self) -> int: ...

    def submit(self, worker: int, calls: Batch) -> Any:
        """Send calls to a worker; a handle of the result of the last."""
        ...

    def wait(self, handles: Sequence[Any]) -> tuple[Any, tuple[Any, list[str]] | LostError]:
        """The first handle that is done, and what it gave. Raises what a call raised."""
        ...

    def replace(self, worker: int) -> None:
        """A new process, with an empty `Shard`, in the place of one that is lost."""
        ...

    def share(self, value: Any) -> Any:
        """What stands for a value in the arguments of calls to several workers."""
        ...


@dataclass
class Crew:
    """Sends calls, and brings workers back that are lost: their calls are made again, then the one that was lost.

    Attributes:
        workers: the processes.
        losses: how many were lost so far.
    """

    workers: Workers
    losses: int = 0
    _kept: list[list[Call]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forget_all()

    def __len__(self) -> int:
        return len(self.workers)

    def share(self, value: Any) -> Any:
        """See `Workers`."""
        return self.workers.share(value)

    def ask(self, method: str, args: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """One call to each worker (None: to this one none), all at a time; their results."""
        return self._all([[] if each is None else [[Call(method, each)]] for each in args])

    def tell(self, method: str, args: Sequence[tuple[Any, ...] | None], tag: str = "") -> list[Any]:
        """As `ask`, for calls that change what the worker holds."""
        return self._all([[] if each is None else [[Call(method, each, True, tag)]] for each in args])

    def ask_after(self, change: Call, question: Call) -> list[Any]:
        """Two calls to each worker in one message, the first of which changes what it holds."""
        return self._all([[[change, question]]] * len(self))

    def _all(self, queues: Sequence[Sequence[Batch]]) -> list[Any]:
        results: list[Any] = [None] * len(queues)
        for worker, _, result in self.spread(queues):
            results[worker] = result
        return results

    def spread(self, queues: Sequence[Sequence[Batch]], passes_over: bool = False) -> Iterator[tuple[int, int, Any]]:
        """Each worker makes the calls of its own queue, one batch after the other: (worker, number, result) as they
        come. `passes_over`: the result of a batch that takes its worker with it each time is a `ClusterError`, and the
        others go on."""
        waiting = [deque(enumerate(queue)) for queue in queues]
        losses = [0] * len(queues)
        running = {self.workers.submit(w, queue[0][1]): w for w, queue in enumerate(waiting) if queue}
        while running:
            handle, outcome = self.workers.wait(list(running))
            worker = running.pop(handle)
            number, batch = waiting[worker][0]
            if isinstance(outcome, LostError):
                losses[worker] += 1
                self.losses += 1
                self.workers.replace(worker)
                if losses[worker] < MOST_LOSSES:
                    notify(f"worker {worker + 1} of {len(self)} was lost ({outcome}): another one does its work anew")
                    running[self.workers.submit(worker, [*self._kept[worker], *batch])] = worker
                    continue
                if not passes_over:
                    raise self._given_up(worker, batch, outcome) from outcome
                outcome = self._given_up(worker, batch, outcome), list[str]()
                batch = list(self._kept[worker])  # for the calls that follow
                self._kept[worker].clear()
                self.workers.wait([self.workers.submit(worker, batch)])
            waiting[worker].popleft()
            self._kept[worker] += [call for call in batch if call.kept]
            if waiting[worker]:
                running[self.workers.submit(worker, waiting[worker][0][1])] = worker
            losses[worker] = 0
            result, notes = outcome
            for note in notes:
                notify(note)
            yield worker, number, result

    def _given_up(self, worker: int, batch: Batch, error: LostError) -> ClusterError:
        return ClusterError(
            f"worker {worker + 1} of {len(self)} was lost {MOST_LOSSES} times in {batch[-1].method} ({error}): give "
            "workers more memory or use more of them (--workers)"
        )

    def forget(self, tag: str) -> None:
        """Calls that a new worker need not make any more."""
        self._kept = [[call for call in calls if call.tag != tag] for calls in self._kept]

    def forget_all(self) -> None:
        """All of them: what comes next begins with empty shards."""
        self._kept = [[] for _ in range(len(self.workers))]
