"""From an ONNX graph to a `Program`: every decision that can be made once is made here.

Each value is known when the module is built, or lives on the host (shapes and what is computed from
them), or on the device. Host values reach device operators through explicit conversion steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxqat.bridge import ops  # noqa: F401 - registers the operators
from onnxqat.bridge.fake_quant import FakeQuantize, Rectified
from onnxqat.bridge.host_values import as_ints, as_scalar, simplest, to_device
from onnxqat.bridge.names import torch_name
from onnxqat.bridge.ops.registry import Op, Reading, find, listed_versions, since_version
from onnxqat.bridge.program import ABSENT, BodyCall, HostCall, Place, Program, Step
from onnxqat.bridge.quantizers import Codes, FakeQuantizers, Quantizer
from onnxqat.bridge.trainable import trainable
from onnxqat.core.errors import ModelError, OnnxqatError, UnsupportedOpError
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_nodes
from onnxqat.graph.query import constant_value

_TENSOR_READINGS = {Reading.TENSOR, Reading.WEIGHT, Reading.OPERAND, Reading.MOVED}


@dataclass(frozen=True)
class Known:
    """A value that is known when the module is built: a CPU tensor."""

    value: Tensor

    @property
    def host(self) -> Any:
        """As a host value."""
        return simplest(self.value)


@dataclass(frozen=True)
class Slot:
    """A value that a run of the program keeps in a slot."""

    index: int
    on_host: bool = False


Value = Known | Slot


@dataclass
class Lowered:
    """What a module is made of."""

    program: Program
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    persistent: set[str] = field(default_factory=set)
    order: tuple[str, ...] = ()
    quantizers: dict[str, FakeQuantize] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Codes] = field(default_factory=dict)
    sources: dict[str, gs.Constant] = field(default_factory=dict)
    """Torch name -> the initializer whose value the parameter or buffer holds."""


def lower(graph: Graph) -> Lowered:
    """The program of a graph, and the parameters and buffers that it needs.

    Raises:
        UnsupportedOpError: Lists every operator that has no torch function.
        ModelError: The graph is wrong; the error names the node.
    """
    refuse_unknown(graph)
    context = _Context(graph)
    scope = _Scope(context)
    program = scope.program(graph)
    order = tuple(name for kind, name in scope.captures if kind == _TENSOR)
    return Lowered(
        program,
        parameters=context.parameters,
        buffers=context.buffers,
        persistent=context.persistent,
        order=order,
        quantizers=context.quantizers.modules,
        scales=context.quantizers.scales,
        codes=context.quantizers.codes,
        sources=context.sources,
    )


def refuse_unknown(graph: Graph) -> None:
    """Raise one error for all operators that have no torch function."""
    missing: dict[str, list[str]] = {}
    for node in all_nodes(graph):
        domain = node.domain or ""
        if find(node.op, domain=domain, opset=_opset(graph, domain)) is None:
            missing.setdefault(_describe(node, graph), []).append(node.name or f"<{node.op}>")
    if not missing:
        return
    lines = [f"{what}: {_some(names)}" for what, names in sorted(missing.items())]
    raise UnsupportedOpError(
        "no torch implementation of:\n    " + "\n    ".join(lines),
        fix='add them to onnxqat/bridge/ops with @op("Name", versions=(…,)), '
        "or take these nodes out of the model",
    )


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _describe(node: gs.Node, graph: Graph) -> str:
    domain = node.domain or ""
    since = since_version(node.op, domain=domain, opset=_opset(graph, domain))
    have = ", ".join(map(str, listed_versions(node.op, domain))) or "none"
    name = f"{domain}.{node.op}" if domain not in ("", "ai.onnx") else node.op
    if since is None:
        return f"{name} (ONNX has no such operator at opset {_opset(graph, domain)})"
    return f"{name} since version {since} (have: {have})"


def _opset(graph: gs.Graph, domain: str) -> int:
    if domain in ("", "ai.onnx"):
        return int(graph.opset)
    versions = {entry.domain: entry.version for entry in graph.import_domains or ()}
    return int(versions.get(domain, 1))


class _Context:
    """What all scopes share: the module's tensors under unique torch names."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.trainable = trainable(graph)
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self.persistent: set[str] = set()
        self.sources: dict[str, gs.Constant] = {}
        self._names: dict[int, str] = {}
        self.quantizers = FakeQuantizers(graph, self.parameter)

    def parameter(
        self, constant: gs.Constant, *, value: Tensor | None = None, train: bool = True
    ) -> str:
        """The torch name of the parameter that holds an initializer."""
        name = self._names.get(id(constant))
        if name is None:
            name = self._new_name(constant.name)
            self._names[id(constant)] = name
            data = tensor_of(constant_value(constant)) if value is None else value
            self.parameters[name] = nn.Parameter(data, requires_grad=train)
            self.sources[name] = constant
        return name

    def quantizer(self, entry: Quantizer) -> tuple[FakeQuantize, str | None]:
        """The module of a Q/DQ pair, and the parameter that stands for stored codes."""
        scale = self.parameter(entry.scale, train=False)
        module = self.quantizers.build(entry, scale, self.parameters[scale])
        return module, self.quantizers.weight(entry, module) if entry.holds_codes else None

    def buffer(self, constant: gs.Constant) -> str:
        """The torch name of the buffer that holds an initializer, saved with the state."""
        name = self._names.get(id(constant))
        if name is None:
            name = self.constant(constant.name, tensor_of(constant_value(constant)))
            self._names[id(constant)] = name
            if self.buffers[name].is_floating_point():
                self.persistent.add(name)
                self.sources[name] = constant
        return name

    def constant(self, tensor_name: str, value: Tensor) -> str:
        """The torch name of a buffer with a known value, not saved with the state."""
        name = self._new_name(tensor_name)
        self.buffers[name] = value
        return name

    def _new_name(self, tensor_name: str) -> str:
        """A torch name that is not taken: branches of an If may reuse names."""
        name, count = torch_name(tensor_name), 1
        while name in self.parameters or name in self.buffers:
            count += 1
            name = torch_name(f"{tensor_name}#{count}")
        return name


