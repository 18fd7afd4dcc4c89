"""Ctrl-C where Python loses the exception that it raises."""

import os
import signal
import subprocess
import sys

import pytest

SWALLOWED = """
import os, signal, time
from patchbank.cli.interrupt import interruption

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

def deaf():
    for _ in range(8):
        try:
            time.sleep(5)
        except KeyboardInterrupt:
            pass

with interruption() as pressed:
    try:
        Finalised()
        {then}
    except KeyboardInterrupt:
        pressed.end()
print("went on to its end")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="alarms of a POSIX system")
@pytest.mark.parametrize("then", ["time.sleep(30)", "deaf()"])
def test_an_interruption_is_not_lost(then: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.format(then=then)], capture_output=True, text=True, timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 130
    assert "went on" not in done.stdout
    assert "interrupted; nothing half-written" in done.stderr
