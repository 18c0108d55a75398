"""Good Q/DQ models, and faults to put into them on purpose, one a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.audit import DEFAULTS
from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.repair import (
    add_pair,
    add_weight_pair,
    pair_of,
    skip_pair,
    write_axis,
    write_scale,
    write_zero_point,
)
from onnxqat.auditing.subject import Subject, dequantizer_of, quantizer_of
from onnxqat.auditing.values import input_of, value_of
from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import PerChannel
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.graph.passes.opset import raise_opset
from onnxqat.graph.query import constant_value, consumers, producer
from onnxqat.placement import PlacementConfig, place
from tests.support import nets, networks
from tests.support.networks.builder import NetworkBuilder

Fault = Callable[[Graph], str]
"""Changes a graph for the worse; the label of the node where the audit has to find it."""

RTX = AuditConfig(profile="rtx")


def squeeze_excite() -> Graph:
    """Conv, HardSwish, squeeze-and-excitation, SiLU, ConvTranspose."""
    net = NetworkBuilder()
    x = net.node("HardSwish", net.conv("x", (3, 16)))
    gate = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), (16, 8), kernel=1))
    gate = net.node("HardSigmoid", net.conv(gate, (8, 16), kernel=1))
    x = net.conv(net.node("Mul", x, gate), (16, 16), kernel=1)
    x = net.node("Mul", x, net.node("Sigmoid", x))
    w = net.weights(16, 16, 2, 2, fan_in=16)
    x = net.node("ConvTranspose", x, w, strides=[2, 2], kernel_shape=[2, 2])
    return as_graph(net.model((1, 3, 16, 16), net.conv(net.node("Relu", x), (16, 8))))


def _network(name: str) -> Graph:
    network = getattr(networks, name)
    is_convolutional = network.__module__.endswith("convolutional")
    return as_graph(network(32) if is_convolutional else network())


SOURCES: dict[str, Callable[[], Graph]] = {
    "residual": lambda: as_graph(nets.residual_net()),
    "densenet": lambda: as_graph(networks.densenet(16, layers=2)),
    "inception": lambda: as_graph(networks.inception(16)),
    "unet": lambda: as_graph(networks.unet(32)),
    "yolo": lambda: as_graph(networks.yolo(32)),
    "bert": lambda: as_graph(networks.bert(blocks=1, tokens=16)),
    "vit": lambda: as_graph(networks.vit(tokens=32, heads=2)),
    "squeeze_excite": squeeze_excite,
}


ARCHITECTURES: dict[str, Callable[[], Graph]] = {
    f"{name}, whole": partial(_network, name) for name in networks.__all__
}
"""Every network that tests generate."""


@cache
def good(name: str, profile: str = "tensorrt") -> Graph:
    """A model with Q/DQ placed by this package, ranges from random data; not to be changed."""
    graph = prepare((SOURCES | ARCHITECTURES)[name]())
    plan = place(graph, config=PlacementConfig(profile=profile))
    return insert(graph, plan, _calibrated(graph, plan))


def _calibrated(graph: Graph, plan: QuantPlan) -> Calibration:
    tensors, values = graph.tensors(), _values(graph, plan)
    amax: dict[str, np.ndarray] = {}
    for leader, names in plan.groups.items():
        granularity = plan.spec_of(leader).granularity
        axis = granularity.axis if isinstance(granularity, PerChannel) else None
        for name in names:
            stored = constant_value(tensors[name])
            array = np.abs(values[name] if stored is None else stored)
            over = tuple(i for i in range(array.ndim) if i != axis)
            amax[name] = np.atleast_1d(array.max(axis=over))
    for _ in plan.groups:  # a tensor may be in two of them
        for names in plan.groups.values():
            amax |= dict.fromkeys(names, np.max([amax[name] for name in names], axis=0))
    ranges = (TensorRange(name, tuple(map(float, amax[name])), "max", 4) for name in sorted(amax))
    return Calibration(tuple(ranges))


def _values(graph: Graph, plan: QuantPlan) -> dict[str, np.ndarray]:
    tensors = graph.tensors()
    names = {name for group in plan.groups.values() for name in group}
    fed = tuple(sorted(n for n in names if constant_value(tensors[n]) is None))
    reader, draw = TensorReader(graph, fed), np.random.default_rng(0)
    runs = [reader({x.name: random_input(x, draw) for x in graph.inputs}) for _ in range(4)]
    return {name: np.concatenate([run[name] for run in runs]) for name in fed}


def random_input(tensor: gs.Variable, draw: np.random.Generator) -> np.ndarray:
    shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
    values = np.abs(draw.standard_normal(shape)) if tensor.dtype != np.float32 else None
    return (draw.standard_normal(shape) if values is None else values).astype(tensor.dtype)


@dataclass(frozen=True)
class Seed:
    """One fault in one model."""

    rule: str
    model: str
    fault: Fault
    config: AuditConfig = DEFAULTS

    def plant(self) -> tuple[Graph, str]:
        """The spoiled model, and the node where the fault is."""
        graph = good(self.model, self.config.profile).copy()
        return graph, self.fault(graph)


def nth(graph: Graph, op: str, index: int = 0) -> gs.Node:
    """A node by its operator, in the order of the graph."""
    return [node for node in graph.nodes if node.op == op][index]


def q_of(node: gs.Node, index: int = 0) -> gs.Node:
    """The Q before an input of a node."""
    dequantizer = dequantizer_of(node.inputs[index])
    assert dequantizer is not None
    quantizer = quantizer_of(dequantizer)
    assert quantizer is not None
    return quantizer


def _scale(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def _scale_of(node: gs.Node) -> np.ndarray:
    value = value_of(input_of(node, 1))
    assert value is not None
    return value


def zero_point(value: int, dtype: type, op: str = "Conv", index: int = 0, at: int = 0) -> Fault:
    """Another zero point, and so another type of codes."""

    def fault(graph: Graph) -> str:
        quantizer = q_of(nth(graph, op, at), index)
        shape = _scale_of(quantizer).shape
        write_zero_point(Subject(graph), quantizer, np.full(shape, value, dtype))
        return str(quantizer.name)

    return fault


def no_zero_point(graph: Graph) -> str:
    quantizer = q_of(nth(graph, "Conv", 1))
    for node in pair_of(quantizer):
        node.inputs.pop()
    return str(quantizer.name)


def scaled(
    change: Callable[[np.ndarray], np.ndarray], op: str = "Conv", index: int = 0, at: int = 0
) -> Fault:
    """Another scale, made of the right one."""

    def fault(graph: Graph) -> str:
        quantizer = q_of(nth(graph, op, at), index)
        scale = np.asarray(change(_scale_of(quantizer)), np.float32)
        write_scale(Subject(graph), quantizer, scale)
        return str(quantizer.name)

    return fault


def sixteen_bit(graph: Graph) -> str:
    """The input is quantized to int16, over its range."""
    quantizer = q_of(nth(graph, "Conv"))
    write_scale(Subject(graph), quantizer, _scale_of(quantizer) * np.float32(127 / 32767))
    write_zero_point(Subject(graph), quantizer, np.zeros((), np.int16))
    return str(quantizer.name)


def four_bit(graph: Graph) -> str:
    """What a Conv reads is quantized to int4, over its range."""
    quantizer = q_of(nth(graph, "Conv", 3))
    write_scale(Subject(graph), quantizer, _scale_of(quantizer) * np.float32(127 / 7))
    write_zero_point(Subject(graph), quantizer, np.zeros((), ml_dtypes.int4))
    _raise(graph, 21)
    return str(quantizer.name)


def _raise(graph: Graph, opset: int) -> None:
    for _ in raise_opset(graph, opset):
        pass


def dead_channel(scale: float) -> Fault:
    """Weights of channel 0 are 0, and its scale is this."""

    def fault(graph: Graph) -> str:
        node = nth(graph, "Conv", 1)
        quantizer = q_of(node, 1)
        weights = constant_value(quantizer.inputs[0])
        assert weights is not None
        weights = weights.copy()
        weights[0] = 0
        quantizer.inputs[0] = gs.Constant(f"{quantizer.inputs[0].name}_dead", weights)
        scales = _scale_of(quantizer).copy()
        scales[0] = scale
        write_scale(Subject(graph), quantizer, scales)
        return str(quantizer.name)

    return fault


def fed_scale(graph: Graph) -> str:
    quantizer = q_of(nth(graph, "Conv"))
    fed = gs.Variable("fed_scale", np.dtype(np.float32), [])
    graph.inputs.append(fed)
    for node in pair_of(quantizer):
        node.inputs[1] = fed
    return str(quantizer.name)


def scalar_branch(graph: Graph) -> str:
    """The mean of the input is quantized and added to it."""
    node = nth(graph, "Conv")
    quantizer = q_of(node)
    x = quantizer.inputs[0]
    mean = gs.Variable("mean", np.dtype(np.float32), [])
    total = gs.Variable("shifted_x", np.dtype(np.float32), list(x.shape))
    shifted = gs.Node("Add", "shifted", inputs=[x, mean], outputs=[total])
    reduce = gs.Node("ReduceMean", "reduce", {"keepdims": 0}, inputs=[x], outputs=[mean])
    graph.nodes[0:0] = [reduce, shifted]
    quantizer.inputs[0] = total
    add_pair(Subject(graph), [(shifted, 1)], _scale(0.001))
    return str(q_of(shifted, 1).name)


def dynamic_quantize(graph: Graph) -> str:
    codes, scale, zero = (gs.Variable(name) for name in ("dyn", "dyn_scale", "dyn_zero"))
    codes.dtype = np.dtype(np.uint8)
    node = gs.Node(
        "DynamicQuantizeLinear", "dynamic", inputs=[graph.inputs[0]], outputs=[codes, scale, zero]
    )
    graph.nodes.append(node)
    graph.outputs.append(codes)
    return "dynamic"


def int32_bias(op: str) -> Fault:
    """The bias is stored as int32 behind a DequantizeLinear, as ONNX Runtime does."""

    def fault(graph: Graph) -> str:
        node = nth(graph, op)
        bias = constant_value(node.inputs[2])
        assert bias is not None
        codes = gs.Constant("bias_codes", np.rint(bias / 1e-4).astype(np.int32))
        scale = gs.Constant("bias_scale", np.full(bias.shape, 1e-4, np.float32))
        output = gs.Variable("bias_float", np.dtype(np.float32), list(bias.shape))
        dequantizer = gs.Node(
            "DequantizeLinear", "bias_DQ", {"axis": 0}, inputs=[codes, scale], outputs=[output]
        )
        graph.nodes.insert(0, dequantizer)
        node.inputs[2] = output
        return "bias_DQ"

    return fault


def stored(dtype: type, shift: int) -> Fault:
    """Weights are stored as codes of this type."""

    def fault(graph: Graph) -> str:
        node = nth(graph, "Conv")
        quantizer, dequantizer = q_of(node, 1), dequantizer_of(node.inputs[1])
        weights, scale = constant_value(quantizer.inputs[0]), _scale_of(quantizer)
        assert weights is not None
        assert dequantizer is not None
        codes = np.clip(np.rint(weights / scale.reshape(-1, 1, 1, 1)), -127, 127) + shift
        dequantizer.inputs[0] = gs.Constant("stored_codes", codes.astype(dtype))
        zeros = gs.Constant("stored_zero", np.full(scale.shape, shift, dtype))
        dequantizer.inputs[2] = zeros
        graph.nodes.remove(quantizer)
        quantizer.inputs.clear()
        quantizer.outputs.clear()
        return str(dequantizer.name)

    return fault


def stored_scalar(graph: Graph) -> str:
    """The factor of a Mul is stored in 8 bits, as onnxruntime.quantization does."""
    node = next(n for n in graph.nodes if n.op == "Mul" and not np.shape(_constant(n)))
    codes = gs.Constant("factor_codes", np.array(64, np.int8))
    scale = gs.Constant("factor_scale", np.asarray(_constant(node) / 64, np.float32))
    output = gs.Variable("factor", np.dtype(np.float32), [])
    graph.nodes.insert(
        0, gs.Node("DequantizeLinear", "factor_DQ", inputs=[codes, scale], outputs=[output])
    )
    index = next(i for i, x in enumerate(node.inputs) if isinstance(x, gs.Constant))
    node.inputs[index] = output
    return "factor_DQ"


def _constant(node: gs.Node) -> np.ndarray:
    return next((x.values for x in node.inputs if isinstance(x, gs.Constant)), np.zeros(1))


def half_with_float_scale(graph: Graph) -> str:
    """The first Conv is float16, and what it reads is cast for float32 Q/DQ, and back."""
    node = nth(graph, "Conv")
    for index in (0, 1):
        quantizer = q_of(node, index)
        source = quantizer.inputs[0]
        half = _cast(graph, source, np.float16, before=quantizer)
        quantizer.inputs[0] = _cast(graph, half, np.float32, before=quantizer)
        node.inputs[index] = _cast(graph, node.inputs[index], np.float16, before=node)
    bias, output = node.inputs[2], node.outputs[0]
    node.inputs[2] = gs.Constant(f"{bias.name}_half", bias.values.astype(np.float16))
    made = gs.Variable(f"{output.name}_half", np.dtype(np.float16), output.shape)
    node.outputs[0] = made
    at = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes.insert(at + 1, gs.Node("Cast", "conv_Cast", {"to": 1}, [made], [output]))
    _raise(graph, 19)
    return str(q_of_half(node).name)


def q_of_half(node: gs.Node) -> gs.Node:
    """The Q before the Cast before a node's first input."""
    cast = producer(node.inputs[0])
    assert cast is not None
    return q_of(cast)


