"""The nouns of this package: a batch of named arrays, and a dataset that yields batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run of the model is fed, checked against the model's inputs."""

    inputs: dict[str, Array]
    """Arrays by ONNX input name, in the input's own dtype."""
    labels: Array | None
    """Class labels, shape [samples], or None."""
    samples: int
    """Number of samples in the batch."""

    def __len__(self) -> int:
        return self.samples


@dataclass(frozen=True, eq=False)
class OwnRows:
    """What one of several processes reads of a batch."""

    number: int
    """Of the batch in its order, from 1."""
    samples: int
    """Of the whole batch."""
    batch: Batch


class Dataset(Protocol):
    """Batches of named arrays, as often as asked."""

    @property
    def size(self) -> int | None:
        """Number of samples, None where only reading everything would tell."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether each batch carries labels."""
        ...

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """All samples once, in batches of `batch_size`; the last one may be smaller.

        A model with a fixed batch dimension overrides `batch_size`, and samples that do not fill
        its last batch are left out.

        Args:
            batch_size: Samples a batch.
            samples: Stop after this many samples.
            seed: None for the file's order; else the order is shuffled by this seed.

        Raises:
            DataError: A batch does not fit the model's inputs.
        """
        ...


@runtime_checkable
class SharedDataset(Dataset, Protocol):
    """A dataset of which each of several processes can read its own samples, and no others."""

    @property
    def has_rows(self) -> bool:
        """Whether it can: a model with a fixed batch takes whole batches only."""
        ...

    def own_rows(
        self, batch_size: int, *, seed: int, rank: int, world: int, first: int = 1
    ) -> Iterator[OwnRows]:
        """The rows of one process of `world` of each whole batch, from the batch `first` on; the
        batches are those of `batches`, and a smaller one at the end is left out.
        """
        ...
