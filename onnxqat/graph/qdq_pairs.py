"""The Q/DQ pairs of a graph, whoever put them there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.core.spec import Edge, QuantDtype
from onnxqat.graph.query import edges_of, producer

DEFAULT_AXIS = 1
"""QuantizeLinear's and DequantizeLinear's own, where the attribute is absent."""


CODE_TYPES = {
    "int8": QuantDtype.INT8,
    "uint8": QuantDtype.INT8,
    "int4": QuantDtype.INT4,
    "float8_e4m3fn": QuantDtype.FP8,
}
"""Numpy (ml_dtypes) name of codes -> the type that they are read as."""


@dataclass(frozen=True)
class QdqPair:
    """QuantizeLinear and the DequantizeLinear behind it, or a DequantizeLinear of stored codes."""

    tensor: str
    """What is quantized: Q's input, or the initializer that holds the codes."""
    q_node: str | None
    """None where the file stores codes."""
    dq_node: str
    output: str
    """DQ's output: the tensor that the consumers read."""
    scale: str
    """DQ's scale initializer, or tensor."""
    zero_point: str | None
    axis: int | None
    """Not negative where the rank is known; None for per-tensor."""
    is_weight: bool
    """Whether what is quantized is a constant."""
    consumers: tuple[Edge, ...]
    """The edges through which nodes read `output`, sorted; empty if only a graph output is."""
    dtype: str
    """Numpy name of the codes: int8, uint8, int32, int4, …"""


def qdq_pairs(graph: gs.Graph) -> tuple[QdqPair, ...]:
    """Every pair of the main graph, one a DequantizeLinear node, in node order.

    A DequantizeLinear whose codes neither a QuantizeLinear made nor the file stores (those of a
    QLinearConv, say) is in no pair.
    """
    return tuple(pair for node in graph.nodes for pair in _pair(node))


def _pair(dq: gs.Node) -> Iterator[QdqPair]:
    if dq.op != "DequantizeLinear":
        return
    codes = dq.inputs[0]
    q = producer(codes)
    stored = isinstance(codes, gs.Constant)
    if not stored and (q is None or q.op != "QuantizeLinear"):
        return
    source = codes if q is None else q.inputs[0]
    zero_point = dq.inputs[2] if len(dq.inputs) > 2 and not dq.inputs[2].is_empty() else None
    yield QdqPair(
        tensor=source.name,
        q_node=None if q is None else q.name,
        dq_node=dq.name,
        output=dq.outputs[0].name,
        scale=dq.inputs[1].name,
        zero_point=None if zero_point is None else zero_point.name,
        axis=_axis(dq, source),
        is_weight=isinstance(source, gs.Constant),
        consumers=edges_of(dq.outputs[0]),
        dtype=_dtype(codes, zero_point, q),
    )


def _axis(dq: gs.Node, source: gs.Tensor) -> int | None:
    """The channel axis, if the scale has one value a channel."""
    scale = dq.inputs[1]
    if not scale.shape:  # a scalar, or a computed scale of unknown rank
        return None
    if len(scale.shape) == 1 and scale.shape[0] == 1 and not isinstance(source, gs.Constant):
        return None  # [1] is how some tools write per-tensor
    axis = int(dq.attrs.get("axis", DEFAULT_AXIS))
    return axis + len(source.shape) if axis < 0 and source.shape is not None else axis


def _dtype(codes: gs.Tensor, zero_point: gs.Tensor | None, q: gs.Node | None) -> str:
    """The type of stored codes, else of the zero point, else Q's `output_dtype`, else uint8."""
    for tensor in (codes if q is None else None, zero_point):
        if tensor is not None and tensor.dtype is not None:
            return str(np.dtype(tensor.dtype).name)
    assert q is not None
    from onnx import helper

    stated = q.attrs.get("output_dtype", 0)
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(stated)).name) if stated else "uint8"
