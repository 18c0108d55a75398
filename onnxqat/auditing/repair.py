"""The few ways in which repairs change the graph under audit.

None narrows the range of a tensor: a repaired file may round coarser, and never saturates earlier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.sign import is_never_negative
from onnxqat.auditing.subject import (
    DEQUANTIZE,
    QUANTIZE,
    Subject,
    axis_of,
    dequantizers_of,
    quantizer_of,
)
from onnxqat.auditing.values import input_of, value_of
from onnxqat.core.calibration import SCALE_FLOOR
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.core.spec import PerChannel
from onnxqat.graph.graph import all_graphs
from onnxqat.graph.passes.edit import remove_nodes, replace_reads
from onnxqat.graph.query import consumers, is_output, producer
from onnxqat.placement.weights import weight_granularity

Array = NDArray[Any]

QMIN, QMAX = -128, 127

NARROW_LIMITS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
"""The least and the greatest code of integers that numpy itself does not have."""

_SIGNED_OPS = HEAVY_OPS | {"Add", "BatchNormalization", "InstanceNormalization", "Sub"}
"""Operators behind which exporters and quantizers have taken a Relu out."""


def pair_of(node: gs.Node) -> list[gs.Node]:
    """A Q node and all its DQs, or a DQ of stored codes alone: the nodes that share parameters."""
    quantizer = node if node.op == QUANTIZE else quantizer_of(node)
    return [node] if quantizer is None else [quantizer, *dequantizers_of(quantizer)]


def write_scale(subject: Subject, node: gs.Node, scale: Array) -> None:
    """Give a pair a scale of its own, with zero points of the same shape if it has any."""
    _write(subject, node, index=1, value=scale)
    zero_point = value_of(input_of(node, 2))
    if zero_point is not None and zero_point.shape != scale.shape:
        write_zero_point(subject, node, np.zeros(scale.shape, zero_point.dtype))


def write_zero_point(subject: Subject, node: gs.Node, zero_point: Array) -> None:
    """Give a pair a zero point of its own, which also says the type of the codes."""
    _write(subject, node, index=2, value=zero_point)
    for member in pair_of(node):
        if member.op == QUANTIZE:
            member.attrs.pop("output_dtype", None)
            member.outputs[0].dtype = zero_point.dtype


def write_axis(node: gs.Node, axis: int) -> None:
    """Let the scales of a pair lie along another axis."""
    for member in pair_of(node):
        member.attrs["axis"] = axis


def _write(subject: Subject, node: gs.Node, *, index: int, value: Array) -> None:
    suffix = ("", "scale", "zero_point")[index]
    name = subject.names.tensor(f"{node.inputs[0].name}_{suffix}")
    constant = gs.Constant(name, np.asarray(value))
    for member in pair_of(node):
        while len(member.inputs) <= index:
            member.inputs.append(gs.Variable.empty())
        member.inputs[index] = constant


def make_symmetric(subject: Subject, node: gs.Node) -> None:
    """INT8 with zero point 0 over the same range, or a wider one; stored codes are counted anew."""
    scale, zero_point = value_of(input_of(node, 1)), _zero_point(node)
    if scale is None or zero_point is None:
        return
    least, most = limits_of(zero_point.dtype)
    zero_point = zero_point.reshape(()) if zero_point.size == 1 else zero_point
    low = (zero_point.astype(np.float64) - least) * scale
    high = (most - zero_point.astype(np.float64)) * scale
    symmetric = np.maximum(low / -QMIN, high / QMAX).astype(scale.dtype)
    stored = value_of(node.inputs[0]) if quantizer_of(node) is None else None
    if node.op == QUANTIZE:
        stored = None
        _put_relu_back(subject, node, zero_point)
    if stored is not None:
        values = _dequantized(node, stored, scale, zero_point)
        if stored.dtype == np.uint8 or stored.dtype.itemsize > 1:
            symmetric = _tight(values, axis_of(node), scale, symmetric)
        _store_codes(subject, node, values, _along(symmetric, axis_of(node), stored.ndim))
    write_scale(subject, node, symmetric)
    write_zero_point(subject, node, np.zeros(symmetric.shape, np.int8))


def limits_of(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest code of a type."""
    if dtype.name in NARROW_LIMITS:
        return NARROW_LIMITS[dtype.name]
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def can_be_symmetric(node: gs.Node) -> bool:
    """Whether `make_symmetric` knows how to count with a node's scale and zero point."""
    scale, zero_point = value_of(input_of(node, 1)), _zero_point(node)
    return scale is not None and zero_point is not None and _is_plain(node, scale, zero_point)


