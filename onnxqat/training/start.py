"""Where weights begin that the Q/DQ file holds as codes only."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxqat.bridge import FakeQuantize, OnnxModule
from onnxqat.training.names import parameters_by_name

HALF = 0.5
"""How far from its code, in scales, a weight can lie that is rounded to it."""
NEAR = 0.25
"""How far from its code a weight starts that lies farther away: it was not simply rounded. At the
border to the next code the first steps of training would throw most of these weights back (8 dB on
ResNet-20 with 4-bit weights), at the code itself most would never move."""
OTHER = 1.5
"""Distance, in scales, from its code at which a weight is not the one that the code stands for."""
MOST_OTHER = 0.25
"""Share of such weights from which the teacher's tensor is another one: the file's weights were
changed before quantization (equalized, say)."""


@torch.no_grad()
def start_from_teacher(student: OnnxModule, teacher: OnnxModule) -> tuple[str, ...]:
    """Give weights that are exact multiples of their scale back what rounding took; their names.

    Each weight moves to the teacher's value of the same name, or towards it as far as keeps its
    code. So the student computes exactly what it did, also where the codes were not simply rounded
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
    position = wanted.to(weight.device) / scale
    away = position - codes
    at_limit = ((codes == quantizer.qmin) & (away < 0)) | ((codes == quantizer.qmax) & (away > 0))
    if float(((away.abs() > OTHER) & ~at_limit).float().mean()) > MOST_OTHER:
        return None
    is_rounded = (away.abs() < HALF) | at_limit
    return torch.where(is_rounded, position, codes + NEAR * away.sign()) * scale


def _broadcast(quantizer: FakeQuantize, ndim: int) -> Tensor:
    """The scale, shaped to divide a tensor of rank `ndim`."""
    if quantizer.axis is None:
        return quantizer.scale.detach()
    shape = [1] * ndim
    shape[quantizer.axis] = -1
    return quantizer.scale.detach().reshape(shape)
