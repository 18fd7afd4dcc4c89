"""Fits and predictions on a Ray cluster, with the model that one machine would make (docs/guides/distributed.md)."""

from patchbank.distributed.crew import ClusterError
from patchbank.distributed.ray_workers import connect

__all__ = ["ClusterError", "connect"]
