"""Spectra that a graph computes itself: they span more than the 48 dB of INT8.

A filter bank or Fourier transform written as Conv or MatMul is known by what reads it: nothing but
squares, which add up to the magnitudes. INT8 there drowns the quiet bins, and a logarithm behind it
makes that noise as loud as the signal. Measured, worst output: an audio transcriber's CQT front end
(26 of its 32 Convs) 17 dB in INT8 and 30 dB in float; a voice detector's STFT and the Conv that
reads its magnitudes (2 of 6) 17 dB and 25 dB.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.graph.query import constant_value
from onnxqat.placement.branches import activations, upstream
from onnxqat.placement.families import WEIGHTED
from onnxqat.placement.scene import Scene, is_constant, readers, value_inputs

_SCALES = frozenset({"Add", "Cast", "Div", "Mul", "Neg", "Sub"})
_SUMS = frozenset({"Add", "Cast", "ReduceSum", "Sqrt", "Sum"})
_SUMS_SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})


def parts_of_spectra(scene: Scene) -> frozenset[str]:
    """The tensors of which nothing is read but squares, over linear ops."""
    found: set[str] = set()
    for node in sorted(scene.graph.nodes, key=lambda x: scene.depths[x.name], reverse=True):
        for tensor in node.outputs:
            below = [reader for reader, _ in readers(tensor)]
            is_read = bool(below) and tensor.name not in scene.outputs
            if is_read and all(_is_square(x) or _passes_on(x, found) for x in below):
                found.add(tensor.name)
    return frozenset(found)


def holds_magnitudes(tensor: gs.Tensor, parts: frozenset[str]) -> bool:
    """Whether a tensor holds magnitudes of spectra as they are, not their logarithm."""
    above = upstream(tensor, lambda x: x.op in _SUMS or _is_linear(x))
    return bool(parts) and any(_is_square(x) and x.inputs[0].name in parts for x in above)


def _is_square(node: gs.Node) -> bool:
    """Whether the node squares its input for a sum: magnitudes, not an activation function."""
    if node.op in _SUMS_SQUARES:
        return True
    is_product = node.op == "Mul" and node.inputs[0] is node.inputs[1]
    is_power = node.op == "Pow" and bool(np.all(constant_value(node.inputs[1]) == np.float32(2)))
    is_summed = all(x.op in _SUMS for x, _ in readers(node.outputs[0]))
    return (is_product or is_power) and is_summed


def _passes_on(node: gs.Node, found: set[str]) -> bool:
    return _is_linear(node) and all(output.name in found for output in node.outputs)


def _is_linear(node: gs.Node) -> bool:
    if node.op in WEIGHTED or node.op in _SCALES:
        is_reciprocal = node.op == "Div" and is_constant(node.inputs[0])
        return len(activations(node)) == 1 and not is_reciprocal
    return bool(value_inputs(node)) and node.op != "MaxPool"
