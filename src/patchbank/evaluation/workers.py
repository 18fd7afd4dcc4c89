"""Several pieces of work at a time, each in a process of its own; one that fails or dies takes nothing with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from patchbank.errors import PatchbankError, PatchbankWarning, notify

if TYPE_CHECKING:
    from patchbank.errors import OnError, Progress

Item = TypeVar("Item")
Do: TypeAlias = "Callable[[Item, OnError], None]"
_FAILED, _SKIPPED, _NOTED, _DONE = "failed", "skipped", "noted", "done"
_PATIENCE = 5.0  # seconds that a process has to end when it is told to


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    number: int  # of the piece of work that it is at


def run_in_processes(
    do: Do[Item], work: Sequence[tuple[str, Item]], jobs: int, on_error: OnError, progress: Progress | None = None
) -> Iterator[int]:
    """Do each of the (name, item) in one of `jobs` processes, and give the number of each that succeeds, as it does.
    `on_error(name, error)` hears of the others, and of what `do(item, on_error)` tells. All processes end with this
    generator, and with this process however it ends. What is handed over must be picklable.
    """
    waiting = list(range(len(work)))[::-1]
    workers: list[_Worker] = []
    done = 0
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_start(do, work, waiting.pop()))
            ready = connection.wait([w.pipe for w in workers])
            for worker in [w for w in workers if w.pipe in ready]:
                name = work[worker.number][0]
                what, about, words = _hear(worker)
                if what == _SKIPPED:
                    on_error(about, PatchbankError(words))
                    continue
                if what == _NOTED:
                    notify(words)
                    continue
                done += 1
                if progress:
                    progress("cells", done, len(work))
                if what == _FAILED:
                    on_error(name, PatchbankError(f"{name}: {words}"))
                else:
                    yield worker.number
                if waiting and worker.process.is_alive():
                    worker.number = waiting.pop()
                    _give(worker.pipe, work[worker.number][1])
                else:
                    workers.remove(worker)
                    _end(worker)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            _end(worker)


def _start(do: Do[Item], work: Sequence[tuple[str, Item]], number: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a forked child has none of the threads that compute
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(do, there), daemon=True)
    with _no_interruption():
        process.start()
    there.close()  # so that the end of the process ends the pipe
    _give(here, work[number][1])
    return _Worker(process, here, number)


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and does not reach what is started within it until that handles it: it
    would fill the screen with the tracebacks of half-imported modules."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would end the waiting
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(pipe: Connection, item: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has died: heard of when it is listened to
        pipe.send(item)


def _hear(worker: _Worker) -> tuple[str, str, str]:
    """What has come of its work: one of the three, which input it is about where it is one, and in words."""
    try:
        heard: tuple[str, str, str] = worker.pipe.recv()
        return heard
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        hint = ", perhaps for want of memory: fewer --jobs, or --memory-budget" if code == -9 else ""
        return _FAILED, "", f"its process ended with {how}{hint}"


def _end(worker: _Worker) -> None:
    worker.pipe.close()  # which it waits on
    worker.process.join(_PATIENCE)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(do: Do[Item], pipe: Connection) -> None:
    """The life of a process: one item after the other, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_error(name: str, error: Exception) -> None:
        pipe.send((_SKIPPED, name, str(error)))

    warnings.simplefilter("always", PatchbankWarning)
    warnings.showwarning = _sent_through(pipe, warnings.showwarning)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            do(item, on_error)
        except Exception as error:  # a fault of ours costs one cell of a night's work, not all
            pipe.send((_FAILED, "", in_words(error)))
        else:
            pipe.send((_DONE, "", ""))


def _sent_through(pipe: Connection, others: Callable[..., None]) -> Callable[..., None]:
    """What a process does with warnings: those for the user go to the first process, which shows them."""

    def show(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
        if issubclass(category, PatchbankWarning):
            pipe.send((_NOTED, "", str(message)))
        else:
            others(message, category, *place, **more)

    return show


def in_words(error: Exception) -> str:
    """What went wrong; of an error that is not a user's, also its type."""
    return str(error) if isinstance(error, PatchbankError) else f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
