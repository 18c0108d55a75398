"""Attention as exporters write it: MatMul, scale, mask, Softmax, MatMul."""

from __future__ import annotations

from math import prod

import onnx_graphsurgeon as gs

from onnxqat.placement.branches import SCALES_AND_MASKS, activations, only_reader
from onnxqat.placement.config import FusedAttention


def is_attention_scores(node: gs.Node) -> bool:
    """Whether a MatMul of two activations is the first of the two around a Softmax."""
    if node.op != "MatMul" or len(activations(node)) != 2:
        return False
    softmax = only_reader(node, passes=SCALES_AND_MASKS)
    mixing = only_reader(softmax) if softmax is not None and softmax.op == "Softmax" else None
    return mixing is not None and mixing.op == "MatMul" and len(activations(mixing)) == 2


def is_fused(scores: gs.Node, fused: FusedAttention) -> bool:
    """Whether the compiler makes one kernel of the attention that a MatMul is the first of.

    Dimensions that are unknown are taken for those that fuse, but an unknown number of matrices for
    one.
    """
    queries, keys = (x.shape or () for x in scores.inputs[:2])
    tokens = [*queries[-2:-1], *keys[-1:]]
    is_short = all(_known(x, 1) <= fused.most_tokens for x in tokens)
    is_sized = all(_known(x, max(fused.head_sizes)) in fused.head_sizes for x in queries[-1:])
    return is_short and is_sized and not _is_single_matrix(scores.outputs[0])


def _is_single_matrix(tensor: gs.Tensor) -> bool:
    """Whether all dimensions but the last two are 1."""
    return prod(_known(x, 1) for x in (tensor.shape or ())[:-2]) == 1


def _known(size: object, otherwise: int) -> int:
    return size if isinstance(size, int) and size > 0 else otherwise
