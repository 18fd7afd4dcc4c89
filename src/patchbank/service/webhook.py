"""Results sent to a URL, beside the work and never in its way."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from patchbank.errors import OptionError

_WAITING = 1000  # results that wait to be sent; more are dropped, oldest first
_TRIES, _PAUSE, _TIMEOUT = 4, 1.0, 10.0  # the pause doubles from try to try; seconds


class Webhook:
    """Posts JSON objects to a URL in a thread of its own, in order. What cannot be delivered is named and dropped."""

    def __init__(self, url: str, *, tries: int = _TRIES, pause: float = _PAUSE, timeout: float = _TIMEOUT):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise OptionError(f"--webhook takes an address such as http://127.0.0.1:9000/part, not {url!r}")
        self.url, self.tries, self.pause, self.timeout = url, tries, pause, timeout
        self.lost = 0
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="patchbank-webhook", daemon=True)
        self._thread.start()

    def send(self, row: dict[str, Any]) -> None:
        """Have a row sent; returns at once."""
        while True:
            try:
                self._waiting.put_nowait(row)
                return
            except queue.Full:
                self._lose(self._waiting.get_nowait(), "too many wait to be sent")

    def close(self, seconds: float = 10.0) -> None:
        """Give what waits so many seconds more."""
        until = time.monotonic() + seconds
        while not self._waiting.empty() and time.monotonic() < until and self._thread.is_alive():
            time.sleep(0.02)
        self._hurry.set()
        while True:  # what is left will not be sent
            try:
                self._lose(self._waiting.get_nowait(), "the watch ends")
            except queue.Empty:
                break
        self._waiting.put(None)
        self._thread.join(max(0.1, until - time.monotonic()))

    def _send_all(self) -> None:
        while (row := self._waiting.get()) is not None:
            problem = self._send(row)
            if problem:
                self._lose(row, problem)

    def _send(self, row: dict[str, Any]) -> str | None:
        """Why it could not be delivered."""
        body, problem = json.dumps(row).encode(), "the watch ends"
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        for attempt in range(self.tries):
            if attempt and self._hurry.wait(self.pause * 2 ** (attempt - 1)):
                break
            try:
                with urllib.request.urlopen(request, timeout=self.timeout):
                    return None
            except urllib.error.HTTPError as error:
                problem = f"answered {error.code}"
                error.close()
                if error.code < 500 and error.code != 429:  # another try would be answered the same
                    break
            except (OSError, ValueError) as error:
                problem = str(getattr(error, "reason", error))
        return problem

    def _lose(self, row: dict[str, Any] | None, problem: str) -> None:
        if row is not None:
            self.lost += 1
            print(f"not sent to the webhook: {row.get('path')} ({problem})", file=sys.stderr)
