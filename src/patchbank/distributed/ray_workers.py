"""Workers on a Ray cluster. Scheduling, transport and spilling are Ray's; which calls a lost worker made is ours."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from patchbank.distributed.cluster import ClusterFit
from patchbank.distributed.crew import MOST_LOSSES, ClusterError, Crew, LostError
from patchbank.distributed.shard import Call, Shard
from patchbank.errors import MissingPackageError, OptionError, PatchbankError

_OF_IMAGES = ("visit", "each")  # calls that are made again and again with one function
_READY = 300  # seconds until a worker must have begun; nodes may have to be started first


def import_ray() -> Any:
    """Ray, quiet about its own use. Raises `MissingPackageError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # a cluster that is not there is said to be at once
    try:
        import ray
    except ImportError:
        raise MissingPackageError("--ray needs the package ray: pip install patchbank[ray]") from None
    return ray


class ShardActor:
    """A `Shard` in a process of its own."""

    def __init__(self, threads: int | None) -> None:
        from patchbank._system.threads import set_default

        set_default(threads)
        self._shard, self._ray = Shard(), import_ray()
        self._functions: dict[Any, Any] = {}

    def place(self) -> tuple[str, int]:
        """Which machine it is on, and the number of its process there."""
        return self._ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, calls: list[Call]) -> Any:
        """See `Shard`; what was shared is fetched."""
        return self._shard.run(
            [replace(call, args=tuple(self._fetched(call, arg) for arg in call.args)) for call in calls]
        )

    def _fetched(self, call: Call, value: Any) -> Any:
        if not isinstance(value, self._ray.ObjectRef):
            return value
        if call.method not in _OF_IMAGES:
            return self._ray.get(value)
        if value not in self._functions:  # its search of a bank is made once, not for every few images
            self._functions = {value: self._ray.get(value)}
        return self._functions[value]


class RayWorkers:
    """See `crew.Workers`. `threads`: of each worker; `gpus`: of each worker, a part of one where it is below 1."""

    def __init__(self, count: int, threads: int | None = None, gpus: float = 0.0):
        self._ray, self._threads, self._gpus = import_ray(), threads, gpus
        # more workers than CPUs share them: Ray would wait for ever for the others
        cpus = 1 if count <= self._ray.available_resources().get("CPU", 0) else 0
        self._actors = [self._start(cpus) for _ in range(count)]
        try:
            self.places = [self._begun(worker) for worker in range(count)]
        except (self._ray.exceptions.GetTimeoutError, self._ray.exceptions.RayActorError) as error:
            self.stop()
            named = "the worker" if count == 1 else f"{count} workers"
            raise ClusterError(
                f"{named} did not start within {_READY} s ({_first_line(error)}): use fewer (--workers), or see "
                "`ray status`"
            ) from error

    def _begun(self, worker: int) -> tuple[str, int]:
        """Where a worker runs. One that was sent to a node that had just gone starts anew, on another."""
        for _ in range(MOST_LOSSES - 1):
            try:
                return self._place(worker)
            except self._ray.exceptions.RayActorError:
                self.replace(worker)
        return self._place(worker)

    def _place(self, worker: int) -> tuple[str, int]:
        place: tuple[str, int] = self._ray.get(self._actors[worker].place.remote(), timeout=_READY)
        return place

    def _start(self, cpus: int) -> Any:
        options = {"scheduling_strategy": "SPREAD", "max_restarts": 0, "num_cpus": cpus, "num_gpus": self._gpus}
        return self._ray.remote(ShardActor).options(**options).remote(self._threads)

    def __len__(self) -> int:
        return len(self._actors)

    def submit(self, worker: int, calls: Sequence[Call]) -> Any:
        """See `Workers`."""
        return self._actors[worker].run.remote(list(calls))

    def wait(self, handles: Sequence[Any]) -> tuple[Any, tuple[Any, list[str]] | LostError]:
        """See `Workers`."""
        lost = self._ray.exceptions
        done, _ = self._ray.wait(list(handles), num_returns=1)
        try:
            return done[0], self._ray.get(done[0])
        except (lost.RayActorError, lost.WorkerCrashedError, lost.NodeDiedError, lost.ObjectLostError) as error:
            return done[0], LostError(_first_line(error))
        except lost.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, lost.RayError):  # what a call needed was on a node that is gone
                return done[0], LostError(_first_line(cause))
            if isinstance(cause, PatchbankError):
                raise cause from None
            raise

    def replace(self, worker: int) -> None:
        """See `Workers`."""
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._start(0)  # whose node is gone must start on one that is full

    def share(self, value: Any) -> Any:
        """See `Workers`."""
        return self._ray.put(value)

    def neighbours(self) -> list[int]:
        """How many workers the machine of each worker has."""
        count = Counter(node for node, _ in self.places)
        return [count[node] for node, _ in self.places]

    def stop(self) -> None:
        """End the workers."""
        for actor in self._actors:
            self._ray.kill(actor)


def gpus_each(gpus: float, workers: int) -> float:
    """A GPU for each worker where there are enough; otherwise as many workers share each GPU as must."""
    return 0.0 if gpus < 1 else 1 / math.ceil(workers / int(gpus))


def _first_line(error: BaseException) -> str:
    for line in str(error).splitlines():
        if line.strip():
            return line.strip().rstrip(".:")
    return type(error).__name__


def attach(address: str) -> bool:
    """Reach a Ray cluster: "auto" for the one that this machine belongs to, "local" for one on this machine alone that
    ends with the program, or an address. Whether it was reached here, and not before.

    Raises:
        ClusterError: none can be reached.
        MissingPackageError: Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"--ray {address}: no Ray cluster can be reached ({_first_line(error)}): start one with "
            "`ray start --head`, or use --ray local for workers on this machine"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raise `OSError` where nothing listens at host:port: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


@contextmanager
def connect(
    address: str = "auto", workers: int | None = None, *, threads: int | None = None, gpus: float | None = None
) -> Iterator[ClusterFit]:
    """Workers on a Ray cluster, for `Detector.fit(..., cluster=...)`.

    Args:
        address: see `attach`.
        workers: how many; None for one for each CPU of the cluster.
        threads: of each worker; None for one.
        gpus: of each worker; None for its part of those that the cluster has (`gpus_each`).

    Raises:
        ClusterError: the cluster cannot be reached, or its workers do not start.
        MissingPackageError: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"--workers must be at least 1, not {workers}")
    attached = attach(address)
    ray = import_ray()
    started = None
    try:
        found = ray.cluster_resources()
        count = workers or max(1, int(found.get("CPU", 1)))
        started = RayWorkers(count, threads or 1, gpus_each(found.get("GPU", 0), count) if gpus is None else gpus)
        yield ClusterFit(Crew(started), started.neighbours())
    finally:
        if started is not None:
            started.stop()
        if attached:
            ray.shutdown()
