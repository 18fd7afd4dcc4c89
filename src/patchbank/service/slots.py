"""How many images are accepted and not yet answered."""

from __future__ import annotations

import threading

from patchbank.service.metrics import Metrics


class Slots:
    """Room for so many images between acceptance and answer."""

    def __init__(self, count: int, metrics: Metrics):
        self.count, self.taken = count, 0
        self._lock, self._gauge = threading.Lock(), metrics.pending

    def take(self, count: int) -> bool:
        """Whether there was room."""
        with self._lock:
            if self.taken + count > self.count:
                return False
            self.taken += count
            self._gauge.set(self.taken)
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self.taken -= count
            self._gauge.set(self.taken)
