"""The service: models behind an HTTP API, with a history of every inspection (docs/guides/service.md)."""
