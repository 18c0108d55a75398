"""BatchNormalization and constant biases behind a Conv, ConvTranspose or Gemm go into its weights.

All algebra is in float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, is_onnx
from onnxqat.graph.names import Names
from onnxqat.graph.passes.edit import (
    float64,
    only_reader,
    remove_nodes,
    replace_constant,
    take_over_output,
)
from onnxqat.graph.query import consumers, is_float, is_training

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Affine:
    """y = scale · x + shift a channel; both of shape [C]."""

    scale: Doubles
    shift: Doubles


def fold_affine(graph: Graph) -> Iterator[Change]:
    """Fold BatchNormalization, and an Add of a constant a channel, into the layer before it.

    Only where that layer's output is read by nothing else and is no graph output. A normalization
    that comes first (pre-activation) stays.
    """
    names = Names(graph)
    for inner in all_graphs(graph):
        folded = []
        for node in inner.nodes:
            while (last := _foldable_behind(inner, node)) is not None:
                what, affine = last
                behind = only_reader(inner, node.outputs[0])
                assert behind is not None
                FOLD[node.op](node, affine.scale, affine.shift, names)
                take_over_output(node, behind)
                folded.append(behind)
                yield Change(
                    f"fold {what}", behind.name, f"{behind.op} went into {node.op} '{node.name}'"
                )
        remove_nodes(inner, folded)


def _foldable_behind(inner: gs.Graph, node: gs.Node) -> tuple[str, _Affine] | None:
    """What the only reader of a layer does, if the layer's weights can take it up."""
    if node.op not in FOLD or not is_onnx(node) or not has_constant_weights(node):
        return None
    behind = only_reader(inner, node.outputs[0])
    if behind is None or not is_onnx(behind):
        return None
    if behind.op == "BatchNormalization":
        affine = _normalization(node, behind)
        return None if affine is None else ("batch normalization", affine)
    if behind.op == "Add" and node.op != "Gemm":
        affine = _constant_add(node, behind)
        return None if affine is None else ("bias", affine)
    return None


def has_constant_weights(node: gs.Node) -> bool:
    """Whether all that a layer computes with but its first input is constant."""
    return all(
        tensor.is_empty() or (isinstance(tensor, gs.Constant) and is_float(tensor))
        for tensor in node.inputs[1:]
    )


def _normalization(node: gs.Node, norm: gs.Node) -> _Affine | None:
    """scale · (x − mean) / √(var + ε) + bias; None in training mode or with computed statistics.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    statistics = norm.inputs[1:5]
    if (
        norm.inputs[0] is not node.outputs[0]
        or is_training(norm)
        or not all(isinstance(t, gs.Constant) and t.values.ndim == 1 for t in statistics)
    ):
        return None
    scale, bias, mean, variance = (float64(tensor) for tensor in statistics)
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    return _Affine(factor, bias - mean * factor)


def _constant_add(node: gs.Node, add: gs.Node) -> _Affine | None:
    """x + c where c has one value, or one a channel."""
    other = next((t for t in add.inputs if t is not node.outputs[0]), None)
    channels, rank = channels_of(node), len(node.inputs[1].shape)
    if not isinstance(other, gs.Constant) or not is_float(other) or len(other.shape) > rank:
        return None
    shape = (1,) * (rank - len(other.shape)) + tuple(other.shape)
    if prod(shape) not in (1, shape[1]) or shape[1] not in (1, channels):
        return None
    shift = np.broadcast_to(float64(other).reshape(-1), (channels,))
    return _Affine(np.ones(channels), shift)


def channels_of(node: gs.Node) -> int:
    """How many channels a layer writes."""
    shape, attrs = node.inputs[1].shape, node.attrs
    if node.op == "Conv":
        return int(shape[0])
    if node.op == "ConvTranspose":
        return int(shape[1]) * int(attrs.get("group", 1))
    return int(shape[0 if attrs.get("transB", 0) else 1])


def _fold_conv(node: gs.Node, scale: Doubles, shift: Doubles, names: Names) -> None:
    """W is [K, C/group, …]: one filter an output channel."""
    weight = float64(node.inputs[1])
    _set_weight(node, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), names)
    _set_bias(node, _bias(node) * scale + shift, names)


def _fold_conv_transpose(node: gs.Node, scale: Doubles, shift: Doubles, names: Names) -> None:
    """W is [C, K/group, …]: the first C/group rows make the first K/group output channels, …"""
    weight, group = float64(node.inputs[1]), node.attrs.get("group", 1)
    split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    shaped = scale.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
    _set_weight(node, (split * shaped).reshape(weight.shape), names)
    _set_bias(node, _bias(node) * scale + shift, names)


def _fold_gemm(node: gs.Node, scale: Doubles, shift: Doubles, names: Names) -> None:
    """Y = alpha · A' · B' + beta · C, whose channels are the columns."""
    weight = float64(node.inputs[1])
    shaped = scale.reshape(-1, 1) if node.attrs.get("transB", 0) else scale
    _set_weight(node, weight * shaped, names)
    bias = _bias(node) * node.attrs.get("beta", 1.0)
    node.attrs.pop("beta", None)
    _set_bias(node, bias * scale + shift, names)


def _bias(node: gs.Node) -> Doubles:
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return np.zeros(channels_of(node))
    return float64(node.inputs[2])


def _set_weight(node: gs.Node, values: Doubles, names: Names) -> None:
    fresh = names.tensor(f"{node.inputs[1].name}_folded") if _is_shared(node, 1) else ""
    replace_constant(node, 1, values.astype(np.float32), fresh_name=fresh)


def _set_bias(node: gs.Node, values: Doubles, names: Names) -> None:
    """A bias of its own for the node: it may have none yet, or share one with another node."""
    weight = node.inputs[1].name
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        stem = weight.removesuffix("weight")
        fresh = names.tensor(f"{stem}bias" if stem != weight else f"{weight}_bias")
        while len(node.inputs) > 2:
            node.inputs.pop()
        node.inputs.append(gs.Constant(fresh, values.astype(np.float32)))
        return
    fresh = names.tensor(f"{node.inputs[2].name}_folded") if _is_shared(node, 2) else ""
    replace_constant(node, 2, values.astype(np.float32), fresh_name=fresh)


def _is_shared(node: gs.Node, index: int) -> bool:
    return len(consumers(node.inputs[index])) > 1


FOLD: dict[str, Callable[[gs.Node, Doubles, Doubles, Names], None]] = {
    "Conv": _fold_conv,
    "ConvTranspose": _fold_conv_transpose,
    "Gemm": _fold_gemm,
}
"""Layers that can take up `scale · y + shift` of their output y, both of shape [channels]."""
