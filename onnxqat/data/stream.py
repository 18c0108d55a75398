"""Datasets that can only be read from the front: loader scripts and callables.

A loader is Polygraphy's: something that, when called, returns the feeds of one pass, each a dict of
arrays by input name, batch dimension included. A feed may be a tuple `(dict, labels)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from onnxqat.core.errors import DataError, OnnxqatError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Array, Batch
from onnxqat.data.config import DataConfig
from onnxqat.data.layout import BatchLayout, batch_layout
from onnxqat.data.normalize import InputReader

Loader = Callable[[], Iterable[Any]]

SHUFFLE_BYTES = 64 << 20
SHUFFLE_SAMPLES = 4096
"""What waits in the shuffle buffer at most: bounded, since a loader may never end."""


class StreamDataset:
    """Batches from a loader. Its feeds are cut and joined to the batch size that is asked for."""

    def __init__(
        self, loader: Loader, inputs: Sequence[InputSpec], config: DataConfig, *, name: str
    ) -> None:
        self._loader, self._name, self._config = loader, name, config
        self._specs = {spec.name: spec for spec in inputs}
        self._layout = batch_layout(inputs)
        self._read = InputReader(inputs, config)
        first = next(self._feeds(), None)
        if first is None:
            raise DataError("the loader yields nothing", at=name, fix="yield at least one feed")
        self.has_labels = first.labels is not None

    @property
    def size(self) -> int | None:
        """Unknown: only a whole pass would tell."""
        return None

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """See `Dataset.batches`."""
        pieces = _from(self._pieces(), self._config.start)
        if self._config.samples is not None:
            pieces = _until(pieces, self._config.samples)
        if seed is not None:
            pieces = _shuffled(pieces, np.random.default_rng(seed))
        if samples is not None:
            pieces = _until(pieces, samples)
        return self._joined(pieces, self._layout.batch_size(batch_size))

    def _feeds(self) -> Iterator[Batch]:
        """The loader's feeds, checked."""
        for number, feed in enumerate(self._raw()):
            arrays, labels = self._parsed(feed, number)
            inputs = self._read(arrays, number)
            samples = self._count(inputs, number)
            if labels is not None and labels.shape[:1] != (samples,):
                raise DataError(
                    f"labels have shape {list(labels.shape)}, expected one for each of the"
                    f" {samples} samples",
                    at=f"{self._name}, batch {number}",
                    fix="yield one label a sample",
                )
            yield Batch(inputs, labels, samples)

    def _raw(self) -> Iterator[Any]:
        """What the loader yields; its own exceptions become DataErrors."""
        try:
            yield from self._loader()
        except OnnxqatError:
            raise
        except Exception as error:
            raise DataError(
                f"the data loader failed: {type(error).__name__}: {error}",
                at=self._name,
                fix="run the loader by itself, and correct it",
            ) from error

    def _parsed(self, feed: Any, number: int) -> tuple[dict[str, Array], Array | None]:
        arrays, labels = feed if isinstance(feed, tuple) and len(feed) == 2 else (feed, None)
        if not isinstance(arrays, dict):
            raise DataError(
                f"the loader yields {type(feed).__name__}, expected a dict of arrays by input name",
                at=f"{self._name}, batch {number}",
                fix="yield {'input': array}, or ({'input': array}, labels)",
            )
        arrays = {self._input_name(name): np.asarray(array) for name, array in arrays.items()}
        key = self._config.labels or "labels"
        if labels is None and key not in self._specs:
            labels = arrays.pop(key, None)
        return arrays, None if labels is None else np.asarray(labels)

    def _input_name(self, array: str) -> str:
        """The input that an array of this name belongs to."""
        return next((i for i, name in self._config.arrays.items() if name == array), array)

    def _count(self, inputs: dict[str, Array], number: int) -> int:
        counts = {
            name: inputs[name].shape[axis]
            for name, axis in self._layout.axes.items()
            if axis is not None
        }
        if len(set(counts.values())) > 1 or 0 in counts.values():
            told = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            raise DataError(
                f"the inputs must have equally many samples, and some: {told}",
                at=f"{self._name}, batch {number}",
                fix="give every input as many samples",
            )
        return next(iter(counts.values()), 1)

    def _pieces(self) -> Iterator[Batch]:
        """Single samples; whole feeds where the model fixes the batch, or has none."""
        is_whole = self._layout.fixed is not None or not self._layout.has_samples
        for feed in self._feeds():
            yield from [feed] if is_whole else _samples(feed, self._layout)

    def _joined(self, pieces: Iterator[Batch], size: int) -> Iterator[Batch]:
        """Batches of `size` samples; a piece of another shape begins a new one."""
        pending: list[Batch] = []
        for piece in pieces:
            held = sum(map(len, pending))
            if pending and (held + len(piece) > size or not self._fits(pending[0], piece)):
                yield _join(pending, self._layout)
                pending = []
            pending.append(piece)
        if pending:
            yield _join(pending, self._layout)

    def _fits(self, one: Batch, other: Batch) -> bool:
        """Whether two pieces can be one batch: equal shapes, and equal arrays without samples."""
        axes = self._layout.axes
        return self._layout.has_samples and all(
            np.array_equal(one.inputs[name], other.inputs[name])
            if axis is None
            else one.inputs[name].shape == other.inputs[name].shape
            for name, axis in axes.items()
        )


def _samples(feed: Batch, layout: BatchLayout) -> Iterator[Batch]:
    """The samples of a feed, each still with its batch dimension."""
    for i in range(len(feed)):
        inputs = {
            name: array if (axis := layout.axes[name]) is None else array.take([i], axis)
            for name, array in feed.inputs.items()
        }
        yield Batch(inputs, None if feed.labels is None else feed.labels[i : i + 1], 1)


def _join(pieces: list[Batch], layout: BatchLayout) -> Batch:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    inputs = {
        name: array
        if (axis := layout.axes[name]) is None
        else np.concatenate([piece.inputs[name] for piece in pieces], axis)
        for name, array in first.inputs.items()
    }
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return Batch(inputs, np.concatenate(labels) if labels else None, sum(map(len, pieces)))


def _from(pieces: Iterator[Batch], start: int) -> Iterator[Batch]:
    """The pieces after the first `start` samples."""
    skipped = 0
    for piece in pieces:
        if skipped >= start:
            yield piece
        skipped += len(piece)


def _until(pieces: Iterator[Batch], samples: int) -> Iterator[Batch]:
    """The pieces until `samples` samples are reached."""
    taken = 0
    for piece in pieces:
        yield piece
        taken += len(piece)
        if taken >= samples:
            return


def _shuffled(pieces: Iterator[Batch], generator: np.random.Generator) -> Iterator[Batch]:
    """The pieces in a random order, as far as the buffer lets them mix."""
    buffer: list[Batch] = []
    waiting = 0
    for piece in pieces:
        is_full = len(buffer) == SHUFFLE_SAMPLES or waiting + _bytes(piece) > SHUFFLE_BYTES
        if buffer and is_full:
            i = int(generator.integers(len(buffer)))
            buffer[i], buffer[-1] = buffer[-1], buffer[i]
            waiting -= _bytes(buffer[-1])
            yield buffer.pop()
        buffer.append(piece)
        waiting += _bytes(piece)
    yield from (buffer[i] for i in generator.permutation(len(buffer)))


def _bytes(piece: Batch) -> int:
    return sum(array.nbytes for array in piece.inputs.values())
