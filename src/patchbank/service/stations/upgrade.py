"""The schema of a shared history, brought up to date by the Alembic changes that this package carries."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select

from patchbank.errors import OptionError
from patchbank.service.stations.schema import UPGRADING, VERSION_TABLE, inspections

_FOLDER = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, name: str) -> None:
    """Create or change the tables inside the transaction of `connection`: all of it, or nothing.

    Stations that start at the same time take turns. `name`: of the history, for messages.

    Raises:
        OptionError: a newer patchbank wrote the database, or another program did.
    """
    connection.execute(select(func.pg_advisory_xact_lock(UPGRADING)))
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    there = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if there is not None and there not in known:
        raise OptionError(f"{name}: was written by a newer patchbank (schema {there}): upgrade patchbank")
    if there is None and inspect(connection).has_table(inspections.name):
        raise OptionError(f"{name}: has a table {inspections.name} of something else; name another database")
    command.upgrade(config, "head")