def tensor_of(array: NDArray[Any] | None) -> Tensor:
    """A tensor with the values of an array, in memory of its own.

    Raises:
        ModelError: torch has no such element type.
    """
    if array is None:
        raise ModelError("a constant has no value")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise ModelError(f"element type {array.dtype} has no counterpart in torch") from error


_TENSOR, _VALUE = "tensor", "value"
_CaptureKey = tuple[str, str]


class _Scope:
    """A graph that is being lowered; subgraphs capture values of the scope around them."""

    def __init__(self, context: _Context, outer: _Scope | None = None) -> None:
        self.context = context
        self.outer = outer
        self.values: dict[str, Value] = {}
        self.captures: dict[_CaptureKey, Slot] = {}
        self.template: list[Any] = [None, None]
        self.steps: list[Step] = []
        self._converted: dict[tuple[Any, ...], int] = {}

    # Slots

    def _new_slot(self, initial: Any = None) -> int:
        self.template.append(initial)
        return len(self.template) - 1

    def _emit(
        self, function: Callable[..., Any], reads: tuple[int, ...], count: int, place: Place
    ) -> tuple[int, ...]:
        writes = tuple(self._new_slot() for _ in range(count))
        self.steps.append(Step(function, reads, writes, (), place))
        return writes

    def capture(self, key: _CaptureKey, *, on_host: bool = False) -> Slot:
        """The slot of something that is handed in when the program runs."""
        if key not in self.captures:
            self.captures[key] = Slot(self._new_slot(), on_host)
        return self.captures[key]

    def find(self, name: str) -> Value | None:
        """The value of a tensor of this scope or one around it."""
        if name in self.values:
            return self.values[name]
        outer = None if self.outer is None else self.outer.find(name)
        if isinstance(outer, Slot):
            return self.capture((_VALUE, name), on_host=outer.on_host)
        return outer

    def resolve(self, key: _CaptureKey) -> int:
        """The slot in this scope of what an inner scope captures."""
        kind, name = key
        if kind == _TENSOR:
            return self.capture(key).index
        value = self.find(name)
        assert isinstance(value, Slot)
        return value.index

    # Values and how they are read

    def value_of(self, tensor: gs.Tensor, node: gs.Node | None = None) -> Value | None:
        """The value of a tensor; None if it is absent."""
        if tensor.is_empty():
            return None
        if isinstance(tensor, gs.Constant):
            if id(tensor) in self.context.trainable:
                return self.capture((_TENSOR, self.context.parameter(tensor)))
            if tensor.name not in self.values:
                self.values[tensor.name] = Known(tensor_of(constant_value(tensor)))
            return self.values[tensor.name]
        value = self.find(tensor.name)
        if value is None:
            raise ModelError(
                "a node reads a tensor that nothing before it makes",
                node=None if node is None else node.name,
                tensor=tensor.name,
                fix="check the model with onnx.checker; nodes must be in topological order",
            )
        return value

    def read(self, tensor: gs.Tensor, value: Value | None, reading: Reading) -> int:
        """The slot of a value as a device operator wants to read it."""
        if value is None:
            return ABSENT
        if isinstance(value, Known):
            return self._read_known(tensor, value, reading)
        convert = _conversion(value, reading)
        if convert is None:
            return value.index
        key = (value, convert)
        if key not in self._converted:
            place = Place(f"{tensor.name} ({convert.__name__})", convert.__name__, (tensor.name,))
            reads = (value.index, 1) if convert is to_device else (value.index,)
            (self._converted[key],) = self._emit(convert, reads, 1, place)
        return self._converted[key]

    def _read_known(self, tensor: gs.Tensor, value: Known, reading: Reading) -> int:
        scalar = reading is Reading.SCALAR and value.value.numel() == 1
        if reading in _TENSOR_READINGS or (reading is Reading.SCALAR and not scalar):
            if isinstance(tensor, gs.Constant):
                return self.capture((_TENSOR, self.context.buffer(tensor))).index
            key = ("tensor", tensor.name)
            if key not in self._converted:
                name = self.context.constant(tensor.name, value.value)
                self._converted[key] = self.capture((_TENSOR, name)).index
            return self._converted[key]
        return self._new_slot(_known_as(value, reading))

    # Nodes

    def program(self, graph: gs.Graph) -> Program:
        """The program of a graph in this scope."""
        inputs = [self._new_slot() for _ in graph.inputs]
        for tensor, index in zip(graph.inputs, inputs, strict=True):
            self.values[tensor.name] = Slot(index)
        for node in graph.nodes:
            self._node(node)
        outputs = [self._output(tensor) for tensor in graph.outputs]
        keep = {*outputs, *inputs, *(slot.index for slot in self.captures.values())}
        return Program(
            list(_freeing(self.steps, keep)),
            template=self.template,
            inputs=inputs,
            captures=[slot.index for slot in self.captures.values()],
            outputs=outputs,
        )

    def _output(self, tensor: gs.Tensor) -> int:
        return self.read(tensor, self.value_of(tensor), Reading.TENSOR)

    def _node(self, node: gs.Node) -> None:
        place = Place(
            node.name,
            node.op,
            tuple(tensor.name for tensor in node.inputs),
            tuple(tensor.name for tensor in node.outputs if tensor.name),
        )
        try:
            if self.outer is not None or not self._quantizer(node, place):
                self._operator(node, place)
        except OnnxqatError as error:
            if error.node is not None:
                raise
            raise ModelError(
                f"{node.op} cannot be built: {error.problem}", node=node.name, fix=error.fix
            ) from error

    def _quantizer(self, node: gs.Node, place: Place) -> bool:
        """Lower a node of a Q/DQ pair; False if the node is in none."""
        if self.context.quantizers.is_inside(node):
            return True
        entry = self.context.quantizers.of(node)
        if entry is None:
            return False
        module, parameter = self.context.quantizer(entry)
        function: Callable[..., Any] = module
        if parameter is not None:
            read = self.capture((_TENSOR, parameter)).index
        else:
            relu = self.context.quantizers.relu_before(entry)
            source = entry.source if relu is None else relu.inputs[0]
            function = module if relu is None else Rectified(module)
            read = self.read(source, self.value_of(source, node), Reading.TENSOR)
        self._bind(node, self._emit(function, (read,), 1, place), on_host=False)
        return True

    def _operator(self, node: gs.Node, place: Place) -> None:
        domain = node.domain or ""
        entry = find(node.op, domain=domain, opset=_opset(self.context.graph, domain))
        assert entry is not None, "refuse_unknown ran"
        values = [self.value_of(tensor, node) for tensor in node.inputs]
        readings = tuple(entry.reading(i) for i in range(len(values)))
        attributes, bodies = self._attributes(node, entry)
        if bodies:
            self._with_bodies(node, entry, values, readings, attributes, bodies, place)
        elif all(v is None or isinstance(v, Known) for v in values):
            self._fold(node, entry, values, readings, attributes)
        elif _on_host(values, readings):
            self._host(node, entry, values, readings, attributes, place)
        else:
            self._device(node, entry, values, readings, attributes, place)

    def _attributes(self, node: gs.Node, entry: Op) -> tuple[dict[str, Any], dict[str, gs.Graph]]:
        known = {p.name for p in entry.attributes}
        unknown = sorted(set(node.attrs) - known)
        if unknown:
            raise ModelError(f"attributes {unknown} are not known")
        bodies = {k: v for k, v in node.attrs.items() if isinstance(v, gs.Graph)}
        plain = {k: _plain(k, v) for k, v in node.attrs.items() if k not in bodies}
        if entry.outputs_parameter is not None:
            plain[entry.outputs_parameter] = _output_count(node)
        return plain, bodies

    def _fold(
        self,
        node: gs.Node,
        entry: Op,
        values: list[Value | None],
        readings: tuple[Reading, ...],
        attributes: dict[str, Any],
    ) -> None:
        """Compute a node whose inputs are all known."""
        read = [
            _known_as(v, r) if isinstance(v, Known) else None
            for v, r in zip(values, readings, strict=True)
        ]
        try:
            with torch.no_grad():
                result = entry.function(*read, **attributes)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(str(error)) from error
        results = result if isinstance(result, tuple) and _output_count(node) > 1 else (result,)
        for tensor, value in zip(node.outputs, results, strict=False):
            self.values[tensor.name] = Known(to_device(value, torch.device("cpu")))

    def _host(
        self,
        node: gs.Node,
        entry: Op,
        values: list[Value | None],
        readings: tuple[Reading, ...],
        attributes: dict[str, Any],
        place: Place,
    ) -> None:
        reads = []
        for value in values:
            if isinstance(value, Known):
                reads.append(self._new_slot(value.host))
            else:
                reads.append(ABSENT if value is None else value.index)
        call = HostCall(entry.function, entry.host, attributes, readings, _output_count(node))
        self._bind(node, self._emit(call, tuple(reads), _output_count(node), place), on_host=True)

    def _device(
        self,
        node: gs.Node,
        entry: Op,
        values: list[Value | None],
        readings: tuple[Reading, ...],
        attributes: dict[str, Any],
        place: Place,
    ) -> None:
        reads = tuple(
            self.read(t, v, r) for t, v, r in zip(node.inputs, values, readings, strict=True)
        )
        function = partial(entry.function, **attributes) if attributes else entry.function
        writes = self._emit(function, reads, _output_count(node), place)
        self._bind(node, writes, on_host=entry.returns_ints)

    def _bind(self, node: gs.Node, writes: tuple[int, ...], *, on_host: bool) -> None:
        for tensor, index in zip(node.outputs, writes, strict=False):
            if tensor.name:
                self.values[tensor.name] = Slot(index, on_host)

    def _with_bodies(
        self,
        node: gs.Node,
        entry: Op,
        values: list[Value | None],
        readings: tuple[Reading, ...],
        attributes: dict[str, Any],
        bodies: dict[str, gs.Graph],
        place: Place,
    ) -> None:
        reads = [self.read(t, v, r) for t, v, r in zip(node.inputs, values, readings, strict=True)]
        count = len(reads)
        programs: dict[str, tuple[Program, slice]] = {}
        for name, body in bodies.items():
            inner = _Scope(self.context, self)
            program = inner.program(body)
            start = len(reads)
            reads += [self.resolve(key) for key in inner.captures]
            programs[name] = (program, slice(start, len(reads)))
        call = BodyCall(partial(entry.function, **attributes), count, programs)
        self._bind(node, self._emit(call, (1, *reads), _output_count(node), place), on_host=False)


