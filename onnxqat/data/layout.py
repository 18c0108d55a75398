"""Where a model's inputs have their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxqat.core.signature import InputSpec


@dataclass(frozen=True)
class BatchLayout:
    """Which axis of each input counts samples, and how many a batch must have."""

    axes: dict[str, int | None]
    """Input name -> its sample axis; None for an input that every batch is fed whole."""
    fixed: int | None
    """Samples a batch where the model fixes it, else None."""

    @property
    def has_samples(self) -> bool:
        """Whether any input has a sample axis."""
        return any(axis is not None for axis in self.axes.values())

    def batch_size(self, wanted: int) -> int:
        """The model's own batch size where it is fixed, else the wanted one."""
        return wanted if self.fixed is None else self.fixed


def batch_layout(inputs: Sequence[InputSpec]) -> BatchLayout:
    """Read the sample axes off the shapes.

    A named first dimension is the batch; without one, any first dimension that is not fixed;
    without that, the number that fixes the first input's. Another input has its samples where the
    same name stands (as `batch` in a state [2, batch, 128]), else along a first dimension that is
    not fixed or is fixed to the same number; else it has no samples.
    """
    firsts = [spec.shape[0] for spec in inputs if spec.shape]
    open_dims = [first for first in firsts if not isinstance(first, int)]
    names = [name for name in open_dims if name is not None]
    batch = next(iter([*names, *open_dims, *firsts]), None)
    axes = {spec.name: _sample_axis(spec, batch) for spec in inputs}
    return BatchLayout(axes, batch if isinstance(batch, int) else None)


def _sample_axis(spec: InputSpec, batch: int | str | None) -> int | None:
    if not spec.shape:
        return None
    if isinstance(batch, str) and batch in spec.shape:
        return spec.shape.index(batch)
    first = spec.shape[0]
    return 0 if first == batch or not isinstance(first, int) else None
