"""What became of the Q/DQ pairs of a file in the compiled engine.

The compiler lists with each kernel the ONNX nodes in it, Q and DQ among them. A Q in the kernel
that computes a tensor and a DQ in the kernel that reads it mean that it crosses memory in its
quantized type; both in the same kernel mean that nothing was saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from onnxqat.core.engine_plan import EngineLayer, EnginePlan, Passage, QdqEdge
from onnxqat.core.precision import HEAVY_OPS, is_multiplying, is_quantized_type

QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_COPIES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
"""ONNX operators that a kernel does beside quantizing without any arithmetic of their own."""

MOVES = _COPIES | {"MaxPool", "Resize"}
"""ONNX operators that only move or choose values, so that they run in the quantized type."""


LOOPS = frozenset({"GRU", "LSTM", "Loop", "RNN", "Scan"})
"""ONNX operators that become several kernels and a loop: what each does with an input comes first,
and the list names the operator behind the last alone."""


def with_passages(
    plan: EnginePlan, edges: Iterable[QdqEdge], ops: Mapping[str, str]
) -> tuple[QdqEdge, ...]:
    """Each edge with the way that its tensor takes.

    A kernel that reads two tensors of one other kernel, one quantized and one in float, is taken to
    read both quantized: the list does not say which is which.

    Args:
        plan: The compiled plan.
        edges: The edges behind Q/DQ pairs.
        ops: Node name -> op type, of the whole file.
    """
    return tuple(
        replace(edge, passage=_passage(plan, edge, op=ops.get(edge.reader, ""))) for edge in edges
    )


def qdq_layers(plan: EnginePlan, ops: Mapping[str, str]) -> tuple[EngineLayer, ...]:
    """The layers that do nothing but quantize or dequantize, and move what they do.

    One that reads what a multiplying kernel wrote is that one's epilogue. The kernel that quantizes
    an input of the network is always there.

    Args:
        plan: The compiled plan.
        ops: Node name -> op type, of the whole file.
    """
    products = {x.name for layer in plan.layers if is_multiplying(layer) for x in layer.outputs}
    return tuple(
        layer
        for layer in plan.kernels
        if _is_qdq_alone(layer, ops) and not any(x.name in products for x in layer.inputs)
    )


def _is_qdq_alone(layer: EngineLayer, ops: Mapping[str, str]) -> bool:
    """A Conv may be named as well, where its input is padded to whole vectors of channels."""
    kinds = {ops.get(node, "") for node in layer.onnx_nodes}
    is_pure = bool(kinds & QDQ_OPS) and kinds <= QDQ_OPS | HEAVY_OPS | _COPIES
    return is_pure and not is_multiplying(layer)


def _passage(plan: EnginePlan, edge: QdqEdge, *, op: str) -> Passage:
    """A move in the quantized type needs no DQ: it and the Q behind the move cancel each other.

    Args:
        plan: The compiled plan.
        edge: The edge.
        op: The reader's operator.
    """
    writers = plan.layers_of(edge.q_node) if edge.q_node is not None else ()
    dequantizing = plan.layers_of(edge.dq_node)
    reading = dequantizing if op in LOOPS else plan.layers_of(edge.reader)
    fed = _fed_by(plan, writers) if writers else {x.name for x in plan.kernels if _reads(x)}
    if not writers and not dequantizing:
        return Passage.ABSENT
    is_moved = op in MOVES and any(layer.name in fed for layer in reading)
    if is_moved or _is_quantized(reading, dequantizing, fed):
        return Passage.QUANTIZED
    # Where the Q was merged into another, the DQ in the reader's kernel tells that it is there.
    if _share(writers or dequantizing, reading) or (not reading and _share(writers, dequantizing)):
        return Passage.INSIDE
    return Passage.FLOAT


def _is_quantized(
    reading: tuple[EngineLayer, ...], dequantizing: tuple[EngineLayer, ...], fed: set[str]
) -> bool:
    """Whether the reader dequantizes, in one of the kernels that the quantized tensor feeds.

    The list leaves out a reader that only moves values (then it is the next that dequantizes), and
    a DQ that a kernel in the quantized type took up whole.
    """
    readers = [layer for layer in reading or dequantizing if layer.name in fed]
    if dequantizing and reading:
        return _share(tuple(readers), dequantizing)
    return bool(readers) or (not dequantizing and not reading and bool(fed))


def _fed_by(plan: EnginePlan, writers: tuple[EngineLayer, ...]) -> set[str]:
    """The layers that read what these write in a quantized type, also through layers that only hand
    it on in one.
    """
    pending = list(_written(writers))
    names, fed = set(pending), set()
    while pending:
        name = pending.pop()
        for layer in plan.kernels:
            if any(x.name == name and is_quantized_type(x.dtype) for x in layer.inputs):
                fed.add(layer.name)
                new = [x for x in _written((layer,)) if x not in names]
                names.update(new)
                pending.extend(new)
    return fed


def _written(layers: tuple[EngineLayer, ...]) -> Iterator[str]:
    return (x.name for layer in layers for x in layer.outputs if is_quantized_type(x.dtype))


def _reads(layer: EngineLayer) -> bool:
    return any(is_quantized_type(view.dtype) for view in layer.inputs)


def _share(some: tuple[EngineLayer, ...], others: tuple[EngineLayer, ...]) -> bool:
    names = {layer.name for layer in others}
    return any(layer.name in names for layer in some)
