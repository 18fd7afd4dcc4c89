"""A history in PostgreSQL that several services share (docs/stations.md). Needs `pip install patchbank[postgres]`."""
