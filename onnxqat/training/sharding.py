"""Which part of each step's samples a process computes, and in how many forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxqat.core.errors import ConfigError
from onnxqat.data import Batch


@dataclass(frozen=True)
class Share:
    """One process of `world`; the shares of all of them make up the step."""

    rank: int = 0
    world: int = 1
    micro_batch: int | None = None
    """Samples a forward pass at most; None: all that there are."""

    def of(self, batches: Sequence[Batch], axes: Mapping[str, int | None]) -> list[Batch]:
        """This process's forward passes: its rows of a single batch, or every world-th batch.

        Args:
            batches: All of a step; several only where the model fixes a smaller batch.
            axes: Input name -> its sample axis, where that is not 0.

        Raises:
            ConfigError: There is less to share out than there are processes.
        """
        whole = batches[0]
        if max(len(batches), len(whole) if len(batches) == 1 else 0) < self.world:
            raise ConfigError(
                f"a step cannot be shared out to {self.world} processes",
                at=f"{len(batches)} batches of {len(whole)} samples",
                fix="raise batch_size, or start fewer processes",
            )
        if len(batches) > 1:
            return list(batches[self.rank :: self.world])
        return list(self._rows_of(whole, axes))

    def micro_batches(self, own: Batch, axes: Mapping[str, int | None]) -> list[Batch]:
        """The forward passes of what this process has read as its own share."""
        return list(Share(micro_batch=self.micro_batch)._rows_of(own, axes))

    def _rows_of(self, batch: Batch, axes: Mapping[str, int | None]) -> Iterator[Batch]:
        first, last = (len(batch) * r // self.world for r in (self.rank, self.rank + 1))
        size = self.micro_batch or last - first
        if (first, last) == (0, len(batch)) and size >= len(batch):
            yield batch
            return
        for start in range(first, last, size):
            yield _rows(batch, slice(start, min(start + size, last)), axes)


def _rows(batch: Batch, rows: slice, axes: Mapping[str, int | None]) -> Batch:
    """Some samples of a batch."""

    def cut(name: str, array: np.ndarray) -> np.ndarray:
        axis = axes.get(name, 0)
        return array if axis is None else array[(slice(None),) * axis + (rows,)]

    inputs = {name: cut(name, array) for name, array in batch.inputs.items()}
    labels = None if batch.labels is None else batch.labels[rows]
    return Batch(inputs, labels, rows.stop - rows.start)
