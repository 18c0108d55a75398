"""Batches of named arrays from files, folders, images, scripts and callables; no torch."""

from onnxqat.data.batch import Batch, Dataset, OwnRows, SharedDataset
from onnxqat.data.config import DataConfig
from onnxqat.data.kept import Kept, kept_apart
from onnxqat.data.open import open_data

__all__ = [
    "Batch",
    "DataConfig",
    "Dataset",
    "Kept",
    "OwnRows",
    "SharedDataset",
    "kept_apart",
    "open_data",
]
