"""One .npz file, or a folder of them, as numbered items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Array
from onnxqat.data.config import DataConfig
from onnxqat.data.indexed import Indices, Rows
from onnxqat.data.layout import batch_layout
from onnxqat.data.normalize import check_shape, names_error, shape_text
from onnxqat.data.npz_file import Member, NpzFile

_OPEN_SHARDS = 2
"""Shards kept open: a batch may begin in one and end in the next."""


class NpzSource:
    """The items of one .npz file.

    Arrays are matched to inputs by rank. With the input's rank, an array holds its samples along
    the input's sample axis. With one dimension more, each row is a whole feed. An input without
    samples (a scalar, or one that lacks the batch dimension) is fed the same array each time.
    """

    def __init__(self, path: Path, inputs: Sequence[InputSpec], config: DataConfig) -> None:
        self._file = NpzFile(path)
        self._specs = {spec.name: spec for spec in inputs}
        self._at = f"file '{path}'"
        self._labels = _labels(self._file, config, self._at)
        self._arrays = self._find_arrays(config)
        self._axes = self._item_axes()
        self._constants = {
            name: self._arrays[name].whole() for name, axis in self._axes.items() if axis is None
        }
        self.feed_samples = self._feed_samples()
        self.count = self._count()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def has_labels(self) -> bool:
        """Whether the file has a label array."""
        return self._labels is not None

    def shuffled(self, items: Indices, generator: np.random.Generator) -> Indices:
        """The items in a random order."""
        return generator.permutation(items)

    def take(self, items: Indices) -> Rows:
        """The items, read from the file."""
        inputs = {name: self._read(name, items) for name in self._arrays}
        labels = None if self._labels is None else self._labels.rows(self._sample_numbers(items))
        return Rows(inputs, labels)

    def _read(self, name: str, items: Indices) -> Array:
        axis = self._axes[name]
        if axis is None:
            return self._constants[name]
        member = self._arrays[name]
        if self._is_feeds(name):
            feed: Array = member.rows(items)[0]
            return feed
        return member.rows(self._sample_numbers(items), axis=axis)

    def _sample_numbers(self, items: Indices) -> Indices:
        feed = self.feed_samples or 1
        numbers: Indices = (items[:, None] * feed + np.arange(feed)).reshape(-1)
        return numbers

    def _is_feeds(self, name: str) -> bool:
        return len(self._arrays[name].shape) == len(self._specs[name].shape) + 1

    def _find_arrays(self, config: DataConfig) -> dict[str, Member]:
        names = {name: config.arrays.get(name, name) for name in self._specs}
        missing = [name for name, array in names.items() if array not in self._file.members]
        unknown = sorted(set(config.arrays) - set(self._specs))
        used = {*names.values(), self._labels.name if self._labels is not None else ""}
        unknown += sorted(set(self._file.members) - used) if not config.arrays else []
        if missing or unknown:
            raise names_error(missing, unknown, wanted=self._specs, at=self._at)
        return {name: self._file.members[array] for name, array in names.items()}

    def _item_axes(self) -> dict[str, int | None]:
        """The axis of each array that counts items; None for an array fed whole."""
        layout = batch_layout(tuple(self._specs.values()))
        axes: dict[str, int | None] = {}
        for name, spec in self._specs.items():
            rank = len(self._arrays[name].shape)
            if rank not in (len(spec.shape), len(spec.shape) + 1):
                raise DataError(
                    f"input '{name}' is given shape {list(self._arrays[name].shape)}, expected"
                    f" {shape_text(spec)}, or one feed of that shape a row",
                    at=self._at,
                    fix="give arrays of the shape that the model takes",
                )
            axes[name] = 0 if self._is_feeds(name) else layout.axes[name]
            self._check_array(spec, axes[name])
        return axes

    def _check_array(self, spec: InputSpec, axis: int | None) -> None:
        """Check the dimensions that do not count items, before any data is read."""
        shape = self._arrays[spec.name].shape
        if self._is_feeds(spec.name):
            check_shape(spec, shape[1:], self._at)
        elif axis is not None:
            dims = tuple(None if i == axis else dim for i, dim in enumerate(spec.shape))
            check_shape(InputSpec(spec.name, spec.dtype, dims), shape, self._at)

    def _feed_samples(self) -> int | None:
        """Samples a feed, where any array holds one feed a row."""
        feeds = [name for name in self._axes if self._is_feeds(name)]
        if not feeds:
            return None
        layout = batch_layout(tuple(self._specs.values()))
        if layout.fixed is not None:
            return layout.fixed
        axes = {name: layout.axes[name] for name in feeds}
        sizes = [self._arrays[n].shape[1 + axis] for n, axis in axes.items() if axis is not None]
        return max(sizes, default=1)

    def _count(self) -> int:
        feed = self.feed_samples or 1
        lengths = {
            name: self._arrays[name].shape[axis] * (feed if self._is_feeds(name) else 1)
            for name, axis in self._axes.items()
            if axis is not None
        }
        if self._labels is not None:
            lengths["labels"] = self._labels.shape[0] if self._labels.shape else 1
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
            raise DataError(
                f"the arrays differ in their number of samples: {told}",
                at=self._at,
                fix="give every array as many samples",
            )
        return next(iter(lengths.values()), 1) // feed


def _labels(file: NpzFile, config: DataConfig, at: str) -> Member | None:
    if config.labels is not None and config.labels not in file.members:
        raise DataError(
            f"there is no label array '{config.labels}'",
            at=at,
            fix=f"name one of {sorted(file.members)} as labels",
        )
    return file.members.get(config.labels or "labels")


class ShardSource:
    """The items of all .npz files of a folder, in the order of their names, few open at a time."""

    def __init__(self, folder: Path, inputs: Sequence[InputSpec], config: DataConfig) -> None:
        self._paths = sorted(folder.glob("*.npz"))
        self._axes = batch_layout(inputs).axes
        self._open = lru_cache(_OPEN_SHARDS)(lambda path: NpzSource(path, inputs, config))
        shards = [_Shard.read(NpzSource(path, inputs, config)) for path in self._paths]
        for path, shard in zip(self._paths, shards, strict=True):
            _check_alike(path, shard, shards[0])
        self._ends = np.cumsum([shard.count for shard in shards])
        self.count = int(self._ends[-1])
        self.feed_samples = shards[0].feed_samples
        self.has_labels = shards[0].has_labels

    def shuffled(self, items: Indices, generator: np.random.Generator) -> Indices:
        """The shards in a random order, and the items of each in a random order."""
        shard = self._shard_of(items)
        parts = [generator.permutation(items[shard == s]) for s in np.unique(shard)]
        return np.concatenate([parts[i] for i in generator.permutation(len(parts))])

    def take(self, items: Indices) -> Rows:
        """The items, read from their shards."""
        shard = self._shard_of(items)
        breaks = np.flatnonzero(np.diff(shard)) + 1
        firsts = [0, *breaks.tolist()]
        parts = [
            self._take_from(int(shard[first]), part)
            for first, part in zip(firsts, np.split(items, breaks), strict=True)
        ]
        return parts[0] if len(parts) == 1 else self._joined(parts)

    def _shard_of(self, items: Indices) -> Indices:
        return np.searchsorted(self._ends, items, side="right")

    def _take_from(self, shard: int, items: Indices) -> Rows:
        before = 0 if shard == 0 else int(self._ends[shard - 1])
        source: NpzSource = self._open(self._paths[shard])
        return source.take(items - before)

    def _joined(self, parts: list[Rows]) -> Rows:
        first = parts[0]
        inputs = {
            name: whole
            if (axis := self._axes[name]) is None
            else np.concatenate([part.inputs[name] for part in parts], axis)
            for name, whole in first.inputs.items()
        }
        labels = [part.labels for part in parts if part.labels is not None]
        return Rows(inputs, np.concatenate(labels) if labels else None)


@dataclass(frozen=True)
class _Shard:
    """What must be known of a shard before its data is read."""

    count: int
    feed_samples: int | None
    has_labels: bool

    @staticmethod
    def read(source: NpzSource) -> _Shard:
        shard = _Shard(source.count, source.feed_samples, source.has_labels)
        source.close()
        return shard


def _check_alike(path: Path, shard: _Shard, first: _Shard) -> None:
    if (shard.feed_samples, shard.has_labels) == (first.feed_samples, first.has_labels):
        return
    raise DataError(
        "this shard differs from the first one: only one of the two has labels, or their feeds"
        " differ in size",
        at=f"file '{path}'",
        fix="write all shards alike",
    )
