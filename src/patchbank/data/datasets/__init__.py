"""Datasets: layouts read from disk, and the synthetic parts of the demo (`patchbank.demo.synthetic`)."""

from patchbank.data.datasets.dataset import GOOD, Dataset, LabelledImage
from patchbank.data.datasets.layouts import LAYOUTS, check_tested, open_dataset, open_datasets
from patchbank.data.datasets.mask_files import read_mask

__all__ = ["GOOD", "LAYOUTS", "Dataset", "LabelledImage", "check_tested", "open_dataset", "open_datasets", "read_mask"]
