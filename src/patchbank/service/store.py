"""What the service asks of a history, wherever that is kept: SQLite (`history.py`) or PostgreSQL (`stations/`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from patchbank.errors import OptionError, PatchbankError

if TYPE_CHECKING:
    from patchbank.service.records import Record

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: C: is a drive


class HistoryError(PatchbankError):
    """The history cannot be written or read now. Clients get 503 with Retry-After."""


class Row(Protocol):
    """An inspection by the names of its columns (`records.py`)."""

    def __getitem__(self, key: str, /) -> Any: ...


class HistoryStore(Protocol):
    """Everything may be called from any thread. All but `close` may raise `HistoryError`."""

    def record(self, records: Sequence[Record]) -> None:
        """Give each record its id and make all of them durable."""

    def trim(self) -> None:
        """Remove the oldest images until the rest fits."""

    def decide(self, number: int, verdict: str | None, note: str, at: float) -> None:
        """Write what a person says about an inspection."""

    def mark_added(self, numbers: Sequence[int], at: float) -> None:
        """Write that the model learned from these."""

    def turn(self, model: str) -> AbstractContextManager[bool]:
        """Hold the right to change a model for the block; False if another station holds it."""

    def away(self) -> str | None:
        """Why requests are refused before their images are inspected; None if they are not. Costs nothing."""

    def problem(self) -> str | None:
        """Why nothing can be written; after a failure this tries again."""

    def close(self) -> None: ...

    def kept_image(self, number: int) -> bytes | None: ...

    def kept_geometry(self, number: int) -> bytes | None: ...

    def kept_map(self, number: int) -> bytes | None: ...

    def get(self, number: int) -> Row | None: ...

    def find(
        self,
        *,
        model: str | None = None,
        anomalous: bool | None = None,
        verdict: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int,
    ) -> Sequence[Row]:
        """Newest first; with `after` alone the ones that come right after it. `verdict`: "none" for undecided."""

    def accepted_false_alarms(self, model: str, limit: int) -> Sequence[Row]:
        """Rejected, overruled, the image kept, not learned from yet; newest first."""

    def scores(self, model: str, since: float) -> Iterator[tuple[str, float, int]]:
        """(UTC day, score, whether rejected) of each inspection since a time, oldest first; as they are read."""

    def last_scores(self, model: str, version: str, count: int) -> list[float]:
        """Scores of the newest inspections by one version of a model's file."""


def is_shared(history: str | Path) -> bool:
    """Whether a history is a PostgreSQL database, which several stations share."""
    return isinstance(history, str) and history.startswith(("postgresql:", "postgres:"))


def history_of(text: str) -> str | Path:
    """The history that an option names: a PostgreSQL address, or a file (`FILE`, `sqlite:FILE`, `sqlite:///FILE`).

    Raises:
        OptionError: the address has another scheme.
    """
    if is_shared(text):
        return text
    if text.startswith("sqlite:"):
        rest = text.removeprefix("sqlite:")
        return Path(rest[3:] if rest.startswith("///") else rest)
    if (found := _SCHEME.match(text)) and not Path(text).exists():
        raise OptionError(f"{found[1]}: is no kind of history; give a file for SQLite, or postgresql://HOST/DATABASE")
    return Path(text)
