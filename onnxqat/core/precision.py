"""The precision that each Conv, ConvTranspose, Gemm, MatMul, Add, Mul and pool was compiled to.

The compiled plan is the evidence: a node that multiplies matrices is in INT8 if its kernel reads
INT8 on both sides, whatever the ONNX file asked for; any other if all that its kernel reads from
memory is INT8, but for what a multiplying kernel hands it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

from onnxqat.core.engine_plan import (
    EngineLayer,
    EnginePlan,
    NodePrecision,
    Precision,
    TensorView,
)

__all__ = [
    "HEAVY_OPS",
    "TOLD_OPS",
    "NodePrecision",
    "Precision",
    "count_in",
    "is_multiplying",
    "is_quantized_type",
    "layer_precision",
    "node_precisions",
]

HEAVY_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""ONNX operators that multiply matrices: nearly all the work of a network."""

TOLD_OPS = HEAVY_OPS | {
    "Add",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MaxPool",
    "Mul",
}
"""Those, and the ones without weights whose type decides how many bytes cross memory."""


_QUANTIZED = {
    "FP4": Precision.FP4,
    "Int4": Precision.INT4,
    "FP8": Precision.FP8,
    "Int8": Precision.INT8,
}
_FLOAT = {"BFloat16": Precision.BF16, "Half": Precision.FP16, "Float": Precision.FP32}
"""The compiler's words for datatypes."""

_WIDTHS = (*_QUANTIZED, *_FLOAT)
"""From narrow to wide."""

_MULTIPLYING_KIND = re.compile(r"correlation|conv|gemm|matrix_?multiply", re.IGNORECASE)
"""Kinds of layer that multiply matrices: correlation, deconv, gemm; Convolution in TensorRT."""

_STEPS = re.compile(r"^__myl_(?P<before>(?:[A-Z][a-z]+)*?)(?P<product>Fc|Corr|MulSum)")
"""Generated kernels tell their steps in order, as `__myl_CorrMulAdd`; these words are the product
of matrices (`MulSum`: of a matrix and a vector)."""

_GENERATED = "__myl_"
"""Begins the name of a generated kernel; other layers have names made of the ONNX nodes'."""

_FUSED_ATTENTION = "_mha_"
"""In the tactic of the kernel that is both products of an attention block: `_gemm_mha_v2_0x…`."""


def node_precisions(
    plan: EnginePlan, nodes: Iterable[tuple[str, str]]
) -> tuple[NodePrecision, ...]:
    """The precision of each node (name and operator), in the order given."""
    return tuple(_node_precision(plan, node=node, op=op) for node, op in nodes)


def count_in(precision: Precision, nodes: Iterable[NodePrecision]) -> int:
    """How many nodes run in a precision."""
    return sum(node.precision is precision for node in nodes)


def layer_precision(layer: EngineLayer) -> Precision:
    """The precision in which a layer multiplies.

    A quantized type counts only where both operands have one (two inputs, or an input and a
    constant) and the kernel does not cast them first: `__myl_CastMulCastMulFc` reads INT8 on both
    sides, and multiplies floats.
    """
    quantized = [view for view in layer.inputs if view.dtype in _QUANTIZED]
    constants = [view for view in layer.constants if view.dtype in _QUANTIZED]
    both = len(quantized) + min(len(constants), 1) >= _operands(layer)
    if both and not _casts_first(layer):
        return _QUANTIZED[_largest(quantized).dtype]
    views = (*layer.inputs, *layer.constants, *layer.outputs)
    floats = [view for view in views if view.dtype in _FLOAT]
    return _FLOAT[_largest(floats).dtype] if floats else Precision.OTHER


def dtype_precision(dtype: str) -> Precision:
    """The precision that the compiler's word for a datatype stands for."""
    return (_QUANTIZED | _FLOAT).get(dtype, Precision.OTHER)


def _operands(layer: EngineLayer) -> int:
    """Query, key and value in fused attention, else two matrices."""
    return 3 if _FUSED_ATTENTION in layer.tactic else 2


def _casts_first(layer: EngineLayer) -> bool:
    if not layer.name.startswith(_GENERATED):
        return False
    steps = _STEPS.search(layer.name)
    return "Cast" in (steps["before"] if steps is not None else layer.name)


def is_multiplying(layer: EngineLayer) -> bool:
    """Whether a layer multiplies matrices, as far as its kind and its name tell."""
    return (
        _MULTIPLYING_KIND.search(layer.kind) is not None
        or _FUSED_ATTENTION in layer.tactic
        or _STEPS.search(layer.name) is not None
    )


def is_quantized_type(dtype: str) -> bool:
    """Whether the compiler's word for a datatype is one of a quantized type."""
    return dtype in _QUANTIZED


def _node_precision(plan: EnginePlan, *, node: str, op: str) -> NodePrecision:
    layers = plan.layers_of(node)
    if not layers:
        return NodePrecision(node, op, Precision.ABSENT, None)
    names = tuple(layer.name for layer in layers)
    if op in HEAVY_OPS:
        layer = min(layers, key=lambda layer: _distance_from_product(layer, node))
        return NodePrecision(node, op, layer_precision(layer), layer.name, names)
    layer = layers[0]
    return NodePrecision(node, op, _precision_of_work(plan, layer), layer.name, names)


def _precision_of_work(plan: EnginePlan, layer: EngineLayer) -> Precision:
    """The widest type that a kernel reads; what a multiplying kernel hands it does not count, as
    long as it reads or writes anything else.
    """
    if is_multiplying(layer):
        return layer_precision(layer)
    products = {x.name for other in plan.layers if is_multiplying(other) for x in other.outputs}
    read = [view for view in layer.inputs if view.name not in products]
    known = _numbers(read) or _numbers(layer.outputs)
    if not known:
        return Precision.OTHER
    widest = max(known, key=lambda view: _WIDTHS.index(view.dtype))
    return (_QUANTIZED | _FLOAT)[widest.dtype]


def _numbers(views: Iterable[TensorView]) -> list[TensorView]:
    """Without indices and masks."""
    return [view for view in views if view.dtype in _WIDTHS]


def _distance_from_product(layer: EngineLayer, node: str) -> int:
    """0 for the kernel that surely is the node's product; equal ones in the plan's order.

    A quantized Conv becomes a correlation and a pointwise kernel for its epilogue, both of which
    name the node: only the first multiplies.
    """
    if _MULTIPLYING_KIND.search(layer.kind):
        return 0 if node in layer.name else 1
    return 2 if _FUSED_ATTENTION in layer.tactic or _STEPS.search(layer.name) else 3


def _largest(views: Sequence[TensorView]) -> TensorView:
    """By elements: a scalar scale does not tell the type of the work."""
    return max(views, key=lambda view: prod(abs(size) for size in view.shape))
