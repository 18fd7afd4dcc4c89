"""The address of a shared history, and the engine behind it."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from patchbank.errors import MissingPackageError, OptionError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

CONNECT_SECONDS = 3
_PACKAGES = ("sqlalchemy", "psycopg", "alembic")
_STATEMENT_MS = 5_000  # of one statement on the server; the station gives up a little later by itself
_IDLE_MS = 2_000  # a station that was cut off inside a transaction must not keep the others waiting longer


def require_packages() -> None:
    """Raise `MissingPackageError` if an optional package is not installed."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(
                f"a history in PostgreSQL needs missing packages: `pip install patchbank[postgres]` ({package})"
            )


def parsed(address: str) -> URL:
    """`postgresql://USER@HOST:PORT/DATABASE` as SQLAlchemy has it. Raises `OptionError`."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(re.sub(r"^postgres(ql)?:(?!//)", "postgresql://", address, count=1))
    except (ArgumentError, ValueError):
        raise OptionError(
            "the address of the history cannot be understood; write postgresql://USER@HOST:PORT/DATABASE"
        ) from None
    return url.set(drivername="postgresql+psycopg")


def shown_address(address: str) -> str:
    """An address without its password, for people to read."""
    secrets = ("password", "sslpassword")  # which libpq takes as parameters too
    url = parsed(address).set(drivername="postgresql").difference_update_query(secrets)
    return url.render_as_string(hide_password=True)


def engine_of(address: str) -> Engine:
    """An engine whose connections have the limits of a station. Connects to nothing yet."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError

    limits = f"-c statement_timeout={_STATEMENT_MS} -c idle_in_transaction_session_timeout={_IDLE_MS}"
    url = parsed(address)
    arguments = {"connect_timeout": CONNECT_SECONDS, "application_name": "patchbank"}
    arguments["options"] = " ".join([*url.query.get("options", "").split(), limits])  # type: ignore[union-attr]
    try:
        return create_engine(
            url, connect_args=arguments, pool_size=8, max_overflow=24, pool_timeout=10, use_native_hstore=False
        )
    except ArgumentError as error:
        raise OptionError(f"{shown_address(address)}: cannot be used as the history ({error})") from None
