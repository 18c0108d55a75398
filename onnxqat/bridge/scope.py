"""A graph or subgraph that is being lowered: its values, and the steps that compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.bridge.calls import Call, attributes_of, declared, label_of, place_of
from onnxqat.bridge.context import Context
from onnxqat.bridge.fake_quant import Rectified
from onnxqat.bridge.fallback import (
    captured,
    known_input,
)
from onnxqat.bridge.host_results import host_results
from onnxqat.bridge.ops.registry import BodyForm, Reading
from onnxqat.bridge.program import (
    ABSENT,
    DEVICE,
    BodyCall,
    HostCall,
    Place,
    Program,
    Step,
    SubProgram,
)
from onnxqat.bridge.tensors import tensor_of
from onnxqat.bridge.values import (
    NEEDS_DEVICE,
    TENSOR_READINGS,
    Known,
    Slot,
    Value,
    is_shape_arithmetic,
    to_device,
)
from onnxqat.core.errors import ModelError, OnnxqatError
from onnxqat.graph.query import constant_value, producer

FROZEN_NOTE = "frozen, in ONNX Runtime"
TENSOR, VALUE = "tensor", "value"
Capture = tuple[str, str]
"""What a scope is handed: a tensor of the module, or a value of the scope around it, by name."""


class Scope:
    """A graph that is being lowered; subgraphs capture values of the scope around them."""

    def __init__(self, context: Context, outer: Scope | None = None) -> None:
        self.context = context
        self.outer = outer
        self.values: dict[str, Value] = {}
        self.captures: dict[Capture, Slot] = {}
        self.template: list[Any] = [None, None]
        self.steps: list[Step] = []
        self.converted: dict[tuple[Any, ...], int] = {}

    def program(
        self,
        graph: gs.Graph,
        form: BodyForm | None = None,
        on_host: frozenset[int] = frozenset(),
    ) -> Program:
        """The program of a graph in this scope.

        Args:
            graph: A graph; a subgraph in a scope of its own.
            form: How the operator runs the subgraph.
            on_host: Which of the operator's results are host values.
        """
        form = form or BodyForm()
        inputs = [self._new_slot() for _ in graph.inputs]
        for i, (tensor, index) in enumerate(zip(graph.inputs, inputs, strict=True)):
            is_state = form.carries and i - form.host_inputs in on_host
            self.values[tensor.name] = Slot(index, on_host=i < form.host_inputs or is_state)
        for node in graph.nodes:
            self._node(node)
        outputs = [
            self._read(tensor, self._value(tensor), form.reading_of_output(i, on_host))
            for i, tensor in enumerate(graph.outputs)
        ]
        captured = [slot.index for slot in self.captures.values()]
        return Program(
            list(_freeing(self.steps, keep={*inputs, *captured, *outputs})),
            template=self.template,
            inputs=inputs,
            captures=captured,
            outputs=outputs,
        )

    # Slots and values

    def _new_slot(self, initial: Any = None) -> int:
        self.template.append(initial)
        return len(self.template) - 1

    def _emit(
        self, function: Callable[..., Any], reads: tuple[int, ...], count: int, place: Place
    ) -> tuple[int, ...]:
        writes = tuple(self._new_slot() for _ in range(count))
        self.steps.append(Step(function, reads, writes, (), place))
        return writes

    def _capture(self, key: Capture, *, on_host: bool = False) -> Slot:
        """The slot of something that is handed in when the program runs."""
        if key not in self.captures:
            self.captures[key] = Slot(self._new_slot(), on_host)
        return self.captures[key]

    def _find(self, name: str) -> Value | None:
        """The value of a tensor of this scope or one around it."""
        if name in self.values:
            return self.values[name]
        outer = None if self.outer is None else self.outer._find(name)
        if isinstance(outer, Slot):
            return self._capture((VALUE, name), on_host=outer.on_host)
        return outer

    def _handed_in(self, key: Capture) -> int:
        """The slot in this scope of what an inner scope captures."""
        kind, name = key
        slot = self._capture(key) if kind == TENSOR else self._find(name)
        assert isinstance(slot, Slot)
        return slot.index

    def _value(self, tensor: gs.Tensor) -> Value | None:
        """The value of a tensor; None if it is absent."""
        if tensor.is_empty():
            return None
        if isinstance(tensor, gs.Constant):
            if id(tensor) in self.context.trainable:
                return self._capture((TENSOR, self.context.tensors.parameter(tensor)))
            if tensor.name not in self.values:
                self.values[tensor.name] = self._constant(constant_value(tensor))
            return self.values[tensor.name]
        value = self._find(tensor.name)
        if value is None:
            raise ModelError(
                f"'{tensor.name}' is read before any node makes it",
                tensor=tensor.name,
                fix="check the model with onnx.checker; nodes must be in topological order",
            )
        return value

    def _constant(self, array: NDArray[Any] | None) -> Value:
        if array is not None and array.dtype == object:  # strings, which torch has not
            return Slot(self._new_slot(array), on_host=True)
        return Known(tensor_of(array))

    def _read(self, tensor: gs.Tensor, value: Value | None, reading: Reading) -> int:
        """The slot of a value as a device operator wants to read it."""
        if value is None:
            return ABSENT
        if isinstance(value, Known):
            if reading is Reading.HOST:
                return self._new_slot(value.host)
            return self._read_known(tensor, value, reading)
        convert = value.conversion(reading)
        if convert is None:
            return value.index
        key = (value, convert)
        if key not in self.converted:
            place = Place(tensor.name, convert.__name__, (tensor.name,))
            reads = (value.index, DEVICE) if convert in NEEDS_DEVICE else (value.index,)
            (self.converted[key],) = self._emit(convert, reads, 1, place)
        return self.converted[key]

    def _read_known(self, tensor: gs.Tensor, value: Known, reading: Reading) -> int:
        read = None if reading in TENSOR_READINGS else value.read(reading)
        if read is not None and not isinstance(read, Tensor):
            return self._new_slot(read)
        if isinstance(tensor, gs.Constant):
            return self._capture((TENSOR, self.context.tensors.buffer(tensor))).index
        key = (TENSOR, tensor.name)
        if key not in self.converted:
            name = self.context.tensors.known(tensor.name, value.value)
            self.converted[key] = self._capture((TENSOR, name)).index
        return self.converted[key]

    # Nodes

    def _node(self, node: gs.Node) -> None:
        try:
            if self.outer is not None or not self._quantizer(node):
                self._operator(node)
        except OnnxqatError as error:
            if error.node is not None:
                raise
            problem = f"{node.op} cannot be built: {error.problem}"
            raise ModelError(problem, node=place_of(node).node, fix=error.fix) from error

    def _quantizer(self, node: gs.Node) -> bool:
        """Lower a node of a Q/DQ pair; False if the node is in none."""
        quantizers = self.context.quantizers
        if quantizers.is_inside(node):
            return True
        entry = quantizers.of(node)
        if entry is None:
            return False
        module, parameter = self.context.quantizer(node, entry)
        function: Callable[..., Any] = module
        relu = quantizers.relu_before(entry) if parameter is None else None
        source = entry.source if relu is None else relu.inputs[0]
        if parameter is not None:
            read = self._capture((TENSOR, parameter)).index
        else:
            function = module if relu is None else Rectified(module)
            read = self._read(source, self._value(source), Reading.TENSOR)
        nodes = (relu, None if parameter is not None else producer(node.inputs[0]), node)
        place = Place(
            " + ".join(label_of(each) for each in nodes if each is not None),
            "FakeQuantize",
            (source.name,),
            (node.outputs[0].name,),
            note=module.extra_repr(),
        )
        self._bind(node, self._emit(function, (read,), 1, place), on_host=False)
        return True

    def _operator(self, node: gs.Node) -> None:
        op = self.context.op(node)
        if op is None:
            self._frozen(node)
            return
        values = tuple(self._value(tensor) for tensor in node.inputs)
        readings = tuple(op.reading(i) for i in range(len(values)))
        call = Call(node, op, values, readings, attributes_of(node, op), place_of(node))
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            self._with_bodies(call)
        elif not op.is_random and all(v is None or isinstance(v, Known) for v in values):
            self._fold(call)
        elif is_shape_arithmetic(values, readings):
            self._on_host(call)
        else:
            writes = self._emit(call.function, self._reads(call), call.output_count, call.place)
            self._bind(node, writes, on_host=op.returns_ints)

    def _frozen(self, node: gs.Node) -> None:
        """Lower a node that has no torch function."""
        read = [tensor for tensor in (*node.inputs, *captured(node)) if not tensor.is_empty()]
        values = {tensor.name: self._value(tensor) for tensor in read}
        known = {
            name: known_input(name, value.value)
            for name, value in values.items()
            if isinstance(value, Known)
        }
        function = self.context.frozen(node, known)
        reads = [self._read(t, values[t.name], Reading.TENSOR) for t in function.reads]
        place = replace(place_of(node), note=FROZEN_NOTE)
        writes = self._emit(function, (DEVICE, *reads), max(len(node.outputs), 1), place)
        self._bind(node, writes, on_host=False)

    def _reads(self, call: Call) -> tuple[int, ...]:
        inputs = zip(call.node.inputs, call.values, call.readings, strict=True)
        return tuple(self._read(*each) for each in inputs)

    def _bind(self, node: gs.Node, writes: tuple[int, ...], *, on_host: bool) -> None:
        for tensor, index in zip(node.outputs, writes, strict=False):
            if tensor.name:
                self.values[tensor.name] = Slot(index, on_host)

    def _fold(self, call: Call) -> None:
        """Compute a node whose inputs are all known."""
        read = [
            value.read(reading) if isinstance(value, Known) else None
            for value, reading in zip(call.values, call.readings, strict=True)
        ]
        try:
            with torch.no_grad():
                result = call.function(*read)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(str(error)) from error
        results = (result,) if call.output_count == 1 else result
        for tensor, value in zip(call.node.outputs, results, strict=False):
            self.values[tensor.name] = self._known(value)

    def _known(self, value: Any) -> Value:
        """A value that was computed while building."""
        if value is None:
            return Slot(ABSENT)
        if isinstance(value, list | np.ndarray):  # a sequence, or strings
            return Slot(self._new_slot(value), on_host=True)
        return Known(to_device(value, torch.device("cpu")))

    def _on_host(self, call: Call) -> None:
        reads = tuple(
            self._new_slot(value.host) if isinstance(value, Known)
            else ABSENT if value is None
            else value.index
            for value in call.values
        )  # fmt: skip
        fast = None if call.op.host is None else partial(call.op.host, **call.attributes)
        function = HostCall(call.function, fast, call.readings, call.output_count)
        writes = self._emit(function, reads, call.output_count, call.place)
        self._bind(call.node, writes, on_host=True)

    def _with_bodies(self, call: Call) -> None:
        graphs = {n: g for n, g in call.node.attrs.items() if isinstance(g, gs.Graph)}
        forms = {name: call.op.body_form(name) for name in graphs}
        states_from = max(form.host_inputs for form in forms.values())
        on_host = host_results(
            graphs,
            forms,
            lambda i: call.values[states_from + i] if states_from + i < len(call.values) else None,
            find_op=self.context.op,
            find_value=self._peek,
        )
        are_states = any(form.carries for form in forms.values())
        reads = [
            self._read(t, v, Reading.HOST if are_states and i - states_from in on_host else r)
            for i, (t, v, r) in enumerate(
                zip(call.node.inputs, call.values, call.readings, strict=True)
            )
        ]
        count = len(reads)
        bodies: dict[str, SubProgram] = {}
        for name, graph in graphs.items():
            inner = Scope(self.context, self)
            program = inner.program(graph, forms[name], on_host)
            start = len(reads)
            reads += [self._handed_in(key) for key in inner.captures]
            promised = tuple(declared(tensor) for tensor in graph.outputs)
            bodies[name] = SubProgram(program, slice(start, len(reads)), promised)
        function = BodyCall(call.function, count, bodies)
        writes = self._emit(function, (DEVICE, *reads), call.output_count, call.place)
        for i, (tensor, index) in enumerate(zip(call.node.outputs, writes, strict=False)):
            if tensor.name:
                self.values[tensor.name] = Slot(index, on_host=i in on_host)

    def _peek(self, name: str) -> Value | None:
        """What a name stands for here or around, without capturing it."""
        if name in self.values or self.outer is None:
            return self.values.get(name)
        return self.outer._peek(name)


def _freeing(steps: list[Step], *, keep: set[int]) -> Iterator[Step]:
    """The steps, each freeing the slots that no later step reads."""
    last = {slot: i for i, step in enumerate(steps) for slot in (*step.reads, *step.writes)}
    written = {slot for step in steps for slot in step.writes} - keep
    for i, step in enumerate(steps):
        used = {*step.reads, *step.writes} & written
        frees = tuple(sorted(slot for slot in used if last[slot] == i))
        yield Step(step.function, step.reads, step.writes, frees, step.place)
