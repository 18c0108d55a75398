"""Each of several processes reads its own samples and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
import torch

from onnxqat.core.signature import InputSpec
from onnxqat.data import Batch, DataConfig
from onnxqat.data.indexed import IndexedDataset, Indices, Rows
from onnxqat.training.batches import BEGINNING, Loader, Position, StepData
from onnxqat.training.sharding import Share

LOADER = Loader(("x",), torch.device("cpu"))


@dataclass
class Numbers:
    """Items whose value is their number; keeps which were read."""

    count: int = 50
    feed_samples: None = None
    has_labels: bool = True
    read: list[int] = field(default_factory=list)

    def shuffled(self, items: Indices, generator: np.random.Generator) -> Indices:
        return generator.permutation(items)

    def take(self, items: Indices) -> Rows:
        self.read.extend(items.tolist())
        return Rows({"x": items.astype(np.float32)[:, None]}, items)


class Whole:
    """The same data without the way to read a part."""

    def __init__(self, data: IndexedDataset) -> None:
        self._data, self.size, self.has_labels = data, data.size, data.has_labels

    def batches(self, batch_size: int, **choice) -> Iterator[Batch]:
        return self._data.batches(batch_size, **choice)


def dataset(first_dim: str | int = "n", workers: int = 0) -> tuple[IndexedDataset, Numbers]:
    source = Numbers()
    spec = InputSpec("x", "float32", (first_dim, 1))
    return IndexedDataset(source, [spec], DataConfig(workers=workers)), source


def steps(data, share: Share, *, count: int = 9, start: Position = BEGINNING) -> list[StepData]:
    return list(islice(LOADER.steps(data, 16, share=share, seed=3, ahead=0, start=start), count))


def seen(step: StepData) -> list[list[float]]:
    return [part.inputs[0][:, 0].tolist() for part in step.parts]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("start", [Position(), Position(1, 2)])
def test_a_process_sees_what_it_would_see_of_the_whole_batches(workers, micro_batch, start) -> None:
    for rank in range(3):
        share = Share(rank, 3, micro_batch)
        ours = steps(dataset(workers=workers)[0], share, start=start)
        theirs = steps(Whole(dataset()[0]), share, start=start)
        assert [seen(step) for step in ours] == [seen(step) for step in theirs]
        assert [step.after for step in ours] == [step.after for step in theirs]
        assert [step.samples for step in ours] == [step.samples for step in theirs] == [16] * 9


def test_it_reads_its_own_samples_and_no_others() -> None:
    data, source = dataset()
    taken = steps(data, Share(1, 2), count=3)  # an epoch has three whole batches
    assert source.read == [number for step in taken for part in seen(step) for number in part]
    assert len(source.read) == 3 * 8


def test_resumed_it_does_not_read_what_was_read_before() -> None:
    data, source = dataset()
    steps(data, Share(0, 2), count=1, start=Position(0, 2))
    assert len(source.read) == 8


def test_of_a_model_with_a_fixed_batch_whole_batches_are_dealt_out() -> None:
    data, _ = dataset(first_dim=4)
    assert not data.has_rows
    first, second = (steps(data, Share(rank, 2), count=1)[0] for rank in range(2))
    assert [len(part) for part in seen(first) + seen(second)] == [4, 4, 4, 4]
