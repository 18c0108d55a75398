"""Training batches without end, prepared ahead of the step that needs them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from onnxqat.core.errors import DataError
from onnxqat.data import Batch, Dataset

T = TypeVar("T")


@dataclass(frozen=True)
class TensorBatch:
    """A batch on the device, in the order of the model's inputs."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    samples: int


@dataclass(frozen=True)
class Loader:
    """Turns a dataset's arrays into tensors on a device."""

    input_names: tuple[str, ...]
    device: torch.device

    def in_order(self, data: Dataset, batch_size: int, samples: int) -> Iterator[TensorBatch]:
        """At most `samples` samples in the file's order."""
        for batch in data.batches(batch_size, samples=samples):
            yield self._move(self._wrap(batch))

    def forever(
        self, data: Dataset, batch_size: int, *, seed: int, ahead: int
    ) -> Generator[TensorBatch, None, None]:
        """Shuffled full batches, epoch after epoch, `ahead` of them prepared in a thread.

        The last, smaller batch of an epoch is left out (shuffling leaves out others each time)
        unless it is the only one.

        Raises:
            DataError: The data has no sample.
        """
        batches = (self._wrap(batch) for batch in _epochs(data, batch_size, seed=seed))
        with contextlib.closing(prefetch(batches, ahead=ahead)) as prepared:
            for batch in prepared:
                yield self._move(batch)

    def _wrap(self, batch: Batch) -> TensorBatch:
        pin = self.device.type == "cuda"
        inputs = tuple(_as_tensor(batch.inputs[name], pin=pin) for name in self.input_names)
        labels = None if batch.labels is None else _as_tensor(batch.labels, pin=pin)
        return TensorBatch(inputs, labels, len(batch))

    def _move(self, batch: TensorBatch) -> TensorBatch:
        """To the device, without waiting for it."""
        inputs = tuple(tensor.to(self.device, non_blocking=True) for tensor in batch.inputs)
        labels = batch.labels
        if labels is not None:
            labels = labels.to(self.device, non_blocking=True)
        return TensorBatch(inputs, labels, batch.samples)


def _as_tensor(array: np.ndarray, *, pin: bool) -> Tensor:
    """A tensor over the array's memory; a copy where torch could not write to it or read it."""
    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.pin_memory() if pin else tensor


def _epochs(data: Dataset, batch_size: int, *, seed: int) -> Iterator[Batch]:
    """Batches of the same size, each epoch in an order of its own that `seed` decides."""
    epoch = 0
    size: int | None = None
    while True:
        is_empty = True
        for batch in data.batches(batch_size, seed=seed + epoch):
            size = len(batch) if size is None else size
            if len(batch) == size:
                is_empty = False
                yield batch
        if is_empty:
            raise DataError("the training data has no sample", fix="check start and samples")
        epoch += 1


_END = object()


def prefetch(items: Iterator[T], *, ahead: int) -> Generator[T, None, None]:
    """The same items in the same order, up to `ahead` of them made early in a thread.

    An exception in the thread is raised here, in its place. Closing the generator ends the thread.
    """
    if ahead == 0:
        yield from items
        return
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]  # the queue holds what `items` gave
    finally:
        stopped.set()
        thread.join()


def _fill(
    items: Iterator[T],
    ready: queue.Queue[tuple[object, BaseException | None]],
    stopped: threading.Event,
) -> None:
    """Runs in the thread: it never waits for long, so that it sees when it is to stop."""
    try:
        for item in items:
            _put(ready, (item, None), stopped)
            if stopped.is_set():
                return
        _put(ready, (_END, None), stopped)
    except BaseException as error:  # noqa: BLE001  # handed to the thread that asked
        _put(ready, (None, error), stopped)


def _put(
    ready: queue.Queue[tuple[object, BaseException | None]],
    entry: tuple[object, BaseException | None],
    stopped: threading.Event,
) -> None:
    while not stopped.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(entry, timeout=0.1)
            return