def _is_plain(node: gs.Node, scale: Array, zero_point: Array) -> bool:
    """Whether scale and zero point are such as ONNX has them, so that they can be counted with."""
    shape = node.inputs[0].shape
    is_integer = zero_point.dtype.kind in "iu" or zero_point.dtype.name in NARROW_LIMITS
    is_number = scale.dtype.kind == "f" and is_integer
    fits = zero_point.size == 1 or zero_point.shape == scale.shape
    if not is_number or not fits or not scale.size or scale.ndim > 1:
        return False
    if scale.size == 1 or shape is None:
        return True
    axis = axis_of(node)
    return -len(shape) <= axis < len(shape) and shape[axis] == scale.size


def stands_for_relu(quantizer: gs.Node) -> bool:
    """Whether negative values come right out of a kernel into codes that hold none."""
    source = producer(quantizer.inputs[0])
    return source is not None and source.op in _SIGNED_OPS


def _put_relu_back(subject: Subject, quantizer: gs.Node, zero_point: Array) -> None:
    """A Q whose lowest code stands for 0 cuts off negative values; symmetric codes do not.

    What only the Q reads was the Relu's output in the float model, and is that again, by name.
    """
    source = quantizer.inputs[0]
    if np.any(zero_point.astype(np.int64) != limits_of(zero_point.dtype)[0]) or not subject.is_fed(
        source
    ):
        return
    if is_never_negative(source):
        return
    shape = None if source.shape is None else list(source.shape)
    name = source.name
    node_name = subject.names.node(f"{name}_Relu")
    owner = _owner(subject, quantizer)
    if len(consumers(source)) == 1 and not is_output(owner, source):
        source.name = subject.names.tensor(f"{name}_before_relu")
    else:
        name = subject.names.tensor(f"{name}_relu")
    output = gs.Variable(name, source.dtype, shape)
    relu = gs.Node("Relu", node_name, {}, [source], [output])
    nodes = owner.nodes
    nodes.insert(next(i for i, node in enumerate(nodes) if node is quantizer), relu)
    quantizer.inputs[0] = output


def _tight(values: Array, axis: int, scale: Array, widest: Array) -> Array:
    """The scales that stored values need, which may be far below what their type could hold."""
    over = tuple(i for i in range(values.ndim) if scale.ndim == 0 or i != axis % values.ndim)
    amax = np.abs(values).max(axis=over, initial=0).reshape(scale.shape)
    tight: Array = np.minimum(np.maximum(amax / QMAX, SCALE_FLOOR), widest).astype(scale.dtype)
    return tight


def _zero_point(node: gs.Node) -> Array | None:
    """The zero point; of the codes' own type where it is left out."""
    if input_of(node, 2) is not None or node.attrs.get("output_dtype"):
        return value_of(input_of(node, 2))
    stored = value_of(node.inputs[0]) if node.op == DEQUANTIZE else None
    return np.zeros((), np.uint8 if stored is None else stored.dtype)