def _cast(graph: Graph, tensor: gs.Tensor, dtype: type, *, before: gs.Node) -> gs.Tensor:
    name = f"{tensor.name}_as_{np.dtype(dtype).name}"
    output = gs.Variable(name, np.dtype(dtype), list(tensor.shape))
    to = {np.float32: 1, np.float16: 10}[dtype]
    at = next(i for i, node in enumerate(graph.nodes) if node is before)
    graph.nodes.insert(at, gs.Node("Cast", f"{name}_Cast", {"to": to}, [tensor], [output]))
    return output


def blocks(graph: Graph) -> str:
    """The weights of a MatMul are stored as INT8 in blocks."""
    node = next(n for n in graph.nodes if n.op == "MatMul" and dequantizer_of(n.inputs[1]))
    quantizer, dequantizer = q_of(node, 1), dequantizer_of(node.inputs[1])
    assert dequantizer is not None
    weights = constant_value(quantizer.inputs[0])
    assert weights is not None
    codes = gs.Constant("blocked", np.clip(np.rint(weights / 0.01), -127, 127).astype(np.int8))
    scale = np.full((weights.shape[0] // 8, weights.shape[1]), 0.01, np.float32)
    dequantizer.inputs = [codes, gs.Constant("block_scale", scale)]
    dequantizer.attrs.update(axis=0, block_size=8)
    graph.nodes.remove(quantizer)
    quantizer.inputs.clear()
    quantizer.outputs.clear()
    _raise(graph, 21)
    return str(dequantizer.name)


def unlike_pair(graph: Graph) -> str:
    """A DQ has twice the scale of its Q."""
    dequantizer = pair_of(q_of(nth(graph, "MatMul")))[1]
    dequantizer.inputs[1] = gs.Constant("twice", np.asarray(_scale_of(dequantizer) * 2, np.float32))
    return str(dequantizer.name)


def unlike_sides(graph: Graph) -> str:
    """A Conv reads FP8, and its weights are INT8."""
    node = nth(graph, "Conv", 2)
    write_zero_point(Subject(graph), q_of(node), np.zeros((), ml_dtypes.float8_e4m3fn))
    _raise(graph, 19)
    return str(node.name)


def too_old(graph: Graph) -> str:
    """An opset without axes, and none written."""
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            node.attrs.pop("axis", None)
    graph.opset = 12
    return str(q_of(nth(graph, "Conv"), 1).name)


def bare(op: str, *indices: int, at: int = 0) -> Fault:
    """These inputs of a node lose their Q/DQ."""

    def fault(graph: Graph) -> str:
        node = nth(graph, op, at)
        for index in indices:
            skip_pair(Subject(graph), node, index)
        return str(node.name)

    return fault


def dressed(op: str, index: int = 0, at: int = 0, scale: float = 0.05) -> Fault:
    """An input of a node gets Q/DQ that it should not have."""

    def fault(graph: Graph) -> str:
        node = nth(graph, op, at)
        add_pair(Subject(graph), [(node, index)], _scale(scale))
        return str(node.name)

    return fault


def dressed_both(graph: Graph) -> str:
    """Both branches of the first residual Add have Q/DQ."""
    node = nth(graph, "Add")
    index = next(i for i in (0, 1) if dequantizer_of(node.inputs[i]) is None)
    add_pair(Subject(graph), [(node, index)], _scale(0.05))
    return str(node.name)


def bare_skip(graph: Graph) -> str:
    node = nth(graph, "Add")
    index = next(i for i in (0, 1) if dequantizer_of(node.inputs[i]) is not None)
    skip_pair(Subject(graph), node, index)
    return str(node.name)


def own_skip_scale(graph: Graph) -> str:
    node = nth(graph, "Add")
    index = next(i for i in (0, 1) if dequantizer_of(node.inputs[i]) is not None)
    scale = _scale_of(q_of(node, index))
    skip_pair(Subject(graph), node, index)
    add_pair(Subject(graph), [(node, index)], scale * np.float32(1.5))
    return str(q_of(node, index).name)


def weight_axis(op: str, axis: int, at: int = 0) -> Fault:
    """Weights are quantized along a wrong axis, with as many scales as it is long."""

    def fault(graph: Graph) -> str:
        node = nth(graph, op, at)
        quantizer = q_of(node, 1)
        size = quantizer.inputs[0].shape[axis]
        write_axis(quantizer, axis)
        scale = np.full(size, _scale_of(quantizer).max(), np.float32)
        write_scale(Subject(graph), quantizer, scale)
        write_zero_point(Subject(graph), quantizer, np.zeros(size, np.int8))
        return str(node.name)

    return fault


def quantized_transpose(graph: Graph) -> str:
    node = nth(graph, "ConvTranspose")
    source = producer(node.inputs[0])
    if source is None or source.op != "DequantizeLinear":
        add_pair(Subject(graph), [(node, 0)], _scale(0.05))
        add_weight_pair(Subject(graph), node, 1)
    return str(node.name)


def requantized(op: str, at: int = 0) -> Fault:
    """What a moving op reads is quantized with a scale of its own."""

    def fault(graph: Graph) -> str:
        node = nth(graph, op, at)
        behind = [n for n, _ in consumers(node.outputs[0]) if n.op == "QuantizeLinear"]
        before = dequantizer_of(node.inputs[0])
        scale = _scale_of(behind[0]) if behind else _scale(0.05)
        if before is None:
            add_pair(Subject(graph), [(node, 0)], scale * np.float32(1.5))
        if not behind:
            first = before if before is not None else dequantizer_of(node.inputs[0])
            assert first is not None
            edges = [(n, i) for n, i in consumers(node.outputs[0])]
            add_pair(Subject(graph), edges, _scale_of(first) * np.float32(1.5))
        elif before is not None:
            write_scale(Subject(graph), behind[0], _scale_of(before) * np.float32(1.5))
        return str(node.name)

    return fault


def unequal_concat(graph: Graph) -> str:
    node = nth(graph, "Concat")
    for index, factor in ((0, 1.0), (1, 1.5)):
        if dequantizer_of(node.inputs[index]) is not None:
            scale = _scale_of(q_of(node, index))
            skip_pair(Subject(graph), node, index)
        else:
            scale = _scale(0.05)
        add_pair(Subject(graph), [(node, index)], scale * np.float32(factor))
    return str(node.name)


def half_pool(graph: Graph) -> str:
    """The Q behind an AveragePool goes."""
    node = nth(graph, "AveragePool")
    for quantizer, _ in list(consumers(node.outputs[0])):
        for dequantizer in pair_of(quantizer)[1:]:
            for reader, index in list(consumers(dequantizer.outputs[0])):
                skip_pair(Subject(graph), reader, index)
    return str(node.name)


def before_norm(graph: Graph) -> str:
    """A BatchNormalization behind a Conv, with Q/DQ between."""
    node = nth(graph, "Conv", 1)
    result = node.outputs[0]
    inner = gs.Variable("before_norm", result.dtype, result.shape)
    channels = node.inputs[1].shape[0]
    ones = [gs.Constant(f"ones_{i}", np.ones(channels, np.float32)) for i in range(4)]
    node.outputs[0] = inner
    norm = gs.Node("BatchNormalization", "norm", inputs=[inner, *ones], outputs=[result])
    graph.nodes.insert(graph.nodes.index(node) + 1, norm)
    add_pair(Subject(graph), [(norm, 0)], _scale(0.05))
    return "norm"


def quantized_output(*, with_dequantizer: bool) -> Fault:
    """The output is quantized."""

    def fault(graph: Graph) -> str:
        old, *others = graph.outputs
        name = old.name
        old.name = f"{name}_float"
        parameters = [
            gs.Constant("out_scale", _scale(0.05)),
            gs.Constant("out_zero", np.zeros((), np.int8)),
        ]
        codes = gs.Variable("out_codes", np.dtype(np.int8), old.shape)
        graph.nodes.append(gs.Node("QuantizeLinear", "out_Q", {}, [old, *parameters], [codes]))
        if not with_dequantizer:
            codes.name = name
            graph.outputs = [codes, *others]
            return "out_Q"
        new = gs.Variable(name, old.dtype, old.shape)
        graph.nodes.append(gs.Node("DequantizeLinear", "out_DQ", {}, [codes, *parameters], [new]))
        graph.outputs = [new, *others]
        return "out_DQ"

    return fault


def quantized_scores(graph: Graph) -> str:
    softmax = nth(graph, "Softmax")
    reader = producer(softmax.inputs[0])
    assert reader is not None
    add_pair(Subject(graph), [(reader, 0)], _scale(0.05))
    return str(reader.name)


def lone_quantizer(graph: Graph) -> str:
    quantizer = q_of(nth(graph, "Conv"))
    lone = gs.Node(
        "QuantizeLinear",
        "lone_Q",
        inputs=list(quantizer.inputs),
        outputs=[gs.Variable("lone", np.dtype(np.int8))],
    )
    graph.nodes.append(lone)
    return "lone_Q"


def lone_dequantizer(graph: Graph) -> str:
    quantizer = q_of(nth(graph, "Conv"))
    codes = gs.Variable("lone_codes", np.dtype(np.int8), quantizer.inputs[0].shape)
    output = gs.Variable("lone_float", np.dtype(np.float32), quantizer.inputs[0].shape)
    cast = gs.Node("Cast", "lone_Cast", {"to": 3}, [quantizer.inputs[0]], [codes])
    lone = gs.Node("DequantizeLinear", "lone_DQ", {}, [codes, *quantizer.inputs[1:]], [output])
    end = gs.Variable("lone_end", np.dtype(np.float32), quantizer.inputs[0].shape)
    graph.nodes += [cast, lone, gs.Node("Relu", "lone_Relu", {}, [output], [end])]
    graph.outputs.append(end)
    return "lone_DQ"


def doubled(factor: float) -> Fault:
    """A second pair right behind the first."""

    def fault(graph: Graph) -> str:
        node = nth(graph, "Conv", 1)
        scale = _scale_of(q_of(node))
        add_pair(Subject(graph), [(node, 0)], scale * np.float32(factor))
        return str(q_of(node).name)

    return fault


def uncalibrated(graph: Graph) -> str:
    found = Subject(graph).activations
    for node, _ in found:
        write_scale(Subject(graph), node, _scale(1))
    return str(found[0][0].name)


def one_scale_for_outliers(graph: Graph) -> str:
    node = nth(graph, "Conv", 1)
    quantizer = q_of(node, 1)
    weights = constant_value(quantizer.inputs[0])
    assert weights is not None
    weights = weights.copy()
    weights[0] *= 100
    quantizer.inputs[0] = gs.Constant("outlier_weights", weights)
    for member in pair_of(quantizer):
        member.attrs.pop("axis", None)
    write_scale(Subject(graph), quantizer, _scale(np.abs(weights).max() / 127))
    return str(quantizer.name)


def foreign(op: str, domain: str) -> Fault:
    """An operator on the input that TensorRT does not have."""

    def fault(graph: Graph) -> str:
        output = gs.Variable("foreign", np.dtype(np.float32))
        node = gs.Node(op, "foreign", inputs=[graph.inputs[0]], outputs=[output], domain=domain)
        graph.nodes.append(node)
        graph.outputs.append(output)
        return "foreign"

    return fault


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda scale: scale * np.float32(factor)


SEEDS: Sequence[Seed] = (
    Seed("QDQ001", "residual", zero_point(5, np.int8)),
    Seed("QDQ001", "inception", zero_point(128, np.uint8)),
    Seed("QDQ001", "unet", zero_point(3, np.int8, index=1)),
    Seed("QDQ002", "densenet", no_zero_point),
    Seed("QDQ003", "vit", zero_point(0, np.uint8, op="MatMul")),
    Seed("QDQ003", "unet", zero_point(0, np.uint8, at=2)),
    Seed("QDQ004", "residual", dead_channel(0.0)),
    Seed("QDQ004", "densenet", scaled(times(-1.0))),
    Seed("QDQ004", "unet", scaled(times(0.0))),
    Seed("QDQ005", "residual", fed_scale),
    Seed("QDQ006", "inception", scaled(lambda s: s.reshape(-1, 1), index=1)),
    Seed("QDQ006", "unet", scaled(lambda s: s[:-1], index=1)),
    Seed("QDQ007", "residual", scaled(lambda s: s.reshape(1), at=1)),
    Seed("QDQ007", "vit", scaled(lambda s: s.reshape(1), op="MatMul")),
    Seed("QDQ007", "densenet", scaled(lambda s: np.full(3, s))),
    Seed("QDQ008", "inception", scalar_branch),
    Seed("QDQ010", "unet", sixteen_bit),
    Seed("QDQ011", "residual", dynamic_quantize),
    Seed("QDQ012", "residual", int32_bias("Gemm")),
    Seed("QDQ012", "inception", int32_bias("Conv")),
    Seed("QDQ013", "densenet", stored(np.uint8, 128)),
    Seed("QDQ013", "unet", stored(np.int16, 0)),
    Seed("QDQ101", "inception", bare("Conv", 0, at=1)),
    Seed("QDQ101", "densenet", bare("Conv", 1, at=2)),
    Seed("QDQ101", "vit", bare("MatMul", 1)),
    Seed("QDQ102", "residual", dressed("GlobalAveragePool")),
    Seed("QDQ103", "residual", weight_axis("Conv", 1, at=1)),
    Seed("QDQ103", "vit", weight_axis("MatMul", 0)),
    Seed("QDQ104", "squeeze_excite", quantized_transpose, RTX),
    Seed("QDQ105", "residual", bare_skip),
    Seed("QDQ106", "residual", own_skip_scale),
    Seed("QDQ107", "vit", requantized("Transpose")),
    Seed("QDQ107", "unet", requantized("Resize")),
    Seed("QDQ108", "inception", unequal_concat),
    Seed("QDQ108", "densenet", unequal_concat),
    Seed("QDQ109", "unet", requantized("MaxPool")),
    Seed("QDQ110", "inception", half_pool),
    Seed("QDQ111", "squeeze_excite", dressed("Mul", 1), RTX),
    Seed("QDQ111", "squeeze_excite", bare("Mul", 0, 1)),
    Seed("QDQ112", "inception", dressed("Relu")),
    Seed("QDQ112", "residual", dressed("Relu")),
    Seed("QDQ112", "squeeze_excite", dressed("HardSwish")),
    Seed("QDQ112", "squeeze_excite", dressed("Sigmoid")),
    Seed("QDQ113", "unet", before_norm),
    Seed("QDQ114", "unet", quantized_output(with_dequantizer=True)),
    Seed("QDQ114", "residual", quantized_output(with_dequantizer=False)),
    Seed("QDQ117", "vit", dressed("LayerNormalization")),
    Seed("QDQ117", "vit", dressed("Div")),
    Seed("QDQ119", "vit", dressed("Softmax")),
    Seed("QDQ118", "vit", bare("MatMul", 0, 1, at=3)),
    Seed("QDQ119", "vit", quantized_scores),
    Seed("QDQ120", "densenet", lone_quantizer),
    Seed("QDQ120", "residual", lone_dequantizer),
    Seed("QDQ121", "inception", doubled(1.0)),
    Seed("QDQ121", "unet", doubled(0.7)),
    Seed("QDQ122", "residual", dressed_both),
    Seed("QDQ001", "yolo", zero_point(128, np.uint8, at=5)),
    Seed("QDQ003", "yolo", zero_point(0, np.uint8, at=7)),
    Seed("QDQ004", "yolo", dead_channel(0.0)),
    Seed("QDQ007", "yolo", scaled(lambda s: s.reshape(1), at=9)),
    Seed("QDQ016", "yolo", four_bit),
    Seed("QDQ101", "yolo", bare("Conv", 1, at=11)),
    Seed("QDQ103", "yolo", weight_axis("Conv", 1, at=4)),
    Seed("QDQ105", "yolo", bare_skip),
    Seed("QDQ107", "yolo", requantized("Resize")),
    Seed("QDQ108", "yolo", unequal_concat),
    Seed("QDQ109", "yolo", requantized("MaxPool")),
    Seed("QDQ112", "yolo", dressed("Sigmoid", at=3)),
    Seed("QDQ114", "yolo", quantized_output(with_dequantizer=True)),
    Seed("QDQ120", "yolo", lone_quantizer),
    Seed("QDQ121", "yolo", doubled(0.7)),
    Seed("CAL004", "yolo", scaled(times(0.1), index=1)),
    Seed("DEP006", "yolo", foreign("FancyOp", "com.example")),
    Seed("QDQ001", "bert", zero_point(128, np.uint8, op="MatMul", at=1)),
    Seed("QDQ003", "bert", zero_point(0, np.uint8, op="MatMul", at=6)),
    Seed("QDQ004", "bert", scaled(times(0.0), op="MatMul", at=2)),
    Seed("QDQ007", "bert", scaled(lambda s: s.reshape(1), op="MatMul", at=7)),
    Seed("QDQ008", "bert", stored_scalar),
    Seed("QDQ012", "bert", int32_bias("Gemm")),
    Seed("QDQ015", "bert", blocks),
    Seed("QDQ101", "bert", bare("MatMul", 0)),
    Seed("QDQ103", "bert", weight_axis("MatMul", 0, at=1)),
    Seed("QDQ117", "bert", dressed("Pow")),
    Seed("QDQ118", "bert", bare("MatMul", 0, 1, at=3)),
    Seed("QDQ119", "bert", quantized_scores),
    Seed("CAL007", "bert", scaled(times(30.0), op="MatMul", at=4)),
    Seed("QDQ009", "residual", half_with_float_scale),
    Seed("QDQ014", "residual", too_old),
    Seed("QDQ018", "vit", unlike_pair),
    Seed("QDQ019", "inception", unlike_sides),
    Seed("CAL001", "residual", scaled(lambda s: np.full_like(s, 1e-12))),
    Seed("CAL002", "unet", uncalibrated),
    Seed("CAL003", "inception", dead_channel(0.01)),
    Seed("CAL004", "unet", scaled(times(0.1), index=1)),
    Seed("CAL005", "densenet", scaled(times(30.0), index=1, at=1)),
    Seed("CAL006", "residual", one_scale_for_outliers),
    Seed("CAL007", "vit", scaled(times(30.0), op="MatMul", at=4)),
    Seed("DEP004", "unet", foreign("Det", "")),
    Seed("DEP006", "inception", foreign("FancyOp", "com.example")),
)
"""Every rule that looks at the file alone and can be broken in a network, most of them twice."""


def seed_id(seed: Seed) -> str:
    """A name for pytest."""
    return f"{seed.rule}-{seed.model}-{SEEDS.index(seed)}"


__all__ = ["ARCHITECTURES", "SEEDS", "SOURCES", "Seed", "good", "replace", "seed_id"]
