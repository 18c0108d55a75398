"""Datasets whose samples can be read by number: files and folders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Array, Batch, OwnRows
from onnxqat.data.config import DataConfig
from onnxqat.data.layout import batch_layout
from onnxqat.data.normalize import InputReader

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """What a source read: arrays by input name as they stand in the file, and their labels."""

    inputs: dict[str, Array]
    labels: Array | None


class Source(Protocol):
    """Items by number. An item is one sample, or one whole feed of the model."""

    @property
    def count(self) -> int:
        """Number of items."""
        ...

    @property
    def feed_samples(self) -> int | None:
        """Samples of an item that is a whole feed; None where an item is one sample."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether items have labels."""
        ...

    def shuffled(self, items: Indices, generator: np.random.Generator) -> Indices:
        """The items in a random order that the source can read fast."""
        ...

    def take(self, items: Indices) -> Rows:
        """The items, in this order, along each input's sample axis."""
        ...


class IndexedDataset:
    """Batches from a source of numbered items."""

    def __init__(self, source: Source, inputs: Sequence[InputSpec], config: DataConfig) -> None:
        self._source = source
        self._layout = batch_layout(inputs)
        self._read = InputReader(inputs, config)
        self._workers = config.workers
        self._items = _selected(source, config)
        if self._layout.fixed is not None and self.size == 0:
            raise DataError(
                f"the data has {len(self._items)} samples, fewer than the model's fixed batch of"
                f" {self._layout.fixed}",
                fix="give more samples, or a model with a dynamic batch",
            )

    @property
    def size(self) -> int:
        """Number of samples that the batches hold together."""
        feed = self._source.feed_samples
        if feed is not None:
            return len(self._items) * feed
        return len(self._items) - len(self._items) % (self._layout.fixed or 1)

    @property
    def has_labels(self) -> bool:
        """Whether each batch carries labels."""
        return self._source.has_labels

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """See `Dataset.batches`."""
        items = self._items
        if seed is not None:
            items = self._source.shuffled(items, np.random.default_rng(seed))
        parts = enumerate(self._parts(items, batch_size, samples))
        return _ahead((self._reading(number, part) for number, part in parts), self._workers)

    @property
    def has_rows(self) -> bool:
        """See `SharedDataset`."""
        return self._layout.fixed is None and self._source.feed_samples is None

    def own_rows(
        self, batch_size: int, *, seed: int, rank: int, world: int, first: int = 1
    ) -> Iterator[OwnRows]:
        """See `SharedDataset`."""
        items = self._source.shuffled(self._items, np.random.default_rng(seed))
        parts = [part for part in self._parts(items, batch_size, None) if len(part) == batch_size]
        start, stop = (batch_size * r // world for r in (rank, rank + 1))
        numbers = range(first, len(parts) + 1)
        reads = (self._reading(n - 1, parts[n - 1][start:stop]) for n in numbers)
        for number, batch in zip(numbers, _ahead(reads, self._workers), strict=True):
            yield OwnRows(number, batch_size, batch)

    def _parts(self, items: Indices, batch_size: int, samples: int | None) -> Iterator[Indices]:
        """The items of each batch."""
        feed = self._source.feed_samples
        step = 1 if feed is not None else self._layout.batch_size(batch_size)
        if samples is not None:
            items = items[: -(-samples // feed) if feed is not None else samples]
        if feed is None and self._layout.fixed is not None:
            if len(items) < step:
                raise DataError(
                    f"{samples} samples are asked for, fewer than the model's fixed batch of"
                    f" {step}",
                    fix="ask for more samples, or give a model with a dynamic batch",
                )
            items = items[: len(items) - len(items) % step]
        return (items[start : start + step] for start in range(0, len(items), step))

    def _reading(self, number: int, items: Indices) -> Callable[[], Batch]:
        def read() -> Batch:
            rows = self._source.take(items)
            samples = len(items) * (self._source.feed_samples or 1)
            return Batch(self._read(rows.inputs, number), rows.labels, samples)

        return read


def _selected(source: Source, config: DataConfig) -> Indices:
    feed = source.feed_samples or 1
    start = config.start // feed
    stop = source.count if config.samples is None else start + -(-config.samples // feed)
    items = np.arange(source.count, dtype=np.int64)[start:stop]
    if len(items) == 0:
        raise DataError(
            f"there is no data: {source.count * feed} samples, start at {config.start}",
            fix="give a source that holds samples, and a smaller start",
        )
    return items


def _ahead(readings: Iterable[Callable[[], Batch]], workers: int) -> Iterator[Batch]:
    """The batches in order, up to `workers` of them read ahead by as many threads."""
    if workers == 0:
        yield from (read() for read in readings)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Batch]] = deque()
        for read in readings:
            pending.append(pool.submit(read))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
