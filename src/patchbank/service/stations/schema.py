"""The tables of a shared history. A change here needs a new file in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Identity, Index, Integer, MetaData, Table, Text, text

VERSION_TABLE = "patchbank_schema"
# keys of advisory locks: any two numbers that other programs of the same database do not use
RECORDING, UPGRADING, TRIMMING = 0x7061_7463_6801, 0x7061_7463_6802, 0x7061_7463_6803
LEARNING = 0x7062_6C6E  # the first of two keys; the second is of the name of a model

metadata = MetaData()
# the columns are those of SQLite (service/records.py), and `key`, which names the files of an inspection
inspections = Table(
    "inspections",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key", Text, nullable=False),
    Column("at", Float(53), nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("score", Float(53)),
    Column("p_value", Float(53)),
    Column("threshold", Float(53)),
    Column("map_threshold", Float(53)),
    Column("is_anomalous", Boolean, nullable=False),
    Column("height", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("regions", Text, nullable=False),
    Column("timings", Text, nullable=False),
    Column("kept", BigInteger, nullable=False),
    Column("verdict", Text),
    Column("note", Text, nullable=False, server_default=""),
    Column("decided_at", Float(53)),
    Column("added_at", Float(53)),
    Column("channels", Text, nullable=False, server_default="{}"),
    Column("geometry", BigInteger, nullable=False, server_default="0"),
)
Index("inspections_key", inspections.c.key, unique=True)
Index("inspections_of_model", inspections.c.model, inspections.c.id)
Index("inspections_of_time", inspections.c.model, inspections.c.at)
Index("inspections_decided", inspections.c.verdict, inspections.c.id, postgresql_where=text("verdict IS NOT NULL"))
Index("inspections_with_image", inspections.c.id, postgresql_where=text("kept > 0"))
