"""The graph that every stage takes and returns: graphsurgeon's, with nothing of the file lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs

_CARRIED = "_carried"
_OWN_DOMAIN = (None, "", "ai.onnx")


class Graph(gs.Graph):  # type: ignore[misc]
    """A `gs.Graph` that keeps what graphsurgeon drops between import and export.

    Nodes and tensors are plain graphsurgeon objects, so everything that works on a `gs.Graph` works
    here. The arrays of constants may be shared between copies: they are read, never written.

    Attributes:
        shell: The model without its graph: domain, model version, doc string, functions, training
            info. Its fields are the file's; read only. Empty in a subgraph.
        graph_shell: The graph without nodes and tensors: quantization annotations, metadata, and
            the value infos that describe no variable. Read only.
        metadata: The model's metadata_props.
        held: Initializers that lie in this graph though none of its own nodes reads them: only
            a subgraph does, or nothing.
        initializer_inputs: Graph inputs that only restate an initializer (older exporters; before
            IR version 4 every initializer had to be one).
        initializer_order: Names of the file's initializers as they lay there.
        has_external_data: Whether the file kept its weights in other files.
    """

    def __init__(self, **fields: Any) -> None:
        """Take the fields of `gs.Graph`; the carried ones start empty."""
        super().__init__(**fields)
        self.shell = onnx.ModelProto()
        self.graph_shell = onnx.GraphProto()
        self.metadata: dict[str, str] = {}
        self.held: list[gs.Constant] = []
        self.initializer_inputs: tuple[onnx.ValueInfoProto, ...] = ()
        self.initializer_order: tuple[str, ...] = ()
        self.has_external_data = False

    def copy(self, tensor_map: dict[str, gs.Tensor] | None = None) -> Graph:
        """A copy with its own nodes and tensors, sharing the arrays of constants.

        Args:
            tensor_map: For a subgraph copied by itself, the copies of outer tensors, by name.
        """
        outer = {} if tensor_map is None else tensor_map
        return _copy_graph(self, _Copies({}, outer))


class _Copies:
    """Copies of tensors, by identity: a subgraph reads the very tensors of its outer graph."""

    def __init__(self, done: dict[int, gs.Tensor], outer: dict[str, gs.Tensor]) -> None:
        self.done = done
        self.outer = outer

    def of(self, tensor: gs.Tensor) -> gs.Tensor:
        """The copy of a tensor, made on first use."""
        if tensor.is_empty():
            return gs.Variable.empty()
        copy = self.done.get(id(tensor))
        if copy is None:
            copy = self.outer.get(tensor.name) or copy_tensor(tensor)
            self.done[id(tensor)] = copy
        return copy


def copy_tensor(tensor: gs.Tensor) -> gs.Tensor:
    """A tensor like this one, connected to nothing; constants share their array."""
    if isinstance(tensor, gs.Constant):
        copy = gs.Constant(tensor.name, tensor._values)  # .values would load lazy ones
    else:
        shape = None if tensor.shape is None else list(tensor.shape)
        copy = gs.Variable(tensor.name, tensor.dtype, shape, tensor.type)
    return _carry_over(tensor, copy)


def _copy_graph(graph: gs.Graph, copies: _Copies) -> Graph:
    copy = Graph(
        nodes=[_copy_node(node, copies) for node in graph.nodes],
        inputs=[copies.of(tensor) for tensor in graph.inputs],
        outputs=[copies.of(tensor) for tensor in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=None if graph.import_domains is None else list(graph.import_domains),
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        functions=graph.functions,
        ir_version=graph.ir_version,
    )
    if isinstance(graph, Graph):
        copy.shell, copy.graph_shell = graph.shell, graph.graph_shell
        copy.metadata = dict(graph.metadata)
        copy.held = [copies.of(tensor) for tensor in graph.held]
        copy.initializer_inputs = graph.initializer_inputs
        copy.initializer_order = graph.initializer_order
        copy.has_external_data = graph.has_external_data
    return copy


def _copy_node(node: gs.Node, copies: _Copies) -> gs.Node:
    copy = gs.Node(
        node.op,
        node.name,
        {name: _copy_value(value, copies) for name, value in node.attrs.items()},
        inputs=[copies.of(tensor) for tensor in node.inputs],
        outputs=[copies.of(tensor) for tensor in node.outputs],
        domain=node.domain,
    )
    return _carry_over(node, copy)


def _copy_value(value: Any, copies: _Copies) -> Any:
    if isinstance(value, gs.Graph):
        return _copy_graph(value, copies)
    return list(value) if isinstance(value, list) else value


def _carry_over(source: Any, target: Any) -> Any:
    proto = carried(source)
    if proto is not None:
        carry(target, proto)
    return target


def carry(item: gs.Node | gs.Tensor, proto: Any) -> None:
    """Attach the proto that a node or tensor came from, for the fields graphsurgeon has no place
    for. It is never changed afterwards.
    """
    item.__dict__[_CARRIED] = proto


def carried(item: gs.Node | gs.Tensor) -> Any:
    """The proto that a node or tensor came from; None if it did not come from a file."""
    return item.__dict__.get(_CARRIED)


def is_onnx(node: gs.Node) -> bool:
    """Whether a node is one of ONNX's own operators, not one of another domain."""
    return node.domain in _OWN_DOMAIN


def subgraphs(node: gs.Node) -> Iterator[gs.Graph]:
    """The graphs in a node's attributes: the branches of If, the body of Loop and Scan."""
    return (value for value in node.attrs.values() if isinstance(value, gs.Graph))


def all_graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and every graph nested in it, outer before inner."""
    yield graph
    for node in graph.nodes:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """Every node of the graph and of the graphs nested in it."""
    return (node for inner in all_graphs(graph) for node in inner.nodes)


def all_tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Every tensor of the graph and its subgraphs once, in order of first use."""
    seen: set[int] = set()
    for inner in all_graphs(graph):
        for tensor in tensors_of(inner):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def tensors_of(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The tensors that a graph itself names or holds; a tensor may come twice."""
    yield from own_tensors(graph)
    if isinstance(graph, Graph):
        yield from graph.held


def own_tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The tensors that a graph's own inputs, nodes and outputs name; a tensor may come twice."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from (tensor for tensor in (*node.inputs, *node.outputs) if not tensor.is_empty())
    yield from graph.outputs
