"""A graph as a flat list of calls over numbered slots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from onnxqat.bridge.ops.registry import Reading
from onnxqat.bridge.values import (
    NUMBER_READINGS,
    ONE_READINGS,
    as_number,
    as_numbers,
    as_tensor,
    simplest,
)
from onnxqat.core.errors import ModelError, OnnxqatError

ABSENT = 0
"""Slot of an optional input that is not there: always None."""
DEVICE = 1
"""Slot of the device that the graph inputs lie on."""


@dataclass(frozen=True)
class Place:
    """The ONNX node that a step came from."""

    node: str
    op: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    note: str = ""
    """What is special about the way in which it runs."""

    def __str__(self) -> str:
        note = f"  # {self.note}" if self.note else ""
        return (
            f"{self.node}: {self.op}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}{note}"
        )


@dataclass(frozen=True)
class Step:
    """One call: the results of `function` on some slots go to others, and dead slots are freed."""

    function: Callable[..., Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    frees: tuple[int, ...]
    place: Place


class Program:
    """The steps of one graph; `run` may be called again and again."""

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        template: Sequence[Any],
        inputs: Sequence[int],
        captures: Sequence[int],
        outputs: Sequence[int],
    ) -> None:
        self.places = tuple(step.place for step in steps)
        self._template = list(template)
        self._given = (DEVICE, *inputs, *captures)
        self._outputs = tuple(outputs)
        # Plain tuples: attribute look-ups would cost more than the loop itself
        self._calls: tuple[tuple[Callable[..., Any], tuple[int, ...], Any, tuple[int, ...]], ...]
        self._calls = tuple(
            (s.function, s.reads, s.writes[0] if len(s.writes) == 1 else s.writes, s.frees)
            for s in steps
        )

    def run(
        self, device: torch.device | None, inputs: Iterable[Any], captures: Iterable[Any]
    ) -> tuple[Any, ...]:
        """The outputs, in graph order.

        Raises:
            ModelError: An operator failed; the error names its node and its input shapes.
        """
        return self._finish(self._loaded(device, inputs, captures), 0)

    def branches(
        self,
        device: torch.device | None,
        inputs: Iterable[Any],
        captures: Iterable[Any],
        steps: Collection[int],
    ) -> Iterator[tuple[int, Callable[[], tuple[Any, ...]]]]:
        """Each of these steps, in order, and what runs the program from there to its outputs.

        It may be called at once, before the next is asked for, and as often as one likes. What lies
        before a step has been computed by then, once for all that branch off behind it.
        """
        slots = self._loaded(device, inputs, captures)
        for index in range(max(steps, default=-1) + 1):
            if index in steps:
                yield index, partial(self._finish_copy, slots, index)
            self._advance(slots, index, index + 1)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """What each step calls."""
        return tuple(function for function, *_ in self._calls)

    def _loaded(
        self, device: torch.device | None, inputs: Iterable[Any], captures: Iterable[Any]
    ) -> list[Any]:
        slots = self._template.copy()
        for index, value in zip(self._given, (device, *inputs, *captures), strict=True):
            slots[index] = value
        return slots

    def _finish_copy(self, slots: list[Any], first: int) -> tuple[Any, ...]:
        return self._finish(slots.copy(), first)

    def _finish(self, slots: list[Any], first: int) -> tuple[Any, ...]:
        """The outputs, by the steps from `first` on."""
        self._advance(slots, first, len(self._calls))
        return tuple(slots[i] for i in self._outputs)

    def _advance(self, slots: list[Any], first: int, last: int) -> None:
        """Take the steps from `first` to before `last`."""
        done = first
        calls = self._calls if last - first == len(self._calls) else self._calls[first:last]
        try:
            for function, reads, write, frees in calls:
                result = function(*[slots[i] for i in reads])
                if write.__class__ is int:
                    slots[write] = result
                else:
                    for index, value in zip(write, result, strict=False):
                        slots[index] = value
                for index in frees:
                    slots[index] = None
                done += 1
        except Exception as error:
            raise self._located(error, done, slots) from error

    def walk(
        self, device: torch.device | None, inputs: Iterable[Any], captures: Iterable[Any]
    ) -> Iterator[tuple[Place, tuple[Any, ...]]]:
        """Each step's place and results, one after the other: what `run` does, to look at."""
        slots = self._loaded(device, inputs, captures)
        for place, (function, reads, write, frees) in zip(self.places, self._calls, strict=True):
            result = function(*[slots[i] for i in reads])
            writes, results = ((write,), (result,)) if isinstance(write, int) else (write, result)
            for index, value in zip(writes, results, strict=False):
                slots[index] = value
            yield place, tuple(results)
            for index in frees:
                slots[index] = None

    def _located(self, error: Exception, index: int, slots: list[Any]) -> OnnxqatError:
        place = self.places[index]
        if isinstance(error, OnnxqatError) and error.node is not None:
            return error  # located by the subgraph that it comes from
        shapes = [_shape(slots[i]) for i in self._calls[index][1]]
        problem = error.problem if isinstance(error, OnnxqatError) else str(error)
        return ModelError(
            f"{place.op} failed: {problem.strip() or type(error).__name__}",
            node=place.node,
            at=f"inputs {', '.join(place.inputs)} of shapes {', '.join(shapes)}",
            fix=error.fix if isinstance(error, OnnxqatError) else None,
        )


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else repr(value)


