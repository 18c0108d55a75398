"""The parts of a network that are rebuilt one after the other: its blocks, or its single layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxqat.graph import Graph
from onnxqat.graph.cuts import cuts, section
from onnxqat.graph.query import consumers, is_output
from onnxqat.training.roles import weights_of

ACTIVATIONS = frozenset(
    {
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Swish",
        "Tanh",
    }
)
AFFINE = frozenset({"Add", "BatchNormalization", "Mul", "Sub"})
"""Operators that belong to the layer before them where their other inputs are constants."""


@dataclass(frozen=True)
class Part:
    """What lies between two tensors, or sets of them, and holds weights."""

    start: str | None
    """The activation that it reads; None: it reads graph inputs alone. It may need those anyway."""
    ends: tuple[str, ...]
    """The tensors that it computes."""
    weights: tuple[str, ...]
    """Names of the initializers, in the order of the nodes."""


def blocks(graph: Graph, known: Collection[str]) -> tuple[Part, ...]:
    """The whole network in parts that are joined by single tensors, in order.

    Each has weights, and with the activation behind the last of them it ends: of a residual network
    they are the residual blocks, of a chain the single layers, and what has no cut is one part.

    Args:
        graph: The FP32 network.
        known: Names of the tensors that the quantized network has as well; parts end only there.
    """
    return tuple(_parts(graph, _boundaries(graph, {*cuts(graph)} & {*known})))


def layers(graph: Graph, block: Part, known: Collection[str]) -> tuple[Part, ...]:
    """The layers of a block: each node with weights, from what it reads to its activation."""
    inside = section(graph, block.start, block.ends)
    sources = {tensor.name for tensor in inside.inputs if tensor.name != block.start}
    found = (
        Part(None if start in sources else start, (_end(inside, node).name,), weights)
        for node in inside.nodes
        if (weights := weights_of(node)) and (start := _read(node)) is not None
    )
    return tuple(part for part in found if {part.start or part.ends[0], *part.ends} <= {*known})


def _boundaries(graph: Graph, names: Collection[str]) -> list[str]:
    """Of the named cuts, the last before each node with weights, where some came before it."""
    found: list[str] = []
    last: str | None = None
    is_weighted = False
    for node in graph.nodes:
        if weights_of(node):
            if is_weighted and last is not None:
                found.append(last)
            is_weighted, last = True, None
        last = next((t.name for t in node.outputs if t.name in names), last)
    return found


def _parts(graph: Graph, boundaries: Sequence[str]) -> Iterator[Part]:
    outputs = tuple(tensor.name for tensor in graph.outputs)
    taken: set[str] = set()
    start = None
    for end in (*boundaries, None):
        ends = outputs if end is None else (end,)
        weights = _weights(section(graph, start, ends))
        behind = () if end is None else _weights(section(graph, end, outputs))
        if set(behind) & (taken | set(weights)) - _shared(graph):
            continue  # a shape of an earlier tensor is asked for behind the cut: no cut after all
        taken.update(weights)
        yield Part(start, ends, weights)
        start = end


def _weights(graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for node in graph.nodes for name in weights_of(node)))


def _shared(graph: Graph) -> set[str]:
    """Weights that several nodes have in common."""
    once: set[str] = set()
    twice: set[str] = set()
    for node in graph.nodes:
        for name in weights_of(node):
            (twice if name in once else once).add(name)
    return twice


def _read(node: gs.Node) -> str | None:
    """The one activation that a node reads; None where it reads several."""
    names = {tensor.name for tensor in node.inputs if tensor.name and not _is_constant(tensor)}
    return names.pop() if len(names) == 1 else None


def _is_constant(tensor: gs.Tensor) -> bool:
    """Whether no activation goes into a tensor; constants may come through a Transpose."""
    while not isinstance(tensor, gs.Constant):
        if len(tensor.inputs) != 1 or len(tensor.inputs[0].inputs) != 1:
            return False
        tensor = tensor.inputs[0].inputs[0]
    return True


def _end(graph: Graph, node: gs.Node) -> gs.Tensor:
    """The tensor behind a layer's norm, bias and activation, as far as they alone read it."""
    tensor = node.outputs[0]
    while not is_output(graph, tensor):
        readers = consumers(tensor)
        if len(readers) != 1 or not _belongs(readers[0][0], tensor):
            break
        tensor = readers[0][0].outputs[0]
        if readers[0][0].op in ACTIVATIONS:
            break
    return tensor


def _belongs(node: gs.Node, tensor: gs.Tensor) -> bool:
    others = [other for other in node.inputs if other is not tensor and other.name]
    return node.op in ACTIVATIONS | AFFINE and all(_is_constant(other) for other in others)
