"""Datasets: layouts read from disk, and the synthetic parts of the demo (`patchbank.datasets.synthetic`)."""

from patchbank.datasets.dataset import GOOD, Dataset, Sample, read_mask
from patchbank.datasets.layouts import LAYOUTS, open_dataset, open_datasets

__all__ = ["GOOD", "LAYOUTS", "Dataset", "Sample", "open_dataset", "open_datasets", "read_mask"]
