"""Images changed at random for the steps, where there are few: student and teacher see the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from onnxqat.core.errors import ConfigError
from onnxqat.core.signature import InputSpec
from onnxqat.data import Batch, Dataset
from onnxqat.data.batch import Array
from onnxqat.data.layout import batch_layout
from onnxqat.training.config import Augmentation

CHANNELS = (1, 3, 4)
"""Of an image."""
FARTHEST = 1 / 8
"""Of a side, that a picture is shifted by: 4 of 32 pixels, as is usual on CIFAR-10."""


@dataclass(frozen=True, eq=False)
class Augmented:
    """A dataset whose images are changed anew in each epoch; labels stay as they are.

    What is drawn depends on the epoch's seed and the batch's number alone: each of several
    processes, and a resumed run, sees the same images.
    """

    data: Dataset
    changes: tuple[Augmentation, ...]
    images: Mapping[str, tuple[int, int]]
    """Input name -> the axes of its height and width."""

    @property
    def size(self) -> int | None:
        """As of the images themselves."""
        return self.data.size

    @property
    def has_labels(self) -> bool:
        """As of the images themselves."""
        return self.data.has_labels

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """The batches of the data, their images changed."""
        read = self.data.batches(batch_size, samples=samples, seed=seed)
        for number, batch in enumerate(read):
            yield self._changed(batch, np.random.default_rng((seed or 0, number)))

    def _changed(self, batch: Batch, random: Generator) -> Batch:
        inputs = dict(batch.inputs)
        for change in self.changes:
            for name, sides in self.images.items():
                inputs[name] = _CHANGES[change](inputs[name], sides, random)
        return replace(batch, inputs=inputs)


def augmented(
    data: Dataset, changes: Sequence[Augmentation], inputs: Sequence[InputSpec]
) -> Dataset:
    """The data with changes to all inputs that are images: [N, C, H, W] or [N, H, W, C] with 1, 3
    or 4 channels.

    Raises:
        ConfigError: No input is one.
    """
    if not changes:
        return data
    axes = batch_layout(inputs).axes
    found = {spec.name: _sides(spec) for spec in inputs if axes[spec.name] == 0}
    images = {name: sides for name, sides in found.items() if sides is not None}
    if not images:
        raise ConfigError(
            "no input is an image, which is what augment changes",
            at=", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs),
            fix="leave augment out, and let a data script of yours yield changed samples",
        )
    return Augmented(data, tuple(changes), images)


def _sides(spec: InputSpec) -> tuple[int, int] | None:
    if len(spec.shape) != 4:
        return None
    if spec.shape[1] in CHANNELS:
        return 2, 3
    return (1, 2) if spec.shape[3] in CHANNELS else None


def _flip(images: Array, sides: tuple[int, int], random: Generator) -> Array:
    """Half of the images, left to right."""
    is_flipped = random.random(len(images)) < 0.5
    flipped = images.copy()
    flipped[is_flipped] = np.flip(images[is_flipped], sides[1])
    return flipped


def _shift(images: Array, sides: tuple[int, int], random: Generator) -> Array:
    """Each image by up to an eighth of its sides; what comes in is the mirror of what is there."""
    far = [int(FARTHEST * images.shape[axis]) for axis in sides]
    by = [random.integers(-most, most + 1, len(images)) for most in far]
    shifted = np.empty_like(images)
    for index, (down, right) in enumerate(zip(*by, strict=True)):
        rows = _mirrored(images.shape[sides[0]], int(down))
        columns = _mirrored(images.shape[sides[1]], int(right))
        moved = np.take(images[index], rows, sides[0] - 1)
        shifted[index] = np.take(moved, columns, sides[1] - 1)
    return shifted


def _mirrored(side: int, by: int) -> Array:
    """Which row comes to lie in each, [side]; beyond the edge, that on its other side."""
    rows = np.abs(np.arange(side) - by)
    return np.where(rows < side, rows, 2 * (side - 1) - rows)


_CHANGES: Mapping[Augmentation, Callable[[Array, tuple[int, int], Generator], Array]] = {
    "flip": _flip,
    "shift": _shift,
}
