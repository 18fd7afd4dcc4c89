"""Datasets: layouts read from disk, and the synthetic parts of the demo (`patchbank.datasets.synthetic`)."""

from patchbank.datasets.dataset import GOOD, Dataset, Sample
from patchbank.datasets.layouts import LAYOUTS, open_dataset, open_datasets
from patchbank.datasets.mask_files import read_mask

__all__ = ["GOOD", "LAYOUTS", "Dataset", "Sample", "open_dataset", "open_datasets", "read_mask"]
