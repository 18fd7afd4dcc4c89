"""Ctrl-C that is not lost.

An exception that a signal raises inside a finaliser or a callback from C, as a compiler makes them for seconds on end,
is printed and forgotten, or comes out as another one, or leaves a lock behind; the command would go on, or wait for
ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_AGAIN, _TIMES = 1.0, 3  # seconds until it is raised once more, and how often before the process is ended


class Interruption:
    """Whether Ctrl-C was pressed. As a handler of signals it raises `KeyboardInterrupt`, and again until that is heard;
    where it never is, the process ends."""

    raised = 0

    def __call__(self, number: int, frame: Any) -> None:
        if self.raised == _TIMES:
            self.end()
        self.raised += 1
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        raise KeyboardInterrupt

    def end(self) -> NoReturn:
        """Say so and leave at once: what was torn out of a compiler's hands may crash the interpreter's own way out."""
        print("patchbank: interrupted; nothing half-written was left under a final name", file=sys.stderr, flush=True)
        os._exit(130)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Within the block Ctrl-C is heard; nothing changes where it is handled or ignored already."""
    heard = Interruption()
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield heard
        return
    signal.signal(signal.SIGINT, heard)
    before = signal.signal(signal.SIGALRM, heard) if hasattr(signal, "setitimer") else None
    try:
        yield heard
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
