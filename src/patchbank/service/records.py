"""One row of the history."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE inspections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    name TEXT NOT NULL,
    score REAL,
    p_value REAL,
    threshold REAL,
    map_threshold REAL,
    is_anomalous INTEGER NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    regions TEXT NOT NULL,
    timings TEXT NOT NULL,
    kept INTEGER NOT NULL,
    verdict TEXT,
    note TEXT NOT NULL DEFAULT '',
    decided_at REAL,
    added_at REAL,
    channels TEXT NOT NULL DEFAULT '{}',
    geometry INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX of_model ON inspections (model, id);
CREATE INDEX of_time ON inspections (model, at);
CREATE INDEX decided ON inspections (verdict, id) WHERE verdict IS NOT NULL;
CREATE INDEX with_image ON inspections (id) WHERE kept > 0;
"""
# from schema 1, which knew pictures alone
UPGRADE = """
ALTER TABLE inspections ADD COLUMN channels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE inspections ADD COLUMN geometry INTEGER NOT NULL DEFAULT 0;
"""
_COLUMNS = (
    "id", "at", "model", "version", "name", "score", "p_value", "threshold", "map_threshold", "is_anomalous",
    "height", "width", "regions", "timings", "kept", "channels", "geometry",
)  # fmt: skip
INSERT = f"INSERT INTO inspections ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{c}' for c in _COLUMNS)})"


@dataclass
class Record:
    """One inspection, before it has an id: `image` and `geometry` as they were sent, either may be empty, and `map_png`
    (kept.py) go into files. `channels`: as in `Prediction`."""

    at: float
    model: str
    version: str
    name: str
    score: float
    p_value: float
    threshold: float
    map_threshold: float
    is_anomalous: bool
    size: tuple[int, int]
    regions: list[dict[str, Any]]
    timings: dict[str, float]
    image: bytes = b""
    geometry: bytes = b""
    map_png: bytes = b""
    channels: dict[str, float] = field(default_factory=dict)
    id: int = 0
    kept: int = 0

    def row(self) -> dict[str, Any]:
        """By the names of the columns."""
        height, width = self.size
        coded = {name: json.dumps(getattr(self, name)) for name in ("regions", "timings", "channels")}
        given = {"height": height, "width": width, "geometry": len(self.geometry), **coded}
        return {name: given[name] if name in given else getattr(self, name) for name in _COLUMNS}


def iso(at: float | None) -> str | None:
    """Seconds since 1970 as UTC in ISO 8601."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
