"""A PostgreSQL server of a test's own, and a TCP proxy that can cut its clients off."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest


def binaries() -> Path:
    """The folder of `pg_ctl`; skips where there is none."""
    on_path = shutil.which("pg_ctl")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("needs a PostgreSQL server: `apt-get install postgresql`")
    return found[-1].parent


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A server on 127.0.0.1 in a temporary folder, as a user without privileges: PostgreSQL refuses to run as root."""

    def __init__(self) -> None:
        self.binaries = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="patchbank-pg-"))
        self.port = free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            import pwd

            entry = None
            for name in ("nobody", "postgres"):
                with contextlib.suppress(KeyError):
                    entry = pwd.getpwnam(name)
            if entry is None:
                pytest.skip("needs a user without privileges to run PostgreSQL")
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.data = self.folder / "data"
        self._run(
            "initdb", "-D", self.data, "-U", "line", "-A", "trust", "--no-instructions", "-E", "UTF8", "--no-sync"
        )
        settings = (
            f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.folder}'\n"
            "max_connections = 60\nshared_buffers = 16MB\n"
            # a process that is killed loses nothing that the system has already; syncing is for power failures
            "fsync = off\n"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(settings)
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.binaries / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, cwd=self.folder, check=False, timeout=60, **self.user)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        log = self.folder / "log"
        # not through pipes: the server keeps them open
        command = [str(self.binaries / "pg_ctl"), "-D", str(self.data), "-l", str(log), "-w", "start"]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder, check=False, timeout=60,
            **self.user,
        )  # fmt: skip
        assert done.returncode == 0, log.read_text()

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """Kill -9 of the server's first process; the others end when they notice."""
        import psycopg

        number = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(number, signal.SIGKILL)
        until = time.monotonic() + 20
        while time.monotonic() < until:  # its memory is free when all are gone
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self.address("postgres"), connect_timeout=2),
            ):
                continue
            break
        time.sleep(0.3)

    def restart_after_kill(self) -> None:
        """Start again as soon as the shared memory of the killed one is free."""
        for _ in range(20):
            with contextlib.suppress(AssertionError):
                self.start()
                return
            time.sleep(0.3)
        self.start()

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, database: str, port: int | None = None) -> str:
        return f"postgresql://line@127.0.0.1:{port or self.port}/{database}"

    def create(self, database: str) -> str:
        """The address of a new empty database."""
        self.execute("postgres", f"CREATE DATABASE {database}")
        return self.address(database)

    def execute(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


class Proxy:
    """Passes connections on to a port. `cut`: closes them and refuses others; `hold`: passes nothing and says nothing,
    as a network does whose cable was pulled."""

    def __init__(self, to: int):
        self.to, self.mode = to, "pass"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: str) -> None:
        self.mode = mode
        if mode == "cut":
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        self.set("cut")
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.mode == "cut":
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.to), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                while self.mode == "hold":
                    time.sleep(0.02)
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
