"""The nouns of this package: a batch of named arrays, and a dataset that yields batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