def _output_count(node: gs.Node) -> int:
    """Outputs up to the last that has a name."""
    named = [i for i, tensor in enumerate(node.outputs) if tensor.name]
    return named[-1] + 1 if named else 1


def _conversion(value: Slot, reading: Reading) -> Callable[..., Any] | None:
    if reading is Reading.INTS or reading is Reading.FLOATS:
        return as_ints
    if not value.on_host:
        return None
    return as_scalar if reading is Reading.SCALAR else to_device


def _known_as(value: Known, reading: Reading) -> Any:
    """A known value as the host or a build-time call reads it."""
    if reading in (Reading.INTS, Reading.FLOATS):
        return as_ints(value.value)
    return as_scalar(value.value) if reading is Reading.SCALAR else value.value


def _on_host(values: list[Value | None], readings: tuple[Reading, ...]) -> bool:
    """Whether an operator works on shapes only: no device data and no float array among it."""
    for value, reading in zip(values, readings, strict=True):
        if reading in (Reading.INTS, Reading.FLOATS):
            continue
        if isinstance(value, Slot) and not value.on_host:
            return False
        if isinstance(value, Known) and value.value.is_floating_point() and value.value.ndim:
            return False
    return True


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return constant_value(value)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int | float | str):
        return value
    raise ModelError(f"attribute '{name}' is of a kind that is not implemented")


def _freeing(steps: list[Step], keep: set[int]) -> Iterator[Step]:
    """The steps, each freeing the slots that no later step reads."""
    last: dict[int, int] = {}
    for i, step in enumerate(steps):
        for slot in (*step.writes, *step.reads):
            last[slot] = i
    written = {slot for step in steps for slot in step.writes} - keep
    for i, step in enumerate(steps):
        used = {*step.writes, *step.reads} & written
        frees = tuple(sorted(slot for slot in used if last[slot] == i))
        yield Step(step.function, step.reads, step.writes, frees, step.place)
