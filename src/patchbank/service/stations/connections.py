"""Connections to the database of a shared history, which may restart, fill its disk, or be cut off at any time.

Each use has a deadline of its own: where the network swallows everything, no answer and no error ever comes, and the
socket is shut down from here. After a failure `broken` says why, until a small write succeeds again; a thread tries it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from patchbank.errors import OptionError
from patchbank.service.stations.address import engine_of, shown_address
from patchbank.service.stations.schema import LEARNING, VERSION_TABLE
from patchbank.service.stations.upgrade import upgrade
from patchbank.service.store import HistoryError

_log = logging.getLogger("patchbank.service")
_FAILURES = (SQLAlchemyError, psycopg.Error)  # the latter where a pooled connection turns out to be closed
_DEADLINE = 6.0  # seconds for one use of a connection; the server ends a statement before that
_LONGER = 60.0  # for one that streams many rows
_LOOK = 0.25  # seconds between two looks for uses that are overdue
_RETRY = 0.5  # seconds between two tries while nothing can be written
_SILENCE = 5.0  # seconds without any use, after which the connection is tried


class ConnectionLost(HistoryError):
    """The connection broke: what was sent may have been done or not."""


class Database:
    """Everything may be called from any thread. All but `close` may raise `HistoryError`."""

    def __init__(self, address: str):
        self.name = shown_address(address)
        self.broken: str | None = None
        self._engine = engine_of(address)
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._overdue_at: dict[socket.socket, float] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._heard = time.monotonic()
        self._threads = [
            threading.Thread(target=work, name=f"patchbank-{work.__name__.strip('_')}", daemon=True)
            for work in (self._cut_overdue, self._try_again)
        ]
        for thread in self._threads:
            thread.start()

    def open(self) -> None:
        """Bring the schema up to date. Raises `OptionError` where the database cannot be used."""
        try:
            with self.writing(seconds=600) as connection:
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                upgrade(connection, self.name)
                if connection.scalar(text("SHOW fsync")) != "on":
                    _log.warning("%s: the server runs with fsync=off: a power failure can lose answers", self.name)
        except HistoryError as error:
            raise OptionError(
                f"{self.name}: cannot be used as the history ({error}); start the server, or correct the address"
            ) from error

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    @contextlib.contextmanager
    def writing(self, seconds: float | None = None) -> Iterator[Connection]:
        """A transaction, committed when the block ends. A failure opens the circuit: `broken` says why."""
        limit = _DEADLINE if seconds is None else seconds
        try:
            with self._engine.connect() as connection, self._watched(connection, limit), connection.begin():
                yield connection
        except _FAILURES as error:
            self.broken = sentence_of(error)
            raise _translated(error) from error
        self._hear()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection without a transaction."""
        with self._heard_from(), self._reading.connect() as connection, self._watched(connection, _DEADLINE):
            yield connection

    @contextlib.contextmanager
    def streaming(self) -> Iterator[Connection]:
        """A transaction whose rows are fetched as they are read: memory is bounded whatever their number."""
        with (
            self._heard_from(),
            self._engine.connect() as connection,
            self._watched(connection, _LONGER),
            connection.begin(),
        ):
            yield connection.execution_options(yield_per=1000)

    @contextlib.contextmanager
    def _heard_from(self) -> Iterator[None]:
        """Only a connection that broke says anything about writing."""
        try:
            yield
        except _FAILURES as error:
            failed = _translated(error)
            if isinstance(failed, ConnectionLost):
                self.broken = str(failed)
            raise failed from error
        self._heard = time.monotonic()

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[bool]:
        """Hold a lock of this name for the block, which may take long; False if another connection holds it."""
        try:
            with self._engine.connect() as connection:
                with self._watched(connection, _DEADLINE):
                    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                    lock = func.pg_try_advisory_xact_lock(LEARNING, func.hashtext(name))
                    is_ours = bool(connection.scalar(select(lock)))
                try:
                    yield is_ours
                finally:
                    with self._watched(connection, _DEADLINE), contextlib.suppress(*_FAILURES):
                        connection.rollback()  # which gives the lock back; a lost connection has done so already
        except _FAILURES as error:
            raise _translated(error) from error

    def probe(self) -> None:
        """Try a small write."""
        with contextlib.suppress(HistoryError), self.writing() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = version_num"))

    def _hear(self) -> None:
        self.broken, self._heard = None, time.monotonic()

    # ---- the two threads ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _watched(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Within the block the other end must answer in time."""
        raw = connection.connection.driver_connection
        assert raw is not None
        # a handle of its own: psycopg may close its one, and its number then be that of another file
        handle = socket.fromfd(raw.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        with self._lock:
            self._overdue_at[handle] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._overdue_at.pop(handle)
                handle.close()

    def _cut_overdue(self) -> None:
        while not self._stopping.wait(_LOOK):
            with self._lock:
                for handle, until in self._overdue_at.items():
                    if time.monotonic() > until:
                        with contextlib.suppress(OSError):
                            handle.shutdown(socket.SHUT_RDWR)

    def _try_again(self) -> None:
        while not self._stopping.wait(_RETRY):
            try:
                if self.broken is not None:
                    self.probe()
                elif time.monotonic() - self._heard > _SILENCE:
                    with contextlib.suppress(HistoryError), self.reading() as connection:
                        connection.execute(text("SELECT 1"))
            except Exception:  # whatever it is, the next try must come
                _log.exception("%s: cannot be tried", self.name)


def sentence_of(error: Exception) -> str:
    """What the server or the driver said, in one line."""
    said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return " ".join(said.split()) or type(error).__name__


def _translated(error: Exception) -> HistoryError:
    """A connection that could not be made has lost nothing."""
    is_lost = isinstance(error, psycopg.Error) or (isinstance(error, DBAPIError) and error.connection_invalidated)
    return (ConnectionLost if is_lost else HistoryError)(sentence_of(error))
