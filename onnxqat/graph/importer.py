"""From ONNX protos to graphsurgeon objects, keeping beside each what graphsurgeon has no place for.

graphsurgeon's own importer skips attribute kinds, unused initializers, metadata, doc strings and
dimension denotations, and keeps the whole file's proto alive for the sake of lazy constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxqat.core.errors import ModelError
from onnxqat.graph.graph import Graph, carry, own_tensors

ANY_OPSET = 13
"""For a model that imports no opset of ONNX's own: it has no node that would care."""

ReadTensor = Callable[[TensorProto], NDArray[Any]]


def read_inline(tensor: TensorProto) -> NDArray[Any]:
    """The array of a tensor that the proto itself holds, read-only.

    Raises:
        ModelError: Its bytes do not fit its shape, or lie in another file.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(
            "the values of an initializer lie in another file, and a model in memory has no folder",
            tensor=tensor.name,
            fix="pass the model's path, or load it with onnx.load(path)",
        )
    try:
        array: NDArray[Any] = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the values of a tensor do not fit its type and shape {list(tensor.dims)}: {error}",
            tensor=tensor.name,
            fix="export the model again: the file is damaged",
        ) from error
    array.flags.writeable = False
    return array


def import_model(model: onnx.ModelProto, read: ReadTensor = read_inline) -> Graph:
    """The graph of a model; the proto is not kept and not changed.

    Args:
        model: A model that passes the ONNX checker.
        read: How to get a tensor's array.
    """
    domains = [copy_proto(entry) for entry in model.opset_import]
    own = [entry.version for entry in domains if entry.domain in ("", "ai.onnx")]
    opset = own[0] if own else ANY_OPSET
    context = _Context(read, {"opset": opset, "import_domains": domains})
    graph = context.graph(model.graph, _Scope())
    graph.shell = copy_without(model, {"graph", "metadata_props", "opset_import"})
    graph.metadata = {entry.key: entry.value for entry in model.metadata_props}
    graph.ir_version = model.ir_version
    graph.producer_name, graph.producer_version = model.producer_name, model.producer_version
    graph.has_external_data = any(
        tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer
    )
    return graph


@dataclass
class _Scope:
    """The tensors of a graph by name, and those of the graphs around it."""

    outer: _Scope | None = None
    tensors: dict[str, gs.Tensor] = field(default_factory=dict)

    def find(self, name: str) -> gs.Tensor | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.tensors:
                return scope.tensors[name]
            scope = scope.outer
        return None

    def define(self, name: str) -> gs.Tensor:
        """The tensor of this graph itself with this name."""
        if not name:
            return gs.Variable.empty()
        return self.tensors.setdefault(name, gs.Variable(name))

    def use(self, name: str) -> gs.Tensor:
        """The tensor that a node of this graph reads."""
        return (self.find(name) if name else None) or self.define(name)


@dataclass(frozen=True)
class _Context:
    read: ReadTensor
    fields: dict[str, Any]

    def graph(self, proto: onnx.GraphProto, scope: _Scope) -> Graph:
        constants = self._initializers(proto, scope)
        restated = tuple(copy_proto(entry) for entry in proto.input if entry.name in constants)
        inputs = [_described(entry, scope) for entry in proto.input if entry.name not in constants]
        outputs = [_described(entry, scope) for entry in proto.output]
        for node in proto.node:
            for name in node.output:
                scope.define(name)
        loose = [entry for entry in proto.value_info if not _describe(entry, scope)]
        graph = Graph(
            nodes=[self._node(node, scope) for node in proto.node],
            inputs=inputs,
            outputs=outputs,
            name=proto.name,
            doc_string=proto.doc_string,
            **self.fields,
        )
        graph.graph_shell = copy_without(proto, _GRAPH_FIELDS)
        graph.graph_shell.value_info.extend(loose)
        graph.initializer_inputs = restated
        graph.initializer_order = tuple(constants)
        read = {id(tensor) for tensor in own_tensors(graph)}
        graph.held = [constant for constant in constants.values() if id(constant) not in read]
        return graph

    def _initializers(self, proto: onnx.GraphProto, scope: _Scope) -> dict[str, gs.Constant]:
        dense = [self._constant(tensor) for tensor in proto.initializer]
        sparse = [
            gs.Constant(tensor.values.name, SparseValues(copy_proto(tensor)))
            for tensor in proto.sparse_initializer
        ]
        constants = {constant.name: constant for constant in (*dense, *sparse)}
        scope.tensors.update(constants)
        return constants

    def _constant(self, tensor: TensorProto) -> gs.Constant:
        constant = gs.Constant(tensor.name, self.read(tensor))
        if tensor.doc_string or tensor.metadata_props:
            carry(constant, copy_without(tensor, _TENSOR_DATA))
        return constant

    def _node(self, proto: onnx.NodeProto, scope: _Scope) -> gs.Node:
        node = gs.Node(
            proto.op_type,
            proto.name,
            {entry.name: self._attribute(entry, scope) for entry in proto.attribute},
            inputs=[scope.use(name) for name in proto.input],
            outputs=[scope.define(name) for name in proto.output],
            domain=proto.domain or None,
        )
        carry(node, _node_shell(proto))
        return node

    def _attribute(self, entry: AttributeProto, scope: _Scope) -> Any:
        if entry.type == AttributeProto.GRAPHS:
            raise ModelError(
                f"attribute '{entry.name}' is a list of graphs, which no ONNX operator has",
                fix="remove the node, or use one attribute a graph",
            )
        if entry.ref_attr_name:
            return copy_proto(entry)
        if entry.type == AttributeProto.TENSOR:
            return self._constant(entry.t)
        if entry.type == AttributeProto.GRAPH:
            return self.graph(entry.g, _Scope(scope))
        return _plain_value(entry)


def _plain_value(entry: AttributeProto) -> Any:
    """A Python value; for kinds that have none, the proto itself, which export writes back."""
    read = _PLAIN.get(entry.type)
    if read is None:
        return copy_proto(entry)
    try:
        return read(entry)
    except UnicodeDecodeError:  # bytes are legal in a STRING attribute of a custom operator
        return copy_proto(entry)


_PLAIN: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.FLOAT: lambda entry: entry.f,
    AttributeProto.INT: lambda entry: entry.i,
    AttributeProto.STRING: lambda entry: entry.s.decode(),
    AttributeProto.FLOATS: lambda entry: list(entry.floats),
    AttributeProto.INTS: lambda entry: list(entry.ints),
    AttributeProto.STRINGS: lambda entry: [value.decode() for value in entry.strings],
}

_GRAPH_FIELDS = {
    "node", "name", "doc_string", "input", "output", "initializer", "sparse_initializer",
    "value_info",
}  # fmt: skip
_TENSOR_DATA = {
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
    "string_data", "external_data", "data_location", "segment",
}  # fmt: skip


def _described(entry: ValueInfoProto, scope: _Scope) -> gs.Tensor:
    tensor = scope.define(entry.name)
    _describe(entry, scope)
    return tensor


def _describe(entry: ValueInfoProto, scope: _Scope) -> bool:
    """Give a variable its type and shape; False if the name is no variable of this graph."""
    tensor = scope.tensors.get(entry.name)
    if not isinstance(tensor, gs.Variable):
        return False
    if not entry.HasField("type") or (tensor.dtype is not None and tensor.shape is not None):
        return True
    tensor.dtype, tensor.shape, tensor.type = type_of(entry.type)
    carry(tensor, copy_proto(entry))
    return True


def type_of(proto: onnx.TypeProto) -> tuple[Any, list[int | str | None] | None, str]:
    """The dtype, shape and kind that graphsurgeon keeps of an ONNX type."""
    kind = proto.WhichOneof("value") or "tensor_type"
    inner = proto
    while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
        inner = getattr(inner, inner.WhichOneof("value")).elem_type
    if inner.WhichOneof("value") not in ("tensor_type", "sparse_tensor_type"):
        return None, None, kind
    tensor = getattr(inner, inner.WhichOneof("value"))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    shape = [_dimension(dim) for dim in tensor.shape.dim] if tensor.HasField("shape") else None
    return dtype, shape, kind


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    value: int | str | None = getattr(dim, dim.WhichOneof("value") or "", None)
    return value if value != "" else None


def _node_shell(proto: onnx.NodeProto) -> onnx.NodeProto:
    """The fields of a node that `gs.Node` lacks, and each attribute's type and doc string."""
    shell = copy_without(proto, {"input", "output", "name", "op_type", "domain", "attribute"})
    for entry in proto.attribute:
        shell.attribute.add(name=entry.name, type=entry.type, doc_string=entry.doc_string)
    node: onnx.NodeProto = shell
    return node


def copy_proto(message: Any) -> Any:
    """A message of its own: a part taken out of a proto keeps the whole proto in memory."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def copy_without(message: Any, skipped: Iterable[str]) -> Any:
    """A copy of a message without some of its fields, which are never copied on the way."""
    copy = type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.name in skipped:
            continue
        if isinstance(value, Message):
            getattr(copy, descriptor.name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(copy, descriptor.name).extend(value)
        else:
            setattr(copy, descriptor.name, value)
    return copy
