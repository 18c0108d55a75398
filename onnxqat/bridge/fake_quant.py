"""Fake quantization in torch: what a Q/DQ pair does to a tensor, with gradients.

Forward is ONNX's formula to the letter, `saturate(round_half_to_even(x / scale)) * scale`: a
division, not a multiplication by the reciprocal, because codes hang on its last bit.

Backward, with q the rounded code:
  * for x, the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): the gradient passes
    where q lies within [qmin, qmax]. The limits are tested on the rounded code, so that the largest
    weight of a channel, which lies at qmax up to rounding, still learns.
  * for the scale, LSQ (Esser et al. 2020, arXiv:1902.08153, eq. 3): q - x / scale inside, qmin or
    qmax outside; times 1 / sqrt(n * qmax), n the number of values that share a scale (section 2.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onnxqat.core.calibration import SCALE_FLOOR


class FakeQuantize(nn.Module):
    """One Q/DQ pair.

    Attributes:
        scale: Shape [] for per-tensor, [C] for per-channel; the same Parameter in every pair that
            shares the scale initializer.
        axis: Channel axis; None for per-tensor.
        qmin: Smallest code, relative to the zero point.
        qmax: Largest code, relative to the zero point.
        is_weight: Whether what is quantized is an initializer.
        enabled: When False, the input passes unchanged.
        follows_weight: When True, in training mode, the scale is set from the largest magnitude of
            the input before each use (for weights; no gradient to the scale).
    """

    scale: nn.Parameter

    def __init__(
        self, scale: nn.Parameter, *, axis: int | None, qmin: int, qmax: int, is_weight: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.axis = axis
        self.qmin = qmin
        self.qmax = qmax
        self.is_weight = is_weight
        self.enabled = True
        self.follows_weight = False

    @property
    def learn_scale(self) -> bool:
        """Whether the scale gets an LSQ gradient: whether it requires one."""
        return self.scale.requires_grad

    @learn_scale.setter
    def learn_scale(self, learn: bool) -> None:
        self.scale.requires_grad_(learn)

    def forward(self, x: Tensor) -> Tensor:
        """`x` through quantization and back, in the scale's type."""
        if not self.enabled:
            return x
        if self.follows_weight and self.training:
            self.set_scale_from(x)
        if x.dtype != self.scale.dtype:  # autocast: codes need the full precision of the scale
            x = x.to(self.scale.dtype)
        result: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
            x, self.scale, self.axis, self.qmin, self.qmax
        )
        return result

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The integer codes of `x`, relative to the zero point, as floats."""
        return _codes(x, along(self.scale, self.axis, x.ndim), self.qmin, self.qmax)

    @torch.no_grad()
    def set_scale_from(self, x: Tensor) -> None:
        """Set the scale to amax / qmax of `x`, not below the floor that calibration keeps."""
        if self.axis is None:
            amax = x.abs().amax()
        else:
            amax = x.abs().amax([i for i in range(x.ndim) if i != self.axis])
        self.scale.copy_((amax / self.qmax).clamp(min=SCALE_FLOOR).reshape(self.scale.shape))

    def extra_repr(self) -> str:
        """What to print."""
        grain = "per-tensor" if self.axis is None else f"per-channel axis={self.axis}"
        return f"{grain}, codes {self.qmin}..{self.qmax}"


def along(scale: Tensor, axis: int | None, ndim: int) -> Tensor:
    """A scale shaped to broadcast against a tensor of rank `ndim`."""
    if axis is None:
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)


def _codes(x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """Codes in one fresh tensor."""
    return (x / scale).round_().clamp_(qmin, qmax)


class _FakeQuantize(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, axis: int | None, qmin: int, qmax: int
    ) -> Tensor:
        ctx.axis, ctx.qmin, ctx.qmax = axis, qmin, qmax
        ctx.save_for_backward(x, scale)
        shaped = along(scale, axis, x.ndim)
        return _codes(x, shaped, qmin, qmax).mul_(shaped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, scale = ctx.saved_tensors
        shaped = along(scale, ctx.axis, x.ndim)
        ratio = x / shaped
        rounded = ratio.round()
        inside = (rounded >= ctx.qmin) & (rounded <= ctx.qmax)
        grad_x = torch.where(inside, grad, 0) if ctx.needs_input_grad[0] else None
        grad_scale = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, rounded - ratio, rounded.clamp_(ctx.qmin, ctx.qmax))
            per_value = slope.mul_(grad)
            if ctx.axis is None:
                total = per_value.sum()
            else:
                total = per_value.sum([i for i in range(x.ndim) if i != ctx.axis])
            shared_by = x.numel() // scale.numel()
            grad_scale = (total / (shared_by * ctx.qmax) ** 0.5).reshape(scale.shape)
        return grad_x, grad_scale, None, None, None
