"""The table of inspections, as SQLite's schema 2 has it, and the key that names the files of an inspection.

The columns stand here once more: this file stays as it is when `schema.py` goes on.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create the table and its indices."""
    op.create_table(
        "inspections",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("score", sa.Float(53)),
        sa.Column("p_value", sa.Float(53)),
        sa.Column("threshold", sa.Float(53)),
        sa.Column("map_threshold", sa.Float(53)),
        sa.Column("is_anomalous", sa.Boolean, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("timings", sa.Text, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("decided_at", sa.Float(53)),
        sa.Column("added_at", sa.Float(53)),
        sa.Column("channels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("geometry", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("inspections_key", "inspections", ["key"], unique=True)
    op.create_index("inspections_of_model", "inspections", ["model", "id"])
    op.create_index("inspections_of_time", "inspections", ["model", "at"])
    op.create_index(
        "inspections_decided", "inspections", ["verdict", "id"], postgresql_where=sa.text("verdict IS NOT NULL")
    )
    op.create_index("inspections_with_image", "inspections", ["id"], postgresql_where=sa.text("kept > 0"))


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("inspections")
