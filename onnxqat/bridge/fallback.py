"""Nodes that torch has no function for, computed by ONNX Runtime inside the torch module.

They are frozen: their outputs require no gradient, so nothing before them learns through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph import Graph, to_model
from onnxqat.graph.graph import all_graphs, carried, carry, own_tensors, subgraphs

if TYPE_CHECKING:
    import onnxruntime as ort

Fallback = Literal["onnxruntime"]
"""Who computes what torch has no function for."""

Types = tuple[onnx.TypeProto, ...]
HALF_TYPES = (torch.float16, torch.bfloat16)
_UNREGISTERED = ("is not a registered function/op", "No Op registered for")
"""What ONNX Runtime says of an operator that it does not know at all."""
_ONLY_ERRORS = 3
"""ONNX Runtime's log level."""


def check_fallback(fallback: str | None) -> None:
    """Do nothing if the fallback can be used.

    Raises:
        ConfigError: There is no such fallback, or it is not installed.
    """
    if fallback not in (None, "onnxruntime"):
        raise ConfigError(f"there is no fallback '{fallback}'", fix="use 'onnxruntime', or none")
    if fallback is not None and find_spec("onnxruntime") is None:
        raise ConfigError(
            "the package onnxruntime is not installed", fix="pip install 'onnxqat[cpu]'"
        )


def captured(node: gs.Node) -> tuple[gs.Variable, ...]:
    """The variables that a node's subgraphs read of the graphs around the node, each once."""
    inner = [graph for body in subgraphs(node) for graph in all_graphs(body)]
    made = {id(t) for g in inner for t in (*g.inputs, *(o for n in g.nodes for o in n.outputs))}
    read = (tensor for graph in inner for tensor in own_tensors(graph))
    found = {id(t): t for t in read if id(t) not in made and isinstance(t, gs.Variable)}
    return tuple(found.values())


def known_input(name: str, value: Tensor) -> gs.Constant:
    """An input of a frozen node that is known when the module is built.

    Raises:
        ModelError: Its type has no counterpart in numpy.
    """
    return gs.Constant(name, _array(value))


