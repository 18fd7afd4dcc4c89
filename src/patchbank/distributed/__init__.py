"""Fits and predictions on a Ray cluster, with the model that one machine would make (docs/distributed.md)."""
