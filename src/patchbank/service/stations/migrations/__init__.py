"""Changes of the schema, in order, as Alembic runs them."""
