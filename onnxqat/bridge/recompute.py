"""What fake quantizers give, computed again in the backward pass instead of kept for it.

A layer keeps its input for the backward pass. Where that is what a fake quantizer gave, the fake
quantizer keeps its own input as well, so activations take twice the memory of plain training. To
quantize again is cheap beside the layer, and gives the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

LEAST_NUMBERS = 2**14
"""Of a tensor that is worth it: 64 kB."""


class Again:
    """The result of a fake quantizer, computed when a layer first wants it in the backward pass.

    It does not hold the fake quantizer's input, which may go before the pass is over.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        self._compute = compute
        self._value: Tensor | None = None

    def value(self, x: Tensor) -> Tensor:
        """The very numbers that the fake quantizer gave for `x`; kept until they are forgotten."""
        if self._value is None:
            self._value = self._compute(x)
        return self._value

    def forget(self) -> None:
        """All layers that read the result have had it."""
        self._value = None


@dataclass(frozen=True, eq=False)
class _Packed:
    """A tensor over the memory of a fake quantizer's result."""

    again: Again
    x: Tensor
    shape: torch.Size
    strides: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        value = self.again.value(self.x)
        return value.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True, eq=False)
class _Noted:
    result: Callable[[], Tensor | None]
    """While it lives; later its memory is another's."""
    x: Tensor
    again: Again


@dataclass(eq=False)
class Recomputation:
    """In a module's forward pass: which results are not kept, as they can be computed again."""

    _is_on: bool = False
    _noted: dict[int, _Noted] = field(default_factory=dict)
    """By where the result lies in memory."""

    def wants(self, x: Tensor) -> bool:
        """Whether what is made of a tensor is worth noting now."""
        return self._is_on and x.numel() >= LEAST_NUMBERS

    @contextmanager
    def during(self) -> Iterator[None]:
        """A forward pass whose layers keep no result that was noted."""
        self._is_on = torch.is_grad_enabled()
        try:
            with saved_tensors_hooks(self._pack, _unpack):
                yield
        finally:
            self._is_on = False
            self._noted.clear()

    def note(self, result: Tensor, x: Tensor, again: Again) -> Again:
        """Remember how a result, which lies in memory of its own, is computed from `x`."""
        place = result.untyped_storage().data_ptr()
        self._noted[place] = _Noted(weakref.ref(result), x.detach(), again)
        return again

    def _pack(self, tensor: Tensor) -> Tensor | _Packed:
        noted = self._noted.get(tensor.untyped_storage().data_ptr())
        result = None if noted is None else noted.result()
        if noted is None or result is None or result.dtype != tensor.dtype:
            return tensor
        start = int(tensor.storage_offset())
        return _Packed(noted.again, noted.x, tensor.shape, tensor.stride(), start)


def _unpack(packed: Tensor | _Packed) -> Tensor:
    return packed.tensor() if isinstance(packed, _Packed) else packed
