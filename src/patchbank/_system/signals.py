"""Signals that wait for the end of a step which must not be torn apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_WAITING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)]


@contextmanager
def undivided() -> Iterator[None]:
    """Within the block signals are kept that a function of the program handles, Ctrl-C among them; each is handled when
    the block ends. Elsewhere than in the main thread, where no signal is handled, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = dict[int, Any]()
    before = {number: handler for number in _WAITING if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda received, frame: caught.update({received: frame}))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number, frame in caught.items():
        before[number](number, frame)
