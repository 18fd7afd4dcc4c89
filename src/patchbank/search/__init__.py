"""Nearest neighbours in the bank."""

from patchbank.search.exact import k_nearest, nearest, squared_norms

__all__ = ["k_nearest", "nearest", "squared_norms"]