@dataclass(frozen=True)
class HostCall:
    """An operator on host values: on Python ints where it can, else on CPU tensors."""

    function: Callable[..., Any]
    fast: Callable[..., Any] | None
    readings: tuple[Reading, ...]
    output_count: int

    def __call__(self, *values: Any) -> Any:
        """Host values for host values."""
        if self.fast is not None:
            result = self.fast(*values)
            if result is not NotImplemented:
                return result
        read = [_read(v, r) for v, r in zip(values, self.readings, strict=True)]
        result = self.function(*read)
        return simplest(result) if self.output_count == 1 else [simplest(r) for r in result]


def _read(value: Any, reading: Reading) -> Any:
    if value is None or reading is Reading.HOST:
        return value
    if reading in NUMBER_READINGS:
        return as_numbers(value)
    if reading in ONE_READINGS:
        number = as_number(value, reading)
        return number if isinstance(number, int | float) else as_tensor(value)
    return as_tensor(value)


@dataclass(frozen=True)
class Declared:
    """What a subgraph declares of one of its outputs."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...] | None
    """None unless all of it is known."""

    def nothing(self, device: torch.device) -> Tensor:
        """No such tensors, stacked: what a loop gives that never runs.

        Raises:
            ModelError: The subgraph declares too little.
        """
        if self.dtype is None or self.shape is None:
            raise ModelError(
                f"the subgraph did not run once, and does not declare the shape of '{self.name}'",
                fix="declare the type and shape of the subgraph's outputs",
            )
        return torch.empty((0, *self.shape), dtype=self.dtype, device=device)


@dataclass(frozen=True)
class SubProgram:
    """A subgraph: which of its operator's values it captures, and what it declares to return."""

    program: Program
    captured: slice
    outputs: tuple[Declared, ...]


@dataclass(frozen=True)
class BodyCall:
    """An operator with subgraphs: its inputs, then what each subgraph captures."""

    function: Callable[..., Any]
    input_count: int
    bodies: dict[str, SubProgram] = field(default_factory=dict)

    def __call__(self, device: torch.device, *values: Any) -> Any:
        """The operator's result; the subgraphs see what they captured."""
        bound = {
            name: _Bound(body, device, values[body.captured]) for name, body in self.bodies.items()
        }
        return self.function(*values[: self.input_count], **bound)


@dataclass(frozen=True)
class _Bound:
    body: SubProgram
    device: torch.device
    captured: Sequence[Any]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.body.program.run(self.device, inputs, self.captured)

    def nothing(self, output: int) -> Tensor:
        return self.body.outputs[output].nothing(self.device)
