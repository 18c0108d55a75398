"""From graphsurgeon objects back to ONNX protos, with everything the importer kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto, ValueInfoProto, defs, helper, numpy_helper
from onnx_graphsurgeon.exporters import onnx_exporter as gs_exporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxqat.core.errors import ModelError
from onnxqat.graph.graph import Graph, all_nodes, carried, is_onnx, tensors_of
from onnxqat.graph.importer import type_of

WriteTensor = Callable[[gs.Constant], TensorProto | None]
"""The proto of an initializer; None leaves it out of the file."""


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """The ONNX model of a graph, weights included; shares nothing with the graph."""
    return export_model(graph, tensor_proto)


def export_model(graph: gs.Graph, write: WriteTensor) -> onnx.ModelProto:
    """The ONNX model of a graph, with the main graph's initializers as `write` makes them."""
    model = onnx.ModelProto()
    if isinstance(graph, Graph):
        model.CopyFrom(graph.shell)
        for key, value in graph.metadata.items():
            model.metadata_props.add(key=key, value=value)
    model.functions.extend(_function(function) for function in graph.functions)
    model.opset_import.extend(_opset_imports(graph))
    model.ir_version = graph.ir_version or helper.find_min_ir_version_for(model.opset_import)
    _set(model, producer_name=graph.producer_name, producer_version=graph.producer_version)
    _Export(write, frozenset()).fill(model.graph, graph)
    return model


def _set(proto: Any, **fields: str | None) -> None:
    """Set text fields that say something: an empty one is left out, as exporters do."""
    for name, value in fields.items():
        if value:
            setattr(proto, name, value)


def tensor_proto(constant: gs.Constant) -> TensorProto:
    """The proto of a constant, values included."""
    values = constant._values
    if isinstance(values, LazyValues):  # a graph that graphsurgeon itself imported
        proto = TensorProto()
        proto.CopyFrom(values.tensor)
    else:
        proto = numpy_helper.from_array(np.asarray(values))
    proto.name = constant.name
    shell = carried(constant)
    if shell is not None:
        _set(proto, doc_string=shell.doc_string)
        proto.metadata_props.extend(shell.metadata_props)
    return proto


def constants_of(graph: gs.Graph) -> list[gs.Constant]:
    """The constants that a graph names or holds: the file's in its order, then by first use.

    Raises:
        ModelError: Two different constants have one name.
    """
    found: dict[str, gs.Constant] = {}
    for tensor in tensors_of(graph):
        if isinstance(tensor, gs.Constant):
            same = found.setdefault(tensor.name, tensor)
            if same is not tensor and same._values is not tensor._values:
                raise ModelError("two different initializers have one name", tensor=tensor.name)
    kept = graph.initializer_order if isinstance(graph, Graph) else ()
    order = {name: i for i, name in enumerate(kept)}
    return sorted(found.values(), key=lambda constant: order.get(constant.name, len(order)))


def _function(function: gs.Function) -> onnx.FunctionProto:
    """graphsurgeon's export appends to the function's own list of domains: give it another."""
    copy = function.copy()
    copy.import_domains = list(function.import_domains or ())
    proto: onnx.FunctionProto = gs_exporter.OnnxExporter.export_function(copy)
    return proto


