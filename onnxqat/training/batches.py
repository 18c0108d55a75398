"""Training batches without end, prepared ahead of the step that needs them."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from onnxqat.core.errors import DataError
from onnxqat.data import Batch, Dataset, SharedDataset
from onnxqat.training.sharding import Share

T = TypeVar("T")


@dataclass(frozen=True)
class TensorBatch:
    """A batch on the device, in the order of the model's inputs."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    samples: int


@dataclass(frozen=True)
class Position:
    """How far the training data is read: whole batches of this epoch, after whole epochs."""

    epoch: int = 0
    batches: int = 0


BEGINNING = Position()


@dataclass(frozen=True)
class StepData:
    """What one step learns from."""

    parts: tuple[TensorBatch, ...]
    """This process's share, one forward pass each."""
    samples: int
    """Of all parts of all processes."""
    after: Position
    """Where the next step's data begins."""


@dataclass(frozen=True)
class Loader:
    """Turns a dataset's arrays into tensors on a device."""

    input_names: tuple[str, ...]
    device: torch.device
    sample_axes: Mapping[str, int | None] = field(default_factory=dict)
    """Input name -> the axis that counts samples, where it is not 0; None: it has none."""

    memory_format: torch.memory_format = torch.contiguous_format
    """Of inputs of four dimensions; convolutions hand it on to what they compute."""

    def in_order(self, data: Dataset, batch_size: int, samples: int) -> Iterator[TensorBatch]:
        """At most `samples` samples in the file's order."""
        for batch in data.batches(batch_size, samples=samples):
            yield self._move(self._wrap(batch))

    def steps(
        self,
        data: Dataset,
        batch_size: int,
        *,
        share: Share,
        seed: int,
        ahead: int,
        start: Position = BEGINNING,
    ) -> Generator[StepData, None, None]:
        """Shuffled steps of `batch_size` samples, epoch after epoch, `ahead` of them prepared in a
        thread.

        The last, smaller batch of an epoch is left out (shuffling leaves out others each time)
        unless it is the only one. Of a model with a smaller, fixed batch a step takes several. What
        a step learns from depends on neither the processes nor the forward passes.

        Raises:
            DataError: The data has no sample.
            ConfigError: A step has too few samples, or batches, for every process to have one.
        """
        lazily = self._own(data, batch_size, share=share, seed=seed, start=start)
        steps = lazily or self._prepared(
            _epochs(data, batch_size, seed=seed, start=start), batch_size, share
        )
        with contextlib.closing(prefetch(steps, ahead=ahead)) as prepared:
            for step in prepared:
                parts = tuple(self._move(part) for part in step.parts)
                yield StepData(parts, step.samples, step.after)

    def _own(
        self, data: Dataset, batch_size: int, *, share: Share, seed: int, start: Position
    ) -> Iterator[StepData] | None:
        """The same steps of data of which each process can read its own samples alone; None of
        other data, and where a step takes several batches.
        """
        if share.world == 1 or not (isinstance(data, SharedDataset) and data.has_rows):
            return None
        if (data.size or 0) < batch_size or batch_size < share.world:
            return None
        return self._own_steps(data, batch_size, share, seed, start)

    def _own_steps(
        self, data: SharedDataset, batch_size: int, share: Share, seed: int, start: Position
    ) -> Iterator[StepData]:
        for epoch in itertools.count(start.epoch):
            first = start.batches + 1 if epoch == start.epoch else 1
            for own in data.own_rows(
                batch_size, seed=seed + epoch, rank=share.rank, world=share.world, first=first
            ):
                parts = share.micro_batches(own.batch, self.sample_axes)
                wrapped = tuple(map(self._wrap, parts))
                yield StepData(wrapped, own.samples, Position(epoch, own.number))

    def _prepared(
        self, batches: Iterator[tuple[Batch, Position]], batch_size: int, share: Share
    ) -> Iterator[StepData]:
        """Steps on the CPU, cut to this process's share."""
        for first, after in batches:
            count = max(1, round(batch_size / len(first)))
            whole = [first]
            for batch, position in islice(batches, count - 1):
                whole.append(batch)
                after = position  # noqa: PLW2901  # the step ends where its last batch does
            parts = share.of(whole, self.sample_axes)
            yield StepData(tuple(map(self._wrap, parts)), sum(map(len, whole)), after)

    def _wrap(self, batch: Batch) -> TensorBatch:
        pin = self.device.type == "cuda"
        inputs = tuple(_as_tensor(batch.inputs[name], pin=pin) for name in self.input_names)
        labels = None if batch.labels is None else _as_tensor(batch.labels, pin=pin)
        return TensorBatch(inputs, labels, len(batch))

    def _move(self, batch: TensorBatch) -> TensorBatch:
        """To the device, without waiting for it."""
        inputs = tuple(self._placed(tensor) for tensor in batch.inputs)
        labels = batch.labels
        if labels is not None:
            labels = labels.to(self.device, non_blocking=True)
        return TensorBatch(inputs, labels, batch.samples)

    def _placed(self, tensor: Tensor) -> Tensor:
        moved = tensor.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=self.memory_format) if moved.ndim == 4 else moved


def _as_tensor(array: np.ndarray, *, pin: bool) -> Tensor:
    """A tensor over the array's memory; a copy where torch could not write to it or read it."""
    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.pin_memory() if pin else tensor


def _epochs(
    data: Dataset, batch_size: int, *, seed: int, start: Position
) -> Iterator[tuple[Batch, Position]]:
    """Batches of the same size, each epoch in an order of its own that `seed` decides, and where
    the data stands after each. Begun in the middle, whole epochs are not read again.
    """
    epoch = start.epoch
    size: int | None = None
    while True:
        is_empty = True
        for number, batch in enumerate(data.batches(batch_size, seed=seed + epoch), start=1):
            size = len(batch) if size is None else size
            if len(batch) == size:
                is_empty = False
                if epoch > start.epoch or number > start.batches:
                    yield batch, Position(epoch, number)
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
