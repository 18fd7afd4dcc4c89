"""Evaluate one model on one dataset; benchmark grids."""
