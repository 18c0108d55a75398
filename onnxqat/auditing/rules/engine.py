"""ENG: what the compiled plan shows. Silent without one (`audit --compile`)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.subject import (
    DEQUANTIZE,
    QUANTIZE,
    Subject,
    dequantizer_behind,
    dequantizer_of,
)
from onnxqat.auditing.values import input_of, label
from onnxqat.core.engine_plan import EngineLayer, EnginePlan
from onnxqat.core.finding import Severity
from onnxqat.core.precision import NodePrecision, Precision, layer_precision, node_precisions
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.branches import readers_below, weighted_above

IN_FLOAT = frozenset({Precision.FP32, Precision.FP16, Precision.BF16})
WEIGHTLESS = frozenset({"AveragePool", "MaxPool"})
"""Operators without weights that have INT8 kernels."""
FP32, INT8 = "Float", "Int8"
"""The compiler's words."""


@rule("ENG001", Severity.ERROR)
def refused(subject: Subject) -> Iterator[Objection]:
    """The compiler refuses the model.

    Why it matters: there is no engine. The other findings often tell why; where there are none, the
    compiler's own words are all that is known.

    How to fix: mend the errors of this audit first. Compile the float model: if that fails too, the
    network is the problem, not its quantization.

    Source: the compiler, on this machine.
    """
    if subject.evidence.refusal is not None:
        yield Objection(
            subject.evidence.refusal,
            node=subject.evidence.refused_node,
            fix="mend the errors of this audit; then compile the float model",
        )


@rule("ENG002", Severity.WARNING)
def compiled_to_float(subject: Subject) -> Iterator[Objection]:
    """A Conv, Gemm or MatMul with Q/DQ on both sides was compiled to float.

    Why it matters: the file asks for INT8, and the engine multiplies floats. Q/DQ is then work on
    top, and accuracy lost for nothing.

    How to fix: see the other findings at this node; QDQ103 and QDQ007 are the usual causes. If the
    compiler has no INT8 kernel for it, exclude it from quantization.

    Source: the compiled plan.
    """
    for node, found in _precisions(subject):
        if _is_quantized(node) and found.precision in IN_FLOAT:
            yield Objection(
                f"this {node.op} is quantized, and was compiled to {found.precision.value}",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="see the other findings here, or exclude the node from quantization",
            )


@rule("ENG003", Severity.WARNING)
def float_pool(subject: Subject) -> Iterator[Objection]:
    """A pool between Q/DQ was compiled to float.

    Why it matters: INT8 is turned into float before it and back behind it, four times the bytes on
    both sides.

    How to fix: put the DQ right before and the Q right behind the pool, with nothing in between.

    Source: the compiled plan.
    """
    plan = subject.evidence.engine
    for node in subject.nodes if plan is not None else ():
        if node.op not in WEIGHTLESS or dequantizer_of(node.inputs[0]) is None:
            continue
        if not any(reader.op == QUANTIZE for reader, _ in consumers(node.outputs[0])):
            continue
        layers = plan.layers_of(_compiled_name(node)) if plan is not None else ()
        if layers and all(_reads_float(layer) for layer in layers):
            yield Objection(
                f"this {node.op} stands between DQ and Q, and was compiled to float",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="put DQ and Q right beside the pool",
            )


@rule("ENG004", Severity.NOTE)
def float_island(subject: Subject) -> Iterator[Objection]:
    """A Conv, Gemm or MatMul runs in float between ones in INT8.

    Why it matters: its input is turned into float and its result back to INT8, with float tensors
    in memory. A single one can cost more than INT8 gains beside it.

    How to fix: quantize it too, unless it was left out on purpose, for accuracy.

    Source: the compiled plan.
    """
    found = {id(node): precision.precision for node, precision in _precisions(subject)}
    for node in subject.heavy:
        twin = subject.wanted.twin(node)
        if twin is None or found.get(id(node)) not in IN_FLOAT or _is_quantized(node):
            continue
        names = {id(t): i for i, t in subject.wanted.twins.items()}
        above = [found.get(names.get(id(x), 0)) for t in twin.inputs[:1] for x in weighted_above(t)]
        reads = (x for t in twin.outputs for x, _ in readers_below(t))
        below = [found.get(names.get(id(x), 0)) for x in reads]
        if Precision.INT8 in above and Precision.INT8 in below:
            yield Objection(
                f"this {node.op} runs in {found[id(node)].value} between kernels in INT8",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="quantize it too, unless accuracy forbids it",
            )


