"""Tests, in the folders of what they test."""

import os

# One processor for each of several workers, and so one thread: two that compute on both would wait for each other.
# Here, since torch counts the processors when it is imported.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    _processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_processors[int(_worker.removeprefix("gw")) % len(_processors)]})