def _opset_imports(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """The opset of each domain: the graph's `opset` for ONNX's own, 1 for one not seen before."""
    versions = {entry.domain: entry.version for entry in graph.import_domains or ()}
    own = "ai.onnx" if "ai.onnx" in versions else ""
    for node in all_nodes(graph):
        versions.setdefault(own if is_onnx(node) else node.domain, 1)
    if own in versions:
        versions[own] = graph.opset
    return [helper.make_opsetid(domain, version) for domain, version in versions.items()]


@dataclass(frozen=True)
class _Export:
    """How to write one graph, and the constants that the graphs around it have written."""

    write: WriteTensor
    outer: frozenset[int]

    def fill(self, proto: onnx.GraphProto, graph: gs.Graph) -> None:
        """Write a graph into an empty proto."""
        if isinstance(graph, Graph):
            proto.CopyFrom(graph.graph_shell)
        _set(proto, name=graph.name, doc_string=graph.doc_string)
        constants = [c for c in constants_of(graph) if id(c) not in self.outer]
        inner = _Export(tensor_proto, self.outer | {id(constant) for constant in constants})
        for node in graph.nodes:
            inner.fill_node(proto.node.add(), node)
        proto.input.extend(_value_info(tensor) for tensor in graph.inputs)
        if isinstance(graph, Graph):
            proto.input.extend(graph.initializer_inputs)
        proto.output.extend(_value_info(tensor) for tensor in graph.outputs)
        self._fill_initializers(proto, constants)
        proto.value_info.extend(_value_info(tensor) for tensor in _inner_variables(graph))

    def _fill_initializers(self, proto: onnx.GraphProto, constants: Iterable[gs.Constant]) -> None:
        for constant in constants:
            if isinstance(constant._values, SparseValues):
                proto.sparse_initializer.append(constant._values.tensor)
                continue
            tensor = self.write(constant)
            if tensor is not None:
                proto.initializer.append(tensor)

    def fill_node(self, proto: onnx.NodeProto, node: gs.Node) -> None:
        """Write a node into an empty proto."""
        shell = carried(node) or onnx.NodeProto()
        proto.CopyFrom(shell)
        del proto.attribute[:]
        _set(proto, op_type=node.op, name=node.name, domain=node.domain)
        proto.input.extend(tensor.name for tensor in node.inputs)
        proto.output.extend(tensor.name for tensor in node.outputs)
        kept = {entry.name: entry for entry in shell.attribute}
        for name, value in node.attrs.items():
            entry = proto.attribute.add()
            if isinstance(value, gs.Graph):
                entry.name, entry.type = name, AttributeProto.GRAPH
                self.fill(entry.g, value)
            else:
                entry.CopyFrom(_attribute(node.op, name, value, kept=kept.get(name)))
            _set(entry, doc_string=kept[name].doc_string if name in kept else None)


def _attribute(op: str, name: str, value: Any, *, kept: AttributeProto | None) -> AttributeProto:
    if isinstance(value, AttributeProto):
        return value
    if isinstance(value, gs.Node.AttributeRef):
        entry: AttributeProto = gs_exporter.OnnxExporter.export_attributes({name: value})[0]
        return entry
    if isinstance(value, gs.Constant):
        value = tensor_proto(value)
    elif isinstance(value, type | np.dtype):
        value = gs_exporter.dtype_to_onnx(value)
    if isinstance(value, list | tuple) and not value:
        return AttributeProto(name=name, type=_type_of_empty(op, name, kept))
    return helper.make_attribute(name, value)


def _type_of_empty(op: str, name: str, kept: AttributeProto | None) -> Any:
    """An empty list says nothing about its type: the file or the operator's schema does."""
    if kept is not None:
        return kept.type
    if defs.has(op) and name in defs.get_schema(op).attributes:
        kind = str(defs.get_schema(op).attributes[name].type)  # "AttrType.INTS"
        return AttributeProto.AttributeType.Value(kind.rpartition(".")[2])
    return AttributeProto.INTS


def _inner_variables(graph: gs.Graph) -> Iterator[gs.Variable]:
    """Variables that nodes of this graph produce, whose type is known, except its outputs."""
    outputs = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        for tensor in node.outputs:
            known = tensor.name and (tensor.dtype is not None or carried(tensor) is not None)
            if known and tensor.name not in outputs:
                yield tensor


def _value_info(tensor: gs.Tensor) -> ValueInfoProto:
    """The value info of a tensor: the file's own where its type did not change."""
    source = carried(tensor)
    if not isinstance(source, ValueInfoProto):
        return _new_value_info(tensor)
    proto = ValueInfoProto()
    proto.CopyFrom(source)
    proto.name = tensor.name
    if isinstance(tensor, gs.Variable) and _changed(tensor, source):
        proto.type.CopyFrom(_new_value_info(tensor).type)
    return proto


def _changed(tensor: gs.Variable, source: ValueInfoProto) -> bool:
    return type_of(source.type) != (tensor.dtype, tensor.shape, tensor.type)


def _new_value_info(tensor: gs.Tensor) -> ValueInfoProto:
    if tensor.dtype is None:
        return helper.make_empty_tensor_value_info(tensor.name)
    make = _MAKE_INFO.get(getattr(tensor, "type", ""), helper.make_tensor_value_info)
    info: ValueInfoProto = make(tensor.name, gs_exporter.dtype_to_onnx(tensor.dtype), tensor.shape)
    return info


_MAKE_INFO: dict[str, Callable[..., ValueInfoProto]] = {
    "sequence_type": helper.make_tensor_sequence_value_info,
    "sparse_tensor_type": helper.make_sparse_tensor_value_info,
}