class FrozenNode:
    """Calls ONNX Runtime with one node; it has no state, so copies of a module share it.

    A session is opened for each combination of input types, at the first call that has it.
    """

    def __init__(self, node: gs.Node, graph: Graph, known: Mapping[str, gs.Constant]) -> None:
        """Take a node of a graph.

        Args:
            node: It is copied.
            graph: For its opsets and local functions.
            known: The inputs that are known now, by name; they become initializers.
        """
        inputs = {t.name: t for t in (*node.inputs, *captured(node)) if not t.is_empty()}
        self.reads = tuple(tensor for name, tensor in inputs.items() if name not in known)
        """What a call takes, in this order."""
        self.declared = {tensor.name: _numpy_type(tensor) for tensor in self.reads}
        self._outputs = tuple(tensor.name for tensor in node.outputs)
        self._model = _model_of(node, graph, known, [tensor.name for tensor in self.reads])
        self._sessions: dict[bytes, ort.InferenceSession] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenNode:
        return self

    def why_refused(self) -> str | None:
        """What ONNX Runtime objects to, as far as that can be known before a call."""
        are_known = all(dtype is not None for dtype in self.declared.values())
        types = [_tensor_type(dtype or np.dtype(np.float32)) for dtype in self.declared.values()]
        try:
            self._session(tuple(types))
        except ModelError as error:
            if are_known or any(text in error.problem for text in _UNREGISTERED):
                return error.problem
        return None

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def __call__(self, device: torch.device, *values: Any) -> Any:
        """The node's outputs on the device; several come as a tuple, None where one is unnamed.

        Waits for the device that the values lie on.

        Raises:
            ModelError: ONNX Runtime refuses the node, or a type has no counterpart in numpy.
        """
        arrays = {
            tensor.name: _to_numpy(value, self.declared[tensor.name])
            for tensor, value in zip(self.reads, values, strict=True)
        }
        session = self._session(tuple(_type_of(array) for array in arrays.values()))
        results = iter(session.run(None, arrays))
        outputs = tuple(_to_torch(next(results), device) if n else None for n in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _session(self, types: Types) -> ort.InferenceSession:
        key = b"|".join(kind.SerializeToString(deterministic=True) for kind in types)
        if key not in self._sessions:
            self._sessions[key] = _open(self._model, types)
        return self._sessions[key]


def _numpy_type(tensor: gs.Tensor) -> np.dtype[Any] | None:
    """The declared element type of a tensor; None for sequences and where nothing is declared."""
    is_tensor = tensor.dtype is not None and getattr(tensor, "type", None) != "sequence_type"
    return np.dtype(tensor.dtype) if is_tensor else None


def _model_of(
    node: gs.Node, graph: Graph, known: Mapping[str, gs.Constant], inputs: Iterable[str]
) -> onnx.ModelProto:
    """The node as a model, its inputs without types."""
    variables = {name: gs.Variable(name) for name in inputs}
    outputs = [gs.Variable(tensor.name) for tensor in node.outputs]
    copy = gs.Node(
        node.op,
        node.name,
        dict(node.attrs),
        inputs=[known.get(t.name) or variables.get(t.name) or gs.Variable("") for t in node.inputs],
        outputs=outputs,
        domain=node.domain,
    )
    if carried(node) is not None:
        carry(copy, carried(node))
    alone = Graph(
        nodes=[copy],
        inputs=list(variables.values()),
        outputs=[tensor for tensor in outputs if tensor.name],
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
        name="frozen",
    )
    alone.shell = graph.shell
    alone.held = [constant for name, constant in known.items() if name not in _names(node.inputs)]
    return to_model(alone)


def _names(tensors: Iterable[gs.Tensor]) -> set[str]:
    return {tensor.name for tensor in tensors}


def _open(model: onnx.ModelProto, types: Types) -> ort.InferenceSession:
    """A session for these input types.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort

    for formal, kind in zip(model.graph.input, types, strict=True):
        formal.type.CopyFrom(kind)
    options = ort.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS + 1
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses it: {' '.join(str(error).split())}") from error


# Values ------------------------------------------------------------------------------------------


def _to_numpy(value: Any, declared: np.dtype[Any] | None) -> Any:
    """A value as ONNX Runtime takes it: an array, or a list of arrays for a sequence."""
    if isinstance(value, list):
        return [_to_numpy(item, None) for item in value]
    if not isinstance(value, Tensor):
        return value  # strings, which only frozen nodes make and read
    tensor = value.detach().cpu()
    if tensor.dtype in HALF_TYPES and tensor.dtype != _torch_type(declared, value):
        tensor = tensor.float()  # autocast made it smaller than the file says
    return _array(tensor)


def _array(tensor: Tensor) -> NDArray[Any]:
    try:
        array: NDArray[Any] = tensor.numpy()
    except TypeError as error:
        raise ModelError(f"{tensor.dtype} cannot be handed to ONNX Runtime") from error
    return array


def _torch_type(declared: np.dtype[Any] | None, value: Tensor) -> torch.dtype:
    """The float type that a value should have."""
    if declared is None:
        is_cast = torch.is_autocast_enabled(value.device.type)
        return torch.float32 if is_cast else value.dtype
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(declared.name, torch.float32)


def _to_torch(array: Any, device: torch.device) -> Any:
    if isinstance(array, list):
        return [_to_torch(item, device) for item in array]
    if not isinstance(array, np.ndarray) or array.dtype.kind in "OSU":
        return array
    return torch.from_numpy(array).to(device, non_blocking=True)


def _tensor_type(dtype: np.dtype[Any]) -> onnx.TypeProto:
    is_text = dtype.kind in "OSU"
    kind = onnx.TensorProto.STRING if is_text else helper.np_dtype_to_tensor_dtype(dtype)
    return helper.make_tensor_type_proto(kind, None)


def _type_of(value: NDArray[Any] | Sequence[NDArray[Any]]) -> onnx.TypeProto:
    if isinstance(value, np.ndarray):
        return _tensor_type(value.dtype)
    dtype = value[0].dtype if value else np.dtype(np.float32)
    return helper.make_sequence_type_proto(_tensor_type(dtype))


# Gradients ---------------------------------------------------------------------------------------


def learning_nodes(graph: gs.Graph, frozen: Iterable[gs.Node]) -> frozenset[int]:
    """The ids of the nodes that a gradient of some output reaches: frozen ones stop it."""
    stopping = {id(node) for node in frozen}
    found: set[int] = set()
    waiting = list(graph.outputs)
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) not in found and id(node) not in stopping:
                found.add(id(node))
                waiting += _sources_of(node)
    return frozenset(found)


def _sources_of(node: gs.Node) -> Iterator[gs.Tensor]:
    """What a node's results are made of: its inputs, and the results of its subgraphs."""
    yield from node.inputs
    for body in subgraphs(node):
        yield from body.outputs
