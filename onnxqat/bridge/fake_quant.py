"""Fake quantization in torch: what a Q/DQ pair does to a tensor, with gradients.

Forward is ONNX's formula to the letter, `saturate(round_half_to_even(x / scale)) * scale`: a
division, not a multiplication by the reciprocal, because codes hang on its last bit.

Backward, with q the code:
  * for x, the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): the gradient passes
    where x / scale lies within half a step of [qmin, qmax], so where rounding and not saturation
    decides. The half step lets the largest weight of a channel, which lies at qmax up to float
    rounding, still learn; LSQ's paper has the limits themselves.
  * for the scale, LSQ (Esser et al. 2020, arXiv:1902.08153, eq. 3): q - x / scale inside, qmin or
    qmax outside; times 1 / sqrt(n * qmax), n the number of weights, or of features in one sample,
    that share the scale (section 2.2).

The codes of FP8 (E4M3) are not evenly spaced: q is the nearest one, and all else is the same but
for two numbers. The half step at the limits is 16, half the way from 448 to what would come next.
And the scale's gradient is divided by qmax, not by its root. LSQ's root is there to make updates of
scales and of weights alike in relative size, with rounding errors of 0.3 whatever the code; those
of FP8 grow with the code, to 0.026 |q| in the mean (the steps are an eighth of the power of two).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onnxqat.bridge.recompute import Again, Recomputation


class FakeQuantize(nn.Module):
    """One Q/DQ pair.

    Attributes:
        scale: Shape [] for per-tensor, [C] for per-channel; the same Parameter in every pair that
            shares the scale initializer.
        axis: Channel axis; None for per-tensor.
        qmin: Smallest code, relative to the zero point.
        qmax: Largest code, relative to the zero point.
        is_float8: Whether the codes are the numbers of FP8 (E4M3), not integers.
        is_weight: Whether what is quantized is an initializer.
        enabled: When False, the input passes unchanged.
        is_reached: Whether a gradient of some output reaches it; not if only frozen nodes lead on.
        recomputation: Who is told of results that can be computed again; None: nobody.
    """

    scale: nn.Parameter

    def __init__(
        self,
        scale: nn.Parameter,
        *,
        axis: int | None,
        qmin: int,
        qmax: int,
        is_weight: bool,
        is_float8: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.axis = axis
        self.qmin = qmin
        self.qmax = qmax
        self.is_float8 = is_float8
        self.is_weight = is_weight
        self.enabled = True
        self.is_reached = True
        self.recomputation: Recomputation | None = None

    @property
    def learn_scale(self) -> bool:
        """Whether the scale gets an LSQ gradient: whether it requires one."""
        return self.scale.requires_grad

    @learn_scale.setter
    def learn_scale(self, learn: bool) -> None:
        if self.is_reached:
            self.scale.requires_grad_(learn)

    def forward(self, x: Tensor, rectify: bool = False) -> Tensor:
        """`x` through quantization and back, in the scale's type.

        Args:
            x: The tensor; with `rectify`, what goes into the Relu before it.
            rectify: Apply that Relu as well: limiting the codes does it at no cost.
        """
        if not self.enabled:
            return torch.relu(x) if rectify else x
        if x.dtype != self.scale.dtype:  # autocast: codes need the full precision of the scale
            x = x.to(self.scale.dtype)
        codes = (max(self.qmin, 0) if rectify else self.qmin, self.qmax, self.is_float8)
        arguments = (x, self.scale, self.axis, codes, rectify, self._noted(x))
        result: Tensor
        if self.learn_scale and torch.is_grad_enabled():
            samples = 1 if self.is_weight or x.ndim < 2 else max(x.shape[0], 1)
            result = _Learned.apply(*arguments, samples)  # type: ignore[no-untyped-call]
        else:
            result = _Frozen.apply(*arguments)  # type: ignore[no-untyped-call]
        return result

    def _noted(self, x: Tensor) -> Recomputation | None:
        """Who notes what is made of `x`; nobody where layers are to keep it."""
        noted = self.recomputation
        return noted if noted is not None and noted.wants(x) else None

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The codes of `x`, relative to the zero point, as floats."""
        ratio = x / along(self.scale, self.axis, x.ndim)
        return _rounded(ratio, (self.qmin, self.qmax, self.is_float8))

    @torch.no_grad()
    def steps(self, ratio: Tensor) -> Tensor:
        """How far the codes lie apart around ratios x / scale, within the limits.

        1 of integers. Of FP8 an eighth of the power of two that is next below in magnitude.
        """
        if not self.is_float8:
            return torch.ones_like(ratio)
        _, exponent = torch.frexp(ratio.abs().clamp_min(2.0**-6))
        return torch.exp2((exponent - 4).to(ratio.dtype))

    def extra_repr(self) -> str:
        """What to print."""
        grain = "per-tensor" if self.axis is None else f"per-channel axis={self.axis}"
        kind = "FP8" if self.is_float8 else "codes"
        return f"{grain}, {kind} {self.qmin}..{self.qmax}"


Codes = tuple[int, int, bool]
"""The smallest and the largest code, and whether they are FP8 numbers."""


@dataclass(frozen=True)
class Rectified:
    """A Relu and the fake quantizer that alone reads its output, in one."""

    quantizer: FakeQuantize

    def __call__(self, x: Tensor) -> Tensor:
        """As the two apart; they stay apart where a hook wants to see the Relu's output."""
        if self.quantizer._forward_pre_hooks or self.quantizer._forward_hooks:
            return self.quantizer(torch.relu(x))  # type: ignore[no-any-return]
        return self.quantizer(x, True)  # type: ignore[no-any-return]


def along(scale: Tensor, axis: int | None, ndim: int) -> Tensor:
    """A scale shaped to broadcast against a tensor of rank `ndim`."""
    if axis is None:
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)