def dequantized(node: gs.Node) -> Array | None:
    """The values of a DequantizeLinear of stored codes, in its scale's type."""
    codes, scale = value_of(node.inputs[0]), value_of(input_of(node, 1))
    if codes is None or scale is None:
        return None
    zero_point = value_of(input_of(node, 2))
    zeros = np.zeros((), codes.dtype) if zero_point is None else zero_point
    if not _is_plain(node, scale, zeros):
        return None
    # An array also of a scalar, of which numpy's arithmetic makes a number.
    return np.asarray(_dequantized(node, codes, scale, zeros), scale.dtype)


def _dequantized(node: gs.Node, codes: Array, scale: Array, zero_point: Array) -> Array:
    axis = axis_of(node)
    shifted = codes.astype(np.float64) - _along(zero_point.astype(np.float64), axis, codes.ndim)
    product: Array = shifted * _along(scale.astype(np.float64), axis, codes.ndim)
    return product


def _along(parameter: Array, axis: int, rank: int) -> Array:
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def store_float(subject: Subject, dequantizer: gs.Node) -> None:
    """Put the values of stored codes in the place of the codes and their DequantizeLinear."""
    values, output = dequantized(dequantizer), dequantizer.outputs
    if values is None or not output:
        return
    name = subject.names.tensor(f"{dequantizer.inputs[0].name}_float")
    replace_reads(output[0], gs.Constant(name, values))
    _drop(subject, dequantizer)


def remove_pair(subject: Subject, dequantizer: gs.Node) -> None:
    """Let all that read a DequantizeLinear's output read what its Q read."""
    quantizer = quantizer_of(dequantizer) if dequantizer.outputs else None
    if quantizer is None:
        return
    source, output = quantizer.inputs[0], dequantizer.outputs[0]
    replace_reads(output, source)
    if id(output) in subject.outputs:
        _hand_over(subject, source, output, dequantizer)
    _drop(subject, dequantizer)
    drop_unread(subject, quantizer)


def remove_last_quantizer(subject: Subject, quantizer: gs.Node) -> None:
    """Let a graph output be the float values that a Q at the end read."""
    output, source = quantizer.outputs[0], quantizer.inputs[0]
    output.dtype = source.dtype or np.dtype(np.float32)
    _hand_over(subject, source, output, quantizer)
    _drop(subject, quantizer)


def _hand_over(subject: Subject, source: gs.Tensor, output: gs.Tensor, last: gs.Node) -> None:
    """Let a graph output be made by what made `source`: outputs keep their names."""
    last.outputs.clear()
    node = producer(source)
    if node is None or id(source) in subject.outputs:
        identity = gs.Node("Identity", subject.names.node(f"{output.name}_Identity"))
        identity.inputs.append(source)
        identity.outputs.append(output)
        _owner(subject, last).nodes.append(identity)
        return
    replace_reads(source, output)
    place = next(i for i, tensor in enumerate(node.outputs) if tensor is source)
    node.outputs[place] = output


def skip_pair(subject: Subject, node: gs.Node, index: int) -> None:
    """Let one input of a node read what is before the Q; other readers keep the pair."""
    tensor = node.inputs[index]
    dequantizer = producer(tensor)
    quantizer = quantizer_of(dequantizer) if dequantizer is not None else None
    if dequantizer is None or dequantizer.op != DEQUANTIZE or quantizer is None:
        return
    node.inputs[index] = quantizer.inputs[0]
    if not dequantizer.outputs[0].outputs and id(dequantizer.outputs[0]) not in subject.outputs:
        _drop(subject, dequantizer)
        drop_unread(subject, quantizer)


