"""The fits of a service: a queue, one process at a time, and what is known of each."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from patchbank._system.files import shown
from patchbank._system.threads import thread_count
from patchbank.errors import PatchbankError, PatchbankWarning, stage_of
from patchbank.service.config import Config
from patchbank.service.records import iso

_log = logging.getLogger("patchbank.service")
_KEPT, _MOST_WAITING = 100, 10
_NICE = 10  # a tenth of a core that inspection wants too
_OFTEN = 0.1  # seconds between two messages of one stage


@dataclass(frozen=True)
class Order:
    """What is to be learned: `folder` as the client named it, below `root`; `images`, named from the root, so that
    the model does not carry the server's paths; the new model's file, an absolute path."""

    root: Path
    folder: str
    name: str
    method: str
    options: dict[str, Any]
    images: list[Path]
    output: Path
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Job:
    """A fit and how far it is. `state`: waiting, running, done, failed or cancelled."""

    id: int
    order: Order
    at: float = field(default_factory=time.time)
    state: str = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    stage_began: float = 0.0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    cancelled: bool = False
    process: BaseProcess | None = None

    def advance(self, stage: str, done: int, total: int) -> None:
        """What the detector says of its progress."""
        if stage_of(stage) != stage_of(self.stage) or done < self.done:
            self.stage_began = time.monotonic()
        self.stage, self.done, self.total = stage, done, total

    @property
    def eta_seconds(self) -> float | None:
        """To the end of this stage, at the pace so far; None before there is one."""
        elapsed = time.monotonic() - self.stage_began
        if self.state != "running" or not 0 < self.done <= self.total or elapsed < 1:
            return None
        return round(elapsed / self.done * (self.total - self.done), 1)

    def describe(self) -> dict[str, Any]:
        """As the API shows it."""
        o, model = self.order, self.order.name if self.state == "done" else None
        return {
            "id": self.id, "folder": o.folder, "name": o.name, "method": o.method, "when": iso(self.at),
            "state": self.state, "stage": self.stage, "done": self.done, "total": self.total,
            "eta_seconds": self.eta_seconds, "skipped": self.skipped,
            "notes": [*o.notes, *self.notes], "error": self.error, "model": model,
        }  # fmt: skip


class Fits:
    """Everything may be called from any thread. `deliver(made, final)` is called with the file of each new model and
    the one that it is to become."""

    def __init__(self, config: Config, deliver: Callable[[Path, Path], Any]):
        self._config, self._deliver = config, deliver
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="patchbank-fits")

    def get(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def newest(self) -> list[Job]:
        return list(self._jobs.values())[::-1]

    def will_make(self, name: str) -> bool:
        """Whether a fit that has not ended will make a model of this name."""
        return any(job.order.name == name and job.state in ("waiting", "running") for job in self.newest())

    def start(self, order: Order) -> Job | None:
        """Put a fit into the queue; None where that is full."""
        with self._lock:
            if sum(job.state == "waiting" for job in self._jobs.values()) >= _MOST_WAITING:
                return None
            job = Job(next(self._numbers), order)
            self._jobs[job.id] = job
            for old in [job.id for job in self._jobs.values() if job.state not in ("waiting", "running")][:-_KEPT]:
                del self._jobs[old]
        self._runner.submit(self._run, job)
        return job

    def cancel(self, job: Job) -> None:
        """End a fit that waits or runs."""
        with self._lock:
            if job.state in ("waiting", "running"):
                job.cancelled = True
                if job.state == "waiting":
                    job.state = "cancelled"
                if job.process is not None:
                    job.process.terminate()

    def close(self) -> None:
        """End all fits, as the service does."""
        for job in self.newest():
            self.cancel(job)
        self._runner.shutdown()

    def _run(self, job: Job) -> None:
        """One fit, in the runner's thread."""
        try:
            job.order.output.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fit-", dir=job.order.output.parent) as folder:
                made = Path(folder, job.order.output.name)
                if not self._begin(job, made):
                    return
                if job.error is None and not job.cancelled:
                    self._deliver(made, job.order.output)
        except (PatchbankError, OSError) as error:
            job.error = shown(str(error))
        except Exception:
            _log.exception("%s: the fit failed", job.order.name)
            job.error = "something went wrong inside the service; its log says what"
        job.state = "cancelled" if job.cancelled else "failed" if job.error else "done"

    def _begin(self, job: Job, made: Path) -> bool:
        """Learn in another process and follow it to its end; False where the fit was cancelled before."""
        context = multiprocessing.get_context("spawn")  # a fork would take the locks of this process's threads along
        receiver, sender = context.Pipe(duplex=False)
        c = self._config
        machine = {"weights": _absolute(c.weights), "device": c.device, "runtime": c.runtime, "threads": _threads(c)}
        with self._lock:
            if job.cancelled:
                return False
            job.state, job.stage = "running", "starting"
            job.process = context.Process(target=_learn, args=(job.order, machine, made, sender), daemon=True)
            job.process.start()
        sender.close()
        with receiver, contextlib.suppress(EOFError):
            while True:
                kind, *said = receiver.recv()
                if kind == "progress":
                    job.advance(*said)
                elif kind == "skipped":
                    job.skipped += 1
                elif kind == "noted":
                    job.notes += said
                else:
                    job.error = shown(said[0])
        job.process.join()
        if job.error is None and job.process.exitcode:
            job.error = f"the process of the fit ended (code {job.process.exitcode}); was there too little memory?"
        return True


def _absolute(weights: str | None) -> str | None:
    """A weight file's name for a process in another folder."""
    return weights if weights in (None, "random") else os.path.abspath(weights)


def _threads(config: Config) -> int:
    """Half of the cores, one at least."""
    return max(1, (config.threads or thread_count()) // 2)


def _learn(order: Order, machine: dict[str, Any], made: Path, sender: Connection) -> None:
    """The process of a fit: tells of its progress, and of what was wrong."""
    from patchbank.methods import METHODS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends this process
    with contextlib.suppress(AttributeError, OSError):  # Windows has no such priorities
        os.nice(_NICE)
    os.chdir(order.root)
    told_stage, told_at = "", 0.0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal told_stage, told_at
        now = time.monotonic()
        if stage_of(stage) != told_stage or done == total or now - told_at > _OFTEN:
            told_stage, told_at = stage_of(stage), now
            sender.send(("progress", stage, done, total))

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, PatchbankWarning):
            sender.send(("noted", shown(str(message))))
        else:
            usual(message, category, *place, **more)

    usual, warnings.showwarning = warnings.showwarning, show
    try:
        detector = METHODS[order.method](**order.options, **machine)
        detector.fit(order.images, on_error=lambda name, error: sender.send(("skipped",)), progress=progress)
        progress("saving", 0, 0)
        detector.save(made)
    except PatchbankError as error:
        sender.send(("failed", str(error)))
