"""Attention as exporters write it: MatMul, scale, mask, Softmax, MatMul."""

from __future__ import annotations

from math import prod

import onnx_graphsurgeon as gs

from onnxqat.placement.branches import SCALES_AND_MASKS, activations, only_reader


def is_attention_scores(node: gs.Node) -> bool:
    """Whether a MatMul of two activations is the first of the two around a Softmax."""
    if node.op != "MatMul" or len(activations(node)) != 2:
        return False
    softmax = only_reader(node, passes=SCALES_AND_MASKS)
    mixing = only_reader(softmax) if softmax is not None and softmax.op == "Softmax" else None
    return mixing is not None and mixing.op == "MatMul" and len(activations(mixing)) == 2


def is_single_matrix(tensor: gs.Tensor) -> bool:
    """Whether all dimensions but the last two are 1, unknown ones taken for that."""
    dimensions = tensor.shape or ()
    return prod(x if isinstance(x, int) and x > 0 else 1 for x in dimensions[:-2]) == 1
