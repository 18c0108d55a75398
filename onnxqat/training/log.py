"""The history of a run, written while it goes: a table for programs, and curves for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxqat.core.errors import ConfigError
from onnxqat.training.record import StepRecord

COLUMNS = (
    "step", "loss", "lr", "seconds", "held_out_loss", "sqnr_db", "agreement", "top1", "is_best",
)  # fmt: skip
"""Of the table. Cells of what was not measured are empty."""


class CsvLog:
    """Appends each record to a .csv file at once, so that a run can be watched from elsewhere.

    A resumed run takes steps again that the file has already: their old lines go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_open = False

    def write(self, record: StepRecord) -> None:
        """Add one line."""
        if not self._is_open:
            lines = self._lines_before(record.step)
            self._path.write_text("".join([",".join(COLUMNS) + "\n", *lines]), encoding="utf-8")
            self._is_open = True
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(_cells(record))

    def _lines_before(self, step: int) -> Iterator[str]:
        """What the file holds of earlier steps; a line that was cut off is none."""
        if step == 0 or not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                number = line.partition(",")[0]
                if line.endswith("\n") and number.isdigit() and int(number) < step:
                    yield line


def _cells(record: StepRecord) -> list[Any]:
    judged = record.validation
    measured = (
        [None] * 5
        if judged is None
        else [judged.loss, judged.sqnr_db, judged.agreement, judged.top1, int(record.is_best)]
    )
    return [record.step, record.loss, record.lr, round(record.seconds, 3), *measured]


class TensorBoardLog:
    """Writes the records into a folder that TensorBoard reads.

    Raises:
        ConfigError: Its package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "tensorboard = true needs a package that is not installed",
                fix="pip install 'onnxqat[tensorboard]', or leave it out: history.csv has it all",
            )
        self._folder = folder
        self._writer: Any = None

    def write(self, record: StepRecord) -> None:
        """Add one point to each curve."""
        if self._writer is None:
            self._writer = self._open(record.step)
        for name, value in zip(COLUMNS, _cells(record), strict=True):
            if name not in ("step", "seconds") and value is not None:
                self._writer.add_scalar(name, value, record.step)
        if record.validation is not None:
            self._writer.flush()

    def _open(self, step: int) -> Any:
        """A writer; TensorBoard drops what an earlier one wrote from this step on."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=step)