def _fake_quantized(x: Tensor, scale: Tensor, codes: Codes) -> Tensor:
    """saturate(round_half_to_even(x / scale)) * scale, in one fresh tensor."""
    return _rounded(x / scale, codes).mul_(scale)


def _rounded(ratio: Tensor, codes: Codes) -> Tensor:
    """The codes nearest to ratios, ties to even; in place."""
    low, high, is_float8 = codes
    if is_float8:
        return _round_to_e4m3(ratio.clamp_(low, high))
    return ratio.round_().clamp_(low, high)


def _round_to_e4m3(x: Tensor) -> Tensor:
    """The nearest numbers of E4M3 to numbers within its range; in place, in float32.

    Twice as fast on a CPU as a cast to torch.float8_e4m3fn and back.
    """
    if x.dtype != torch.float32:
        return x.copy_(_round_to_e4m3(x.float()))
    # Numbers stand here and not by name: torch.compile takes a float in a global for a variable
    power = (x.view(torch.int32) & 0x7F800000).view(torch.float32)  # the exponent bits: 2^e
    # 2^-6 is the smallest normal number of E4M3: those below are as far apart as those above.
    # A float32 near 2^(e+20) has its last bit worth 2^(e-3), so that adding it rounds to three bits
    # of mantissa; half of it more is room for a negative number.
    large = power.clamp_(min=2.0**-6).mul_(1.5 * 2.0**20)
    return x.add_(large).sub_(large)


def _again(scale: Tensor, axis: int | None, codes: Codes) -> Again:
    """What fake-quantizes again in the backward pass, in which the scale is still the same."""
    fixed = scale.detach()
    return Again(lambda x: _fake_quantized(x, along(fixed, axis, x.ndim), codes))


def _passing(codes: Codes, *, rectify: bool) -> tuple[float, float]:
    """Between which ratios x / scale a gradient passes; a Relu passes none at 0."""
    low, high, is_float8 = codes
    half = 16.0 if is_float8 else 0.5  # to what would come next to the largest code
    return (0.0 if rectify else low - half), high + half


def _reach(codes: Codes) -> float:
    """By whose root, with the number of values, the gradient of a scale is divided."""
    _, high, is_float8 = codes
    return float(high * high if is_float8 else high)


def _passed(grad: Tensor, x: Tensor, scale: Tensor, passing: tuple[float, float]) -> Tensor:
    """`grad` where x / scale lies in `passing`, else 0.

    One pass of one kernel, where comparing and combining masks takes several slow ones.
    """
    low, high = passing
    if scale.ndim == 0 and scale.device.type == "cpu" and not torch.compiler.is_compiling():
        step = scale.item()  # elsewhere this would wait for the device
        return _between(grad, x, low * step, high * step)
    return _between(grad, x / scale, low, high)


def _between(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`grad` where low < x < high, else 0."""
    passed: Tensor = torch.ops.aten.hardtanh_backward(grad, x, low, high)
    return passed


class _Frozen(torch.autograd.Function):
    """The scale gets no gradient. Keeps the input for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        axis: int | None,
        codes: Codes,
        rectify: bool,
        noted: Recomputation | None,
    ) -> Tensor:
        ctx.axis, ctx.passing = axis, _passing(codes, rectify=rectify)
        ctx.save_for_backward(x, scale)
        y = _fake_quantized(x, along(scale, axis, x.ndim), codes)
        if not ctx.needs_input_grad[0]:
            noted = None  # of the graph's inputs: there is no backward pass that would keep x
        ctx.again = None if noted is None else noted.note(y, x, _again(scale, axis, codes))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        if ctx.again is not None:
            ctx.again.forget()
        grad_x = _passed(grad, x, along(scale, ctx.axis, x.ndim), ctx.passing)
        return grad_x, None, None, None, None, None


class _Learned(torch.autograd.Function):
    """The scale gets its LSQ gradient. Keeps the input for the backward pass, and the result
    unless that can be computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        axis: int | None,
        codes: Codes,
        rectify: bool,
        noted: Recomputation | None,
        samples: int,
    ) -> Tensor:
        y = _fake_quantized(x, along(scale, axis, x.ndim), codes)
        ctx.axis, ctx.reach, ctx.passing = axis, _reach(codes), _passing(codes, rectify=rectify)
        ctx.features = x.numel() // (scale.numel() * samples)
        ctx.again = None if noted is None else noted.note(y, x, _again(scale, axis, codes))
        ctx.save_for_backward(x, y if noted is None else None, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        if ctx.again is not None:
            y = ctx.again.value(x)
            ctx.again.forget()
        shaped = along(scale, ctx.axis, x.ndim)
        # Inside: q - x / scale = (y - x) / scale; outside: q = y / scale. The difference is taken
        # before the sum: sums of grad * y and grad * x would cancel to noise.
        room = _passed(x, x, shaped, ctx.passing)
        slope = room.sub_(y)  # negated, which lets it be in place
        total = _sum_of_products(grad, slope, ctx.axis).reshape(scale.shape)
        grad_scale = -total / (scale * (ctx.features * ctx.reach) ** 0.5)
        grad_x = _passed(grad, x, shaped, ctx.passing) if ctx.needs_input_grad[0] else None
        return grad_x, grad_scale, None, None, None, None, None


def _sum_of_products(a: Tensor, b: Tensor, axis: int | None) -> Tensor:
    """The sum of a * b over everything, or over all axes but one."""
    if axis is not None:
        # Not sum(dims): with no other axis, as in a bias, an empty list would mean all of them
        return (a * b).movedim(axis, 0).reshape(a.shape[axis], -1).sum(1)
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)  # the order in which they lie
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()
