"""Ctrl-C that is not lost, and a request to end (SIGTERM, SIGHUP) that is treated like it.

An exception that a signal raises inside a finaliser or a callback from C, as a compiler makes them for seconds on end,
is printed and forgotten, or comes out as another one, or leaves a lock behind; the command would go on, or wait for
ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_AGAIN, _TIMES = 1.0, 3  # seconds until it is raised once more, and how often before the process is ended
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_NATURAL = (signal.SIG_DFL, signal.default_int_handler)


class Interruption:
    """Whether the command was asked to end. As a handler of signals it raises `KeyboardInterrupt`, and again until that
    is heard; where it never is, the process ends."""

    raised = 0
    code = 130  # 128 and the number of the signal, as shells count
    _is_calm = False

    def __call__(self, number: int, frame: Any) -> None:
        if number != getattr(signal, "SIGALRM", None):
            self.code = 128 + number
        elif self._is_calm:
            return
        if self.raised == _TIMES:
            self.end()
        self.raised += 1
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        raise KeyboardInterrupt

    def calm(self) -> None:
        """It was heard: let what was done be written before the process ends."""
        self._is_calm = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def end(self) -> NoReturn:
        """Say so and leave at once: what was torn out of a compiler's hands may crash the interpreter's own way out."""
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            print("patchbank: interrupted; nothing half-written was left under a final name", file=sys.stderr)
            sys.stderr.flush()
        os._exit(self.code)


heard = Interruption()


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Within the block these signals are heard; nothing changes where one is handled or ignored already."""
    global heard
    heard = Interruption()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _ENDING if signal.getsignal(number) in _NATURAL}
        for number in before:
            signal.signal(number, heard)
        if before and hasattr(signal, "setitimer"):
            before[signal.SIGALRM] = signal.signal(signal.SIGALRM, heard)
    try:
        yield heard
    finally:
        if before and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def calm() -> None:
    """What a command calls that writes what it has before it ends."""
    heard.calm()
