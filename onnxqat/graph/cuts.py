"""Where a graph is cut in two at one tensor: the outputs of residual blocks, other bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import onnx_graphsurgeon as gs

from onnxqat.graph.graph import Graph, is_onnx, own_tensors, subgraphs
from onnxqat.graph.query import is_output, producer

MIXING = frozenset({"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
"""Operators behind which a graph's inputs have become activations."""
METADATA = frozenset({"Shape", "Size"})
"""Operators whose result tells how large a tensor is, and nothing of what is in it."""
CODES = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})


def cuts(graph: gs.Graph) -> tuple[str, ...]:
    """The tensors that every path from the first weights to the outputs passes, in node order.

    At a cut no other activation is alive: what lies before computes this one tensor, and what lies
    behind needs nothing else of it. It may still need the graph's inputs as they are, and what is
    computed of them without weights: masks, shapes, a picture that the result is added to. Such
    tensors are no activations here, as quantized weights change nothing about them.

    Not among the cuts: the graph's outputs, what leads to none of them, the codes between Q and DQ,
    and what lies in subgraphs. A chain without branches is cut at each of its tensors.
    """
    last = _last_reads(graph)
    alive: dict[int, gs.Tensor] = {}
    found: dict[str, None] = {}
    for index, made in enumerate(_activations(graph)):
        alive.update({id(tensor): tensor for tensor in made if id(tensor) in last})
        alive = {key: tensor for key, tensor in alive.items() if last[key] > index}
        if len(alive) == 1:
            (tensor,) = alive.values()
            if not is_output(graph, tensor) and tensor.inputs[0].op not in CODES:
                found[tensor.name] = None
    return tuple(found)


def _last_reads(graph: gs.Graph) -> dict[int, float]:
    """Id of each tensor that leads to an output -> the last node that needs it; no end to outputs.

    Nodes that lead nowhere read nothing.
    """
    last: dict[int, float] = {id(tensor): inf for tensor in graph.outputs}
    for index, node in reversed(list(enumerate(graph.nodes))):
        if any(id(tensor) in last for tensor in node.outputs):
            for tensor in _reads(node):
                last.setdefault(id(tensor), index)
    return last


def _reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """What a node and the nodes in its subgraphs read."""
    yield from node.inputs
    for inner in subgraphs(node):
        yield from own_tensors(inner)
        for nested in inner.nodes:
            yield from _reads(nested)


def _activations(graph: gs.Graph) -> Iterator[Sequence[gs.Tensor]]:
    """For each node, the activations that it makes."""
    varying = {id(tensor) for tensor in graph.inputs}
    activations: set[int] = set()
    for node in graph.nodes:
        read = {id(tensor) for tensor in _reads(node)}
        made: Sequence[gs.Tensor] = ()
        if varying & read:
            varying.update(map(id, node.outputs))
            if node.op not in METADATA and (activations & read or _starts(node, varying)):
                made = node.outputs
        activations.update(map(id, made))
        yield made


def _starts(node: gs.Node, varying: set[int]) -> bool:
    """Whether what a node makes of the graph's inputs is an activation."""
    if node.op == "Gather":  # of an embedding, which is constant, by indices, which are not
        table = node.inputs[0]
        return id(table) not in varying and _is_table(table)
    return node.op in MIXING or not is_onnx(node) or any(True for _ in subgraphs(node))


def _is_table(tensor: gs.Tensor) -> bool:
    """Whether a constant is a float matrix, possibly quantized."""
    maker = producer(tensor)
    if maker is not None and maker.op == "DequantizeLinear":
        return True
    is_float = tensor.dtype is not None and "float" in str(tensor.dtype)
    return is_float and tensor.shape is not None and len(tensor.shape) > 1


def section(graph: gs.Graph, start: str | None, ends: Sequence[str]) -> Graph:
    """A graph of its own that computes some tensors from one cut, or from the inputs alone.

    Its inputs are `start` and those of the graph's inputs that it needs besides, in this order; its
    nodes, tensors and constants keep their names.

    Args:
        graph: The whole.
        start: The cut behind which it begins; None: at the graph's inputs.
        ends: Names of the tensors that it computes, its outputs.
    """
    wanted = {*ends} | ({start} if start is not None else set())
    found = {
        tensor.name: tensor
        for node in graph.nodes
        for tensor in node.outputs
        if tensor.name in wanted
    }
    first = [found[start]] if start is not None else []
    behind, read = _behind([found[name] for name in ends], stop={id(tensor) for tensor in first})
    part = Graph(
        nodes=[node for node in graph.nodes if id(node) in behind],
        inputs=[*first, *(tensor for tensor in graph.inputs if id(tensor) in read)],
        outputs=[found[name] for name in ends],
        name=graph.name,
        opset=graph.opset,
        import_domains=graph.import_domains,
        functions=graph.functions,
        ir_version=graph.ir_version,
    )
    if isinstance(graph, Graph):
        part.shell, part.metadata = graph.shell, graph.metadata
    return part.copy()


def _behind(ends: Sequence[gs.Tensor], *, stop: set[int]) -> tuple[set[int], set[int]]:
    """The ids of the nodes that tensors are computed by, and of all that these nodes read."""
    nodes: set[int] = set()
    seen: set[int] = set(stop)
    todo = list(ends)
    while todo:
        tensor = todo.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        maker = producer(tensor)
        if maker is not None and id(maker) not in nodes:
            nodes.add(id(maker))
            todo.extend(_reads(maker))
    return nodes, seen
