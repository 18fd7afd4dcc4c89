"""The command line, in this process and in one of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

from patchbank import cli

Done = subprocess.CompletedProcess[str]


def patchbank(*arguments: object) -> Done:
    """What a command does, prints and returns in a pipe; run here, since starting torch anew takes seconds."""
    command = ["patchbank", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def in_its_own_process(*arguments: object) -> Done:
    """The same as a user runs it."""
    command = [sys.executable, "-m", "patchbank", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
