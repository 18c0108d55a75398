"""Sequences (lists of tensors) and optionals (None, or the value itself)."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops.control_flow import Body
from onnxqat.bridge.ops.registry import HostValue, Ints, Outputs, op
from onnxqat.core.errors import ModelError

Sequence = list[Tensor]


@op("SequenceEmpty", versions=(11,))
def sequence_empty(*, dtype: int | None = None) -> Sequence:
    return []


@op("SequenceConstruct", versions=(11,))
def sequence_construct(*inputs: Tensor) -> Sequence:
    return list(inputs)


@op("SequenceLength", versions=(11,), returns_ints=True)
def sequence_length(input_sequence: Sequence) -> int:
    return len(input_sequence)


@op("SequenceAt", versions=(11,))
def sequence_at(input_sequence: Sequence, position: Ints) -> Tensor:
    return input_sequence[position[0]]


@op("SequenceInsert", versions=(11,))
def sequence_insert(
    input_sequence: Sequence, tensor: Tensor, position: Ints | None = None
) -> Sequence:
    length = len(input_sequence)
    where = length if position is None else position[0]
    if not -length <= where <= length:
        raise ModelError(f"position {where} is outside of a sequence of {length}")
    return [*input_sequence[:where], tensor, *input_sequence[where:]]


@op("SequenceErase", versions=(11,))
def sequence_erase(input_sequence: Sequence, position: Ints | None = None) -> Sequence:
    kept = list(input_sequence)
    del kept[-1 if position is None else position[0]]
    return kept


@op("ConcatFromSequence", versions=(11,))
def concat_from_sequence(input_sequence: Sequence, *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(input_sequence, axis) if new_axis else torch.cat(input_sequence, axis)


@op("SplitToSequence", versions=(11, 24))
def split_to_sequence(
    input: Tensor, split: HostValue | None = None, *, axis: int = 0, keepdims: int = 1
) -> Sequence:
    if split is None:
        return list(torch.split(input, 1, axis) if keepdims else input.unbind(axis))
    given = split.tolist() if isinstance(split, Tensor) else split
    sizes = list(given) if isinstance(given, tuple) else given
    return list(torch.split(input, sizes, axis))


@op("SequenceMap", versions=(17,))
def sequence_map(
    input_sequence: Sequence, *additional_inputs: Any, body: Body, outputs: Outputs = 1
) -> Any:
    rows = [
        body(item, *(x[i] if isinstance(x, list) else x for x in additional_inputs))
        for i, item in enumerate(input_sequence)
    ]
    results = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(outputs)]
    return results if outputs > 1 else results[0]


@op("Optional", versions=(15, 28))
def optional(input: Any = None, *, type: Any = None) -> Any:
    return input


@op("OptionalHasElement", versions=(15,), returns_ints=True)
def optional_has_element_15(input: Any) -> bool:
    return input is not None


@op("OptionalHasElement", versions=(18, 28), returns_ints=True)
def optional_has_element(input: Any = None) -> bool:
    return input is not None


@op("OptionalGetElement", versions=(15, 18, 28))
def optional_get_element(input: Any) -> Any:
    if input is None:
        raise ModelError("the optional has no element")
    return input
