"""Learn for each weight whether it is rounded up or down (AdaRound).

A weight is floor(w / scale) + h(v), with h the rectified sigmoid of Nagel et al. 2020
(arXiv:2004.10568, eq. 23); a regularizer (eq. 24) draws h to 0 or 1 as the steps go on, and in the
end it is rounded. The scales stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize
from onnxqat.bridge.fake_quant import along

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1
"""What the sigmoid is stretched to before it is cut to [0, 1], so that its ends are reached."""
FREE = 0.2
"""Share of the steps in which nothing draws the weights to a side."""
SHARP, BLUNT = 20.0, 2.0
"""The regularizer's exponent at first and at last."""
DRAW = 20.0
"""The regularizer's weight, in errors that plain rounding makes: layers differ by orders of it."""
RATE = 0.1
"""Of v: an undecided weight can reach either side in some 30 steps of Adam. The paper's 0.01 is for
10,000 steps; measured on ResNet-20 with 4-bit weights in 300 steps, it costs 1.3 dB."""
UNDECIDED = 0.01
"""How near to a side a weight may begin, lest its gradient vanish."""


class SoftRounding:
    """Stands for some weights of a module while they learn how to round."""

    def __init__(
        self,
        weights: Mapping[str, Parameter],
        quantizers: Mapping[str, FakeQuantize],
        *,
        error: float,
    ) -> None:
        """Take over from the quantizers of some weights.

        Args:
            weights: By initializer.
            quantizers: Of these and any others.
            error: The loss that the weights give as they are rounded now.
        """
        self._error = error
        self._weights = [_SoftWeight(weights[name], quantizers[name]) for name in weights]
        self._optimizer = torch.optim.Adam([weight.v for weight in self._weights], lr=RATE)
        self._count = sum(weight.v.numel() for weight in self._weights)

    def penalty(self, done: float) -> Tensor | float:
        """What being between two codes costs; `done` is the share of the steps that are taken."""
        if done < FREE:
            return 0.0
        sharpness = SHARP + (BLUNT - SHARP) * (done - FREE) / (1 - FREE)
        parts = [weight.openness(sharpness) for weight in self._weights]
        return self._error * DRAW / self._count * sum(parts[1:], start=parts[0])

    def step(self) -> None:
        """Move along the gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def end(self) -> None:
        """Round, and give the weights back to their quantizers."""
        for weight in self._weights:
            weight.end()


class _SoftWeight:
    """One weight between the codes below and above it."""

    def __init__(self, weight: Parameter, quantizer: FakeQuantize) -> None:
        self._weight, self._limits = weight, (quantizer.qmin, quantizer.qmax)
        self._scale = along(quantizer.scale.detach(), quantizer.axis, weight.ndim)
        position = weight.detach() / self._scale
        self._step = quantizer.steps(position)
        self._below = ((position / self._step).floor() * self._step).clamp(*self._limits)
        share = ((position - self._below) / self._step).clamp(UNDECIDED, 1 - UNDECIDED)
        self.v = _unsquash(share).requires_grad_()
        self._hook = quantizer.register_forward_hook(self._replace)

    def _replace(self, quantizer: Any, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        return self._value(_squash(self.v))

    def _value(self, share: Tensor) -> Tensor:
        return (self._below + share * self._step).clamp(*self._limits) * self._scale

    def openness(self, sharpness: float) -> Tensor:
        """Between 0, all weights decided, and their number."""
        return (1 - (2 * _squash(self.v) - 1).abs().pow(sharpness)).sum()

    @torch.no_grad()
    def end(self) -> None:
        """Round the weight to the side that it is nearer to."""
        self._hook.remove()
        self._weight.copy_(self._value((_squash(self.v) >= 0.5).to(self._weight.dtype)))


def _squash(v: Tensor) -> Tensor:
    """The rectified sigmoid h, in [0, 1]."""
    return (torch.sigmoid(v) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def _unsquash(share: Tensor) -> Tensor:
    """The v of which h is `share`."""
    return torch.log((share - STRETCH_LOW) / (STRETCH_HIGH - share))