@rule("ENG005", Severity.NOTE)
def float32_residue(subject: Subject) -> Iterator[Objection]:
    """What is not INT8 runs in FP32, where FP16 would do.

    Why it matters: TensorRT 11 takes types from the file. The layers that stay in float run in FP32
    if the file says float32: twice the bytes of FP16, and no tensor cores.

    How to fix: store the rest of the network in float16 (`onnxqat` and its peers call this the
    residue), with float16 scales.

    Source: TensorRT 11 release notes: weak typing is gone; the compiled plan.
    """
    plan = subject.evidence.engine
    if plan is None:
        return
    views = [view for layer in plan.kernels for view in (*layer.inputs, *layer.outputs)]
    floats, total = sum(v.bytes for v in views if v.dtype == FP32), sum(v.bytes for v in views)
    if subject.quantizers and total and 2 * floats > total:
        yield Objection(
            f"{100 * floats / total:.0f} % of the bytes between kernels are FP32",
            fix="store the layers that stay in float as float16",
        )


@rule("ENG006", Severity.NOTE)
def unfused(subject: Subject) -> Iterator[Objection]:
    """A Q or DQ stayed a kernel of its own.

    Why it matters: it reads and writes the whole tensor for one rounding. Pairs are meant to be
    taken into the kernels beside them. (That of the network's input has no kernel before it.)

    How to fix: see the other findings there; a pair that serves no INT8 kernel can go.

    Source: the compiled plan.
    """
    plan = subject.evidence.engine
    if plan is None:
        return
    by_name = {node.name: node for node in (*subject.quantizers, *subject.dequantizers)}
    for layer in plan.kernels:
        nodes = [by_name.get(name) for name in layer.onnx_nodes]
        if nodes and all(node is not None for node in nodes) and _moves_floats(layer):
            known = [node for node in nodes if node is not None]
            if not any(_is_of_input(subject, node) for node in known):
                yield Objection(
                    f"{', '.join(label(node) for node in known)}: a kernel of its own, "
                    f"{layer.activation_bytes} bytes",
                    node=label(known[0]),
                    tensor=known[0].inputs[0].name,
                    fix="see the other findings there",
                )


def _moves_floats(layer: EngineLayer) -> bool:
    return any(view.dtype != INT8 for view in (*layer.inputs, *layer.outputs))


def _is_of_input(subject: Subject, node: gs.Node) -> bool:
    tensor = node.inputs[0]
    while (source := producer(tensor)) is not None and source.op in (QUANTIZE, DEQUANTIZE):
        tensor = source.inputs[0]
    return producer(tensor) is None


def _reads_float(layer: EngineLayer) -> bool:
    return layer_precision(layer) in IN_FLOAT and any(v.dtype == FP32 for v in layer.inputs)


def _is_quantized(node: gs.Node) -> bool:
    return all(dequantizer_behind(input_of(node, index)) is not None for index in (0, 1))


def _precisions(subject: Subject) -> Iterator[tuple[gs.Node, NodePrecision]]:
    plan: EnginePlan | None = subject.evidence.engine
    if plan is not None:
        found = node_precisions(plan, ((_compiled_name(node), node.op) for node in subject.heavy))
        yield from zip(subject.heavy, found, strict=True)


def _compiled_name(node: gs.Node) -> str:
    """The compiler's name for a node: its own, or one made of its output's."""
    return str(node.name or f"node_of_{node.outputs[0].name}")
