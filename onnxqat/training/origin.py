"""Where a number that is not finite came from, for the message that ends such a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.training.batches import TensorBatch
from onnxqat.training.parameters import Trained


@torch.no_grad()
def origin_of_loss(
    student: OnnxModule, teacher: OnnxModule, parts: Sequence[TensorBatch]
) -> str | None:
    """The first tensor that is not finite where it should be, in words; None: no tensor but the
    loss is.

    An infinity that the teacher has at the same tensor is meant (a mask, say) and passes.
    """
    for batch in parts:
        found = next(_suspects(student, teacher, batch), None)
        if found is not None:
            return found
    return None


def _suspects(student: OnnxModule, teacher: OnnxModule, batch: TensorBatch) -> Iterator[str]:
    yield from _given(student, batch)
    infinite = set()
    for node, tensor, value in teacher.walk(*batch.inputs):
        if _has_nan(value):
            yield f"tensor '{tensor}' of node '{node}' in the FP32 teacher"
        if not _is_finite(value):
            infinite.add(tensor)
    for node, tensor, value in student.walk(*batch.inputs):
        if _has_nan(value) or not (_is_finite(value) or tensor in infinite):
            yield f"tensor '{tensor}' of node '{node}'"


def _given(student: OnnxModule, batch: TensorBatch) -> Iterator[str]:
    """What is not finite before anything is computed."""
    for name, value in zip(student.input_names, batch.inputs, strict=True):
        if not _is_finite(value):
            yield f"input '{name}' of the batch"
    if not _is_finite(batch.labels):
        yield "the labels of the batch"
    for name, parameter in student.named_parameters(recurse=False):
        if not _is_finite(parameter):
            yield f"parameter '{student.onnx_name(name)}'"


def origin_of_gradient(trained: Sequence[Trained], gradients: Sequence[Tensor | None]) -> str:
    """A parameter whose gradient is not finite, in words: the weight nearest the loss, if any."""
    pairs = zip(trained, gradients, strict=True)
    spoilt = [entry for entry, grad in pairs if not _is_finite(grad)]
    values = [entry for entry in spoilt if not entry.kind.is_scale]
    if not spoilt:
        return "the norm of all gradients together"
    return f"the gradient of '{(values or spoilt)[-1].name}'"


def _is_finite(value: Any) -> bool:
    return not _is_float(value) or bool(torch.isfinite(value).all())


def _has_nan(value: Any) -> bool:
    return _is_float(value) and bool(torch.isnan(value).any())


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
