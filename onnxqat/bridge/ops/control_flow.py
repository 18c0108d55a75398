"""Operators that run a subgraph; gradients flow through every run of it."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from onnxqat.bridge.ops.registry import BodyForm, Outputs, Scalar, op
from onnxqat.core.errors import ModelError

Axes = tuple[int, ...]


class Body(Protocol):
    """A subgraph that can be called."""

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Its outputs for its inputs."""

    def nothing(self, output: int) -> Tensor:
        """What is stacked of an output if the subgraph never runs: a tensor of length 0."""


Branch = Annotated[Body, BodyForm(results_from=0)]
LoopBody = Annotated[Body, BodyForm(host_inputs=2, scalar_outputs=1, results_from=1, carries=True)]
"""The number of the iteration comes from the host; whether to go on is asked for there."""


@op("If", versions=(1, 11, 13, 16, 19, 21, 23, 24, 25))
def if_(cond: Scalar, *, else_branch: Branch, then_branch: Branch, outputs: Outputs = 1) -> Any:
    results = (then_branch if _is_true(cond) else else_branch)()
    return results if outputs > 1 else results[0]


def _is_true(value: Any) -> bool:
    return bool(value.item() if isinstance(value, Tensor) else value)


@op("Loop", versions=(1, 11, 13, 16, 19, 21, 23, 24, 25))
def loop(
    M: Scalar | None = None,
    cond: Scalar | None = None,
    *v_initial: Any,
    body: LoopBody,
    outputs: Outputs = 1,
) -> Any:
    limit = None if M is None else int(M)
    goes_on = cond is None or _is_true(cond)
    states: Sequence[Any] = v_initial
    count = len(v_initial)
    rows: list[Sequence[Any]] = []
    while goes_on and (limit is None or len(rows) < limit):
        going, *results = body(len(rows), goes_on, *states)
        goes_on, states = _is_true(going), results[:count]
        rows.append(results[count:])
    columns = (
        [torch.stack(column) for column in zip(*rows, strict=True)]
        if rows
        else [body.nothing(1 + i) for i in range(count, outputs)]
    )
    results = [*states, *columns]
    return results if outputs > 1 else results[0]


def _steps(x: Tensor, axis: int, *, is_reverse: bool) -> Sequence[Tensor]:
    parts = x.unbind(axis)
    return parts[::-1] if is_reverse else parts


def _stacked(column: Sequence[Tensor], axis: int, *, is_reverse: bool) -> Tensor:
    return torch.stack(tuple(column[::-1] if is_reverse else column), axis)


def _scan(
    body: Body, states: Sequence[Tensor], sequences: Sequence[Sequence[Tensor]]
) -> tuple[Sequence[Tensor], list[Sequence[Tensor]]]:
    """The last states, and what each further output was at each step."""
    count = len(states)
    rows = []
    for parts in zip(*sequences, strict=True):
        results = body(*states, *parts)
        states = results[:count]
        rows.append(results[count:])
    return states, [list(column) for column in zip(*rows, strict=True)]


@op("Scan", versions=(9, 11, 16, 19, 21, 23, 24, 25))
def scan(
    *initial_state_and_scan_inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Axes | None = None,
    scan_input_directions: Axes | None = None,
    scan_output_axes: Axes | None = None,
    scan_output_directions: Axes | None = None,
    outputs: Outputs = 1,
) -> Any:
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    states, inputs = initial_state_and_scan_inputs[:count], initial_state_and_scan_inputs[count:]
    axes = scan_input_axes or (0,) * num_scan_inputs
    reverse = scan_input_directions or (0,) * num_scan_inputs
    sequences = [
        _steps(x, a, is_reverse=bool(r)) for x, a, r in zip(inputs, axes, reverse, strict=True)
    ]
    last, columns = _scan(body, states, sequences)
    if not columns:
        results: list[Any] = [*last, *(body.nothing(i) for i in range(count, outputs))]
        return results if outputs > 1 else results[0]
    axes = scan_output_axes or (0,) * len(columns)
    reverse = scan_output_directions or (0,) * len(columns)
    stacked = [
        _stacked(x, a, is_reverse=bool(r)) for x, a, r in zip(columns, axes, reverse, strict=True)
    ]
    results = [*last, *stacked]
    return results if outputs > 1 else results[0]


@op("Scan", versions=(8,))
def scan_of_batches(
    sequence_lens: Tensor | None = None,
    *initial_state_and_scan_inputs: Tensor,
    body: Body,
    directions: Axes | None = None,
    num_scan_inputs: int,
    outputs: Outputs = 1,
) -> Any:
    if sequence_lens is not None:
        raise ModelError(
            "Scan of opset 8 with sequence_lens is not implemented",
            fix="convert the model to opset 9 or newer",
        )
    rows = [
        scan(
            *(x[i] for x in initial_state_and_scan_inputs),
            body=body,
            num_scan_inputs=num_scan_inputs,
            scan_input_directions=directions,
            outputs=max(outputs, 2),
        )
        for i in range(initial_state_and_scan_inputs[0].shape[0])
    ]
    results = [torch.stack(column) for column in zip(*rows, strict=True)]
    return results if outputs > 1 else results[0]
