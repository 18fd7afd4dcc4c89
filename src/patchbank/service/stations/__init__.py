"""A history in PostgreSQL for several services (docs/guides/stations.md). Needs `pip install patchbank[postgres]`."""