def add_pair(
    subject: Subject, edges: list[tuple[gs.Node, int]], scale: Array, *, axis: int | None = None
) -> None:
    """Put one pair with this scale on a tensor, for these of its readers; INT8, zero point 0.

    Args:
        subject: Whose graph is changed.
        edges: Nodes, and the inputs of them that read the tensor.
        scale: Shape [] or, along `axis`, [C].
        axis: None for one scale.
    """
    node, index = edges[0]
    tensor, names = node.inputs[index], subject.names
    zeros = gs.Constant(names.tensor(f"{tensor.name}_zero_point"), np.zeros(scale.shape, np.int8))
    parameters = [gs.Constant(names.tensor(f"{tensor.name}_scale"), np.asarray(scale)), zeros]
    shape = None if tensor.shape is None else list(tensor.shape)
    codes = gs.Variable(names.tensor(f"{tensor.name}_quantized"), np.dtype(np.int8), shape)
    output = gs.Variable(names.tensor(f"{tensor.name}_dequantized"), tensor.dtype, shape)
    attrs = {} if axis is None else {"axis": axis}
    pair = [
        gs.Node(op, names.node(f"{tensor.name}_{op}"), dict(attrs), [read, *parameters], [made])
        for op, read, made in ((QUANTIZE, tensor, codes), (DEQUANTIZE, codes, output))
    ]
    nodes = _owner(subject, node).nodes
    readers = {id(reader) for reader, _ in edges}
    at = next(i for i, other in enumerate(nodes) if id(other) in readers)
    nodes[at:at] = pair
    for reader, i in edges:
        reader.inputs[i] = output


def add_weight_pair(subject: Subject, node: gs.Node, index: int) -> None:
    """Quantize weights that the file stores in float, one scale an output channel."""
    weights = value_of(node.inputs[index])
    if weights is None:
        return
    granularity = weight_granularity(node, index)
    axis = granularity.axis if isinstance(granularity, PerChannel) else None
    add_pair(subject, [(node, index)], weight_scale(weights, axis), axis=axis)


def requantize_weights(subject: Subject, dequantizer: gs.Node, *, axis: int) -> None:
    """Count the scales of weights anew, along another axis."""
    quantizer = quantizer_of(dequantizer)
    if quantizer is not None:
        weights = value_of(quantizer.inputs[0])
        if weights is not None:
            write_axis(quantizer, axis)
            write_scale(subject, quantizer, weight_scale(weights, axis))
        return
    values = dequantized(dequantizer)
    if values is not None:
        scale = weight_scale(values, axis)
        _store_codes(subject, dequantizer, values, _along(scale, axis, values.ndim))
        write_axis(dequantizer, axis)
        write_scale(subject, dequantizer, scale)


def recount_codes(subject: Subject, node: gs.Node, scale: Array) -> None:
    """Let stored codes mean with a new scale what they mean with the old one; else nothing."""
    is_stored = node.op == DEQUANTIZE and quantizer_of(node) is None
    values = dequantized(node) if is_stored else None
    if values is not None:
        _store_codes(subject, node, values, _along(scale, axis_of(node), values.ndim))


def _store_codes(subject: Subject, dequantizer: gs.Node, values: Array, scale: Array) -> None:
    codes = np.asarray(np.clip(np.rint(values / scale), QMIN, QMAX), np.int8)
    fresh = subject.names.tensor(f"{dequantizer.inputs[0].name}_int8")
    dequantizer.inputs[0] = gs.Constant(fresh, codes)


def weight_scale(weights: Array, axis: int | None) -> Array:
    """The scales that hold all weights: shape [C] along `axis`, or []."""
    over = tuple(i for i in range(weights.ndim) if axis is None or i != axis % weights.ndim)
    scale: Array = np.asarray(np.abs(weights).max(axis=over, initial=0) / QMAX)
    return np.maximum(scale, SCALE_FLOOR).astype(weights.dtype)


def drop_unread(subject: Subject, node: gs.Node) -> None:
    """Take a node out whose result nothing reads."""
    if node.outputs and not any(t.outputs or id(t) in subject.outputs for t in node.outputs):
        _drop(subject, node)


def _drop(subject: Subject, node: gs.Node) -> None:
    remove_nodes(_owner(subject, node), [node])


def _owner(subject: Subject, node: gs.Node) -> gs.Graph:
    """The graph, main or nested, that a node lies in."""
    for graph in all_graphs(subject.graph):
        if any(node is own for own in graph.nodes):
            return graph
    return subject.graph
