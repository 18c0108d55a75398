"""ENG: what the compiled plan shows. Silent without one (`audit --compile`)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.subject import QUANTIZE, Subject, dequantizer_behind, dequantizer_of
from onnxqat.auditing.values import input_of, label
from onnxqat.core.engine_plan import Passage, Precision
from onnxqat.core.finding import Severity
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph.query import consumers
from onnxqat.placement.branches import readers_below, weighted_above

IN_FLOAT = frozenset({Precision.FP32, Precision.FP16, Precision.BF16})
FP32 = "Float"
"""The compiler's word."""


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
    found = _precisions(subject)
    for node in subject.heavy:
        precision = found.get(compiled_name(node))
        if precision in IN_FLOAT and _is_quantized(node):
            yield Objection(
                f"this {node.op} is quantized, and was compiled to {precision.value}",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="see the other findings here, or exclude the node from quantization",
            )


@rule("ENG003", Severity.WARNING)
def float_between_pairs(subject: Subject) -> Iterator[Objection]:
    """An operator without weights, between a DQ and a Q, was compiled to float.

    Why it matters: INT8 is turned into float before it and back behind it, four times the bytes on
    both sides.

    How to fix: put the DQ right before and the Q right behind the operator, with nothing in
    between. If it stays in float all the same, take the pairs off.

    Source: the compiled plan.
    """
    found = _precisions(subject)
    for node in subject.nodes:
        precision = found.get(compiled_name(node))
        if node.op in HEAVY_OPS or precision not in IN_FLOAT or not node.inputs:
            continue
        reads = all(dequantizer_of(x) is not None for x in node.inputs if subject.is_fed(x))
        writes = consumers(node.outputs[0])
        if reads and writes and all(reader.op == QUANTIZE for reader, _ in writes):
            yield Objection(
                f"this {node.op} stands between DQ and Q, and was compiled to {precision.value}",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="put DQ and Q right beside it, or take them off",
            )


@rule("ENG004", Severity.NOTE)
def float_island(subject: Subject) -> Iterator[Objection]:
    """A Conv, ConvTranspose, Gemm or MatMul runs in float between ones in INT8.

    Why it matters: its input is turned into float and its result back to INT8, with float tensors
    in memory. A single one can cost more than INT8 gains beside it.

    How to fix: quantize it too, unless it was left out on purpose, for accuracy. (TensorRT for RTX
    has no INT8 kernel for ConvTranspose.)

    Source: the compiled plan.
    """
    found = _precisions(subject)
    originals = {id(subject.wanted.twin(node)): node for node in subject.heavy}
    for node in subject.heavy:
        twin, precision = subject.wanted.twin(node), found.get(compiled_name(node))
        if twin is None or precision not in IN_FLOAT or _is_quantized(node):
            continue
        above = (x for tensor in twin.inputs[:1] for x in weighted_above(tensor))
        below = (x for tensor in twin.outputs for x, _ in readers_below(tensor))
        sides = [
            {found.get(compiled_name(originals[id(x)])) for x in side if id(x) in originals}
            for side in (above, below)
        ]
        if all(Precision.INT8 in side for side in sides):
            yield Objection(
                f"this {node.op} runs in {precision.value} between kernels in INT8",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="quantize it too, unless accuracy forbids it",
            )


@rule("ENG005", Severity.NOTE)
def float32_residue(subject: Subject) -> Iterator[Objection]:
    """What is not INT8 runs in FP32, where FP16 would do.

    Why it matters: TensorRT 11 takes types from the file. The layers that stay in float run in FP32
    if the file says float32: twice the bytes of FP16, and no tensor cores.

    How to fix: store the rest of the network in float16, with float16 scales.

    Source: TensorRT 11 release notes: weak typing is gone; the compiled plan.
    """
    plan = subject.evidence.engine
    if plan is None or not subject.quantizers:
        return
    sizes = [(crossing.view.dtype == FP32, crossing.view.bytes) for crossing in plan.crossings]
    floats, total = sum(size for is_float, size in sizes if is_float), sum(x for _, x in sizes)
    if 2 * floats > total:
        yield Objection(
            f"{100 * floats / total:.0f} % of the bytes of all tensors in memory are FP32",
            fix="store the layers that stay in float as float16",
        )


@rule("ENG006", Severity.NOTE)
def unfused(subject: Subject) -> Iterator[Objection]:
    """A Q or DQ stayed a kernel of its own.

    Why it matters: it reads and writes the whole tensor for one rounding. Pairs are meant to be
    taken into the kernels beside them. (That of the network's input has no kernel before it, and is
    not told.)

    How to fix: see the other findings there; a pair that serves no INT8 kernel can go.

    Source: the compiled plan.
    """
    plan = subject.evidence.engine
    if plan is None:
        return
    by_name = {compiled_name(x): x for x in (*subject.quantizers, *subject.dequantizers)}
    inputs = {tensor.name for tensor in subject.graph.inputs}
    for layer in plan.layers if plan.qdq_layers else ():
        nodes = [by_name[name] for name in layer.onnx_nodes if name in by_name]
        fed = {tensor.name for node in nodes for tensor in node.inputs[:1]}
        if layer.name in plan.qdq_layers and nodes and not fed & inputs:
            yield Objection(
                f"kernel {layer.name} does nothing but quantize or dequantize, "
                f"{layer.activation_bytes} bytes",
                node=label(nodes[0]),
                tensor=nodes[0].inputs[0].name,
                fix="see the other findings there",
            )


@rule("ENG007", Severity.NOTE)
def crosses_in_float(subject: Subject) -> Iterator[Objection]:
    """A tensor with Q/DQ goes through memory in float.

    Why it matters: the compiler moved the DQ into the kernel that computes the tensor. So it is
    rounded to 8 bits, and stored in 32: the error of INT8 without its bytes.

    How to fix: take the pair off, unless the same file has to run on another compiler that does
    store it in INT8.

    Source: the compiled plan.
    """
    plan = subject.evidence.engine
    names = {compiled_name(node): node for node in subject.nodes}
    for edge in plan.qdq if plan is not None else ():
        if edge.passage is Passage.FLOAT:
            node = names.get(edge.reader)
            yield Objection(
                f"'{edge.tensor}' has Q/DQ, and crosses memory in float",
                node=edge.reader if node is None else label(node),
                tensor=edge.tensor,
                fix="take the pair off",
            )


def _precisions(subject: Subject) -> dict[str, Precision]:
    """Compiled name -> precision, of the nodes that the plan tells about; empty without a plan."""
    plan = subject.evidence.engine
    return {} if plan is None else {node.node: node.precision for node in plan.nodes}


def _is_quantized(node: gs.Node) -> bool:
    return all(dequantizer_behind(input_of(node, index)) is not None for index in (0, 1))


def compiled_name(node: gs.Node) -> str:
    """The compiler's name for a node: its own, or one made of its output's."""
    return str(node.name or f"node_of_{node.outputs[0].name if node.outputs else ''}")
