"""What Alembic runs first: the changes go over the connection of the service, in its transaction."""

from alembic import context

from patchbank.service.stations.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
