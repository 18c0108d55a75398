"""Samples in memory, and some of them kept apart to judge by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxqat.data.batch import Batch, Dataset

JUDGING = 4
"""Every so many-th batch judges what the others are used for."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Batches in memory, as a dataset: in their order and of their size, whatever is wanted."""

    kept: tuple[Batch, ...]

    @property
    def size(self) -> int:
        """Number of samples."""
        return sum(map(len, self.kept))

    @property
    def has_labels(self) -> bool:
        """Whether each batch carries labels."""
        return all(batch.labels is not None for batch in self.kept)

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """The batches, up to the one with which there are `samples`."""
        done = 0
        for batch in self.kept:
            if samples is not None and done >= samples:
                return
            yield batch
            done += len(batch)


def kept_apart(
    data: Dataset,
    *,
    samples: int,
    batch_size: int,
    seed: int | None = None,
    judge: Dataset | None = None,
) -> tuple[Kept, Dataset]:
    """Samples to work with and, a quarter of all, to judge by; the same where there is one batch.

    Args:
        data: Where they come from.
        samples: How many, at most.
        batch_size: Samples a batch; smaller where there would be fewer than four batches.
        seed: Draws them; None: the first ones.
        judge: Samples to judge by, where they are given; then none is kept apart.
    """
    known = min(samples, data.size or samples)
    size = min(batch_size, max(known // JUDGING, 1))
    drawn = tuple(data.batches(size, samples=samples, seed=seed))
    if judge is not None:
        return Kept(drawn), judge
    working = tuple(batch for i, batch in enumerate(drawn) if i % JUDGING)
    return Kept(working or drawn), Kept(drawn[::JUDGING])
