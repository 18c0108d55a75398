"""Calibration batches for the drivers: read one after another, so that no driver holds the file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """What every driver is asked to do."""

    model: Path
    output: Path
    data: Path
    """A .npy of float32, one sample after another."""
    input: str
    samples: int
    batch: int
    calibrator: str


def parse_task() -> Task:
    """The task on the command line."""
    parser = argparse.ArgumentParser()
    for name in ("model", "output", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("samples", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--calibrator", choices=["max", "entropy"], required=True)
    return Task(**vars(parser.parse_args()))


class Batches:
    """The data reader interface that ONNX Runtime defined and other tools share."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.rewind()

    def rewind(self) -> None:
        """Start again from the first sample."""
        self._file = self._task.data.open("rb")
        npy_format.read_magic(self._file)
        shape, _, _ = npy_format.read_array_header_1_0(self._file)
        self._sample_shape = shape[1:]
        self._left = min(self._task.samples, shape[0])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by input name; None after the last."""
        count = min(self._task.batch, self._left)
        if count == 0:
            return None
        self._left -= count
        values = np.fromfile(self._file, np.float32, count * int(np.prod(self._sample_shape)))
        return {self._task.input: values.reshape(count, *self._sample_shape)}

    def get_first(self) -> dict[str, NDArray[np.float32]] | None:
        """The first batch, for tools that look before they read."""
        self.rewind()
        first = self.get_next()
        self.rewind()
        return first
