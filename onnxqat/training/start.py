"""Where weights begin that the Q/DQ file holds as codes only."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxqat.bridge import FakeQuantize, OnnxModule
from onnxqat.training.names import parameters_by_name

INSIDE = 0.499
"""How far, in scales, a weight may start from its code's value: half a scale would round away."""
MOST_MOVED = 0.25
"""Share of weights outside their code's reach from which the teacher's tensor is another one: the
file's weights were then changed before quantization (equalized, say)."""


@torch.no_grad()
def start_from_teacher(student: OnnxModule, teacher: OnnxModule) -> tuple[str, ...]:
    """Give weights that are exact multiples of their scale back what rounding took; their names.

    Each weight moves to the teacher's value of the same name, or as near to it as keeps its code.
    So the student computes exactly what it did, also where the codes were not simply rounded
    (AdaRound, say), and its first gradients can move a code the shorter way.
    """
    ours, theirs = parameters_by_name(student), parameters_by_name(teacher)
    started = []
    for name, quantizer in student.quantizers.items():
        if not (quantizer.is_weight and name in ours and name in theirs):
            continue
        begin = _begin(ours[name], theirs[name], quantizer)
        if begin is not None:
            ours[name].copy_(begin)
            started.append(name)
    return tuple(started)


def _begin(weight: Tensor, wanted: Tensor, quantizer: FakeQuantize) -> Tensor | None:
    """The start of one weight; None if it holds more than codes, or the teacher's is another."""
    if weight.shape != wanted.shape or quantizer.is_float8:
        return None  # FP8 codes are no multiples of the scale, and files hold FP8 weights in float
    scale = _broadcast(quantizer, weight.ndim)
    codes = (weight / scale).round()
    if not torch.equal(codes * scale, weight):
        return None
    low, high = codes - INSIDE, codes + INSIDE
    low = torch.where(codes == quantizer.qmin, -torch.inf, low)
    high = torch.where(codes == quantizer.qmax, torch.inf, high)
    position = wanted.to(weight.device) / scale
    outside = (position < low) | (position > high)
    if float(outside.float().mean()) > MOST_MOVED:
        return None
    return position.clamp(low, high) * scale


def _broadcast(quantizer: FakeQuantize, ndim: int) -> Tensor:
    """The scale, shaped to divide a tensor of rank `ndim`."""
    if quantizer.axis is None:
        return quantizer.scale.detach()
    shape = [1] * ndim
    shape[quantizer.axis] = -1
    return quantizer.scale.detach().reshape(shape)
