"""QDQ102, QDQ110 … QDQ119: pairs where no INT8 kernel reads them, and kernels that lack theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import add_pair, remove_last_quantizer, remove_pair, skip_pair
from onnxqat.auditing.subject import (
    DEQUANTIZE,
    QUANTIZE,
    Subject,
    dequantizer_behind,
    dequantizer_of,
    is_cast_to_half,
    quantizer_of,
    quantizers_behind,
    scalar_scale,
)
from onnxqat.auditing.values import input_of, label, value_of
from onnxqat.core.finding import Severity
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.attention import is_attention_scores
from onnxqat.placement.branches import SCALES_AND_MASKS, activations, only_reader
from onnxqat.placement.config import PROFILES
from onnxqat.placement.families import RECURRENT, VALUE_INPUTS

SHRINKING = frozenset({"Clip", "HardSwish", "LeakyRelu", "Relu", "Swish", "Tanh"})
"""Activations f with |f(x)| <= |x|, for which the scale of their input is wide enough."""

GATES = frozenset({"HardSigmoid", "Sigmoid", "Tanh"})
"""What an activation such as SiLU multiplies its own input by."""

ACTIVATIONS = (
    SHRINKING
    | GATES
    | {"Elu", "Erf", "Gelu", "Mish", "PRelu", "Selu", "Softplus", "ThresholdedRelu"}
)

NORMS = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization"}
    | {"LpNormalization", "RMSNormalization", "Softmax", "LogSoftmax"}
)


@dataclass(frozen=True)
class Unneeded:
    """A pair on an edge that no rule of placement would quantize."""

    code: str
    node: gs.Node
    index: int
    dequantizer: gs.Node
    repair: Repair

    def objection(self, problem: str, fix: str) -> Objection:
        """What a rule says about it."""
        return Objection(
            problem,
            node=label(self.node),
            tensor=self.node.inputs[self.index].name,
            fix=fix,
            repair=self.repair,
        )


@rule("QDQ102", Severity.NOTE)
def unneeded(subject: Subject) -> Iterator[Objection]:
    """A tensor is quantized for an operator that has no INT8 kernel.

    Why it matters: Q/DQ is wanted on the inputs of Conv, Gemm and MatMul, on residual branches and
    around some pools. Elsewhere it rounds, breaks fusions and makes no kernel faster: pointwise
    operators run in the type of their neighbours.

    How to fix: take the pair off this input. Quantize inputs of kernels, not their outputs.

    Source: TensorRT developer guide, Q/DQ layer placement: be conservative.
    """
    for found in _unneeded(subject, "QDQ102"):
        yield found.objection(
            f"{found.node.op} has no INT8 kernel that this Q/DQ pair would be for",
            "take the pair off this input",
        )


@rule("QDQ110", Severity.WARNING)
def half_quantized_pool(subject: Subject) -> Iterator[Objection]:
    """An average pool is quantized on one side only.

    Why it matters: operators without weights run in INT8 where DQ, operator and Q are adjacent.
    With one of them missing, or a Reshape in between, the pool runs in float.

    How to fix: put a pair on its input and one right at its output. The output's scale may be the
    input's: an average is never larger.

    Source: TensorRT developer guide; measured: ResNet-20 moves 1.991 MB with it, 2.016 MB without;
    a small Inception 23 % more with one side only.
    """
    pools = PROFILES[subject.config.profile].pool_ops
    for node in subject.nodes:
        if node.op not in pools or not subject.wanted.is_placed(node, 0):
            continue
        before = dequantizer_of(node.inputs[0])
        behind = [q for q, i in consumers(node.outputs[0]) if q.op == QUANTIZE and i == 0]
        if (before is None) == (not behind):
            continue
        side = "input" if before is None else "output"
        yield Objection(
            f"the {side} of this {node.op} is not quantized right beside it: it runs in float",
            node=label(node),
            tensor=(node.inputs if before is None else node.outputs)[0].name,
            fix=f"put Q/DQ right at its {side}",
            repair=None if before is None else _pair_behind(subject, node, before),
        )


def _pair_behind(subject: Subject, node: gs.Node, dequantizer: gs.Node) -> Repair | None:
    scale, edges = scalar_scale(dequantizer), list(consumers(node.outputs[0]))
    if scale is None or not edges or id(node.outputs[0]) in subject.outputs:
        return None
    return partial(add_pair, subject, edges, np.asarray(scale, np.float32))


@rule("QDQ111", Severity.NOTE)
def squeeze_excite(subject: Subject) -> Iterator[Objection]:
    """A squeeze-and-excitation block has Q/DQ where the compiler gains nothing, or has none.

    Why it matters: TensorRT runs the block's Mul in INT8 if both of its inputs have Q/DQ. TensorRT
    for RTX runs it, and the average over the whole map, in float all the same: Q/DQ there saves no
    byte, and the gate loses accuracy.

    How to fix: for TensorRT put Q/DQ on both inputs of the Mul; for RTX take it off.

    Source: NVIDIA's tensorflow-quantization and ModelOpt put it there; measured on TensorRT for RTX
    1.7.1: an INT8 Mul or GlobalAveragePool of the block saves nothing.
    """
    for found in _unneeded(subject, "QDQ111"):
        yield found.objection(
            f"Q/DQ on the {found.node.op} of a squeeze-and-excitation block saves nothing",
            "take the pair off this input",
        )
    for node in subject.nodes:
        is_wanted = node.op == "Mul" and all(subject.wanted.is_placed(node, i) for i in (0, 1))
        if is_wanted and any(dequantizer_behind(tensor) is None for tensor in node.inputs):
            yield Objection(
                "an input of the Mul of this squeeze-and-excitation block has no Q/DQ",
                node=label(node),
                tensor=node.outputs[0].name,
                fix="calibrate both inputs, and put Q/DQ on them",
            )


@rule("QDQ112", Severity.WARNING)
def before_activation(subject: Subject) -> Iterator[Objection]:
    """A Q stands between a Conv, Gemm or MatMul and its activation.

    Why it matters: the activation fuses into the kernel. A Q before it is one more rounding in the
    same kernel, and spends codes on values that the activation throws away: half of them for Relu.

    How to fix: put the Q behind the activation; for SiLU and HardSwish behind the Mul.

    Source: TensorRT developer guide, Q/DQ layer placement; ModelOpt; measured: an extra fake
    quantization in the same kernel.
    """
    for found in _unneeded(subject, "QDQ112"):
        yield found.objection(
            f"Q/DQ stands between a kernel and its {found.node.op}",
            "put the pair behind the activation",
        )


@rule("QDQ113", Severity.WARNING)
def before_normalization(subject: Subject) -> Iterator[Objection]:
    """A Q stands between a Conv and its BatchNormalization.

    Why it matters: TensorRT folds the normalization into the Conv. A Q between them keeps it from
    that, and rounds values before they are scaled.

    How to fix: take the pair off; fold the BatchNormalization before quantizing (`onnxqat prepare`
    does), or leave it for TensorRT to fold.

    Source: TensorRT developer guide; NVIDIA's tensorflow-quantization.
    """
    for found in _unneeded(subject, "QDQ113"):
        yield found.objection(
            "Q/DQ stands between a Conv and its BatchNormalization", "take the pair off"
        )


@rule("QDQ114", Severity.WARNING)
def quantized_output(subject: Subject) -> Iterator[Objection]:
    """A graph output is quantized.

    Why it matters: Q/DQ at the end rounds what the user reads, gains no INT8 kernel, and costs one
    step more. A Q without DQ changes the output's type.

    How to fix: take the pair off.

    Source: ModelOpt's placement for TensorRT leaves outputs bare too.
    """
    for output in subject.graph.outputs:
        source = producer(output)
        if source is None or source.op not in (QUANTIZE, DEQUANTIZE):
            continue
        is_pair = source.op == DEQUANTIZE and quantizer_of(source) is not None
        remove = remove_pair if is_pair else remove_last_quantizer
        yield Objection(
            f"a {source.op} makes the graph output",
            node=label(source),
            tensor=output.name,
            fix="take the Q/DQ pair off the output",
            repair=partial(remove, subject, source) if is_pair or source.op == QUANTIZE else None,
        )


@rule("QDQ117", Severity.NOTE)
def on_constants_and_norms(subject: Subject) -> Iterator[Objection]:
    """A normalization, or a pointwise operator with a constant, reads a quantized tensor.

    Why it matters: LayerNormalization, Softmax, the parts of GELU and a scale or mask run in float.
    Q/DQ on them rounds for nothing, and may keep them from fusing with their neighbours.

    How to fix: take the pair off this input.

    Source: ModelOpt leaves them bare too.
    """
    for found in _unneeded(subject, "QDQ117"):
        yield found.objection(f"Q/DQ on the input of a {found.node.op}", "take the pair off")


@rule("QDQ118", Severity.WARNING)
def float_attention(subject: Subject) -> Iterator[Objection]:
    """A MatMul of two activations, as in attention, is not quantized.

    Why it matters: with Q/DQ on both inputs of both MatMuls an attention block becomes one fused
    kernel in INT8. Without them its products run in float: 4 kernels more, and 58 % more bytes.

    How to fix: put Q/DQ on both inputs, the Softmax's result included, whose range is [0, 1].

    Source: ModelOpt; measured on TensorRT for RTX with a ViT block of 3 heads.
    """
    for node in subject.heavy:
        wanted = [subject.wanted.is_placed(node, index) for index in (0, 1)]
        sides = [input_of(node, index) for index in (0, 1)]
        if not all(wanted) or any(dequantizer_behind(side) is not None for side in sides):
            continue
        if subject.dequantizers and all(x is not None and subject.is_fed(x) for x in sides):
            yield Objection(
                f"this {node.op} of two activations has no Q/DQ: it runs in float",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="calibrate both inputs, and put Q/DQ on them",
            )


@rule("QDQ119", Severity.WARNING)
def attention_scores(subject: Subject) -> Iterator[Objection]:
    """The scores of attention are quantized, between the MatMul and the Softmax.

    Why it matters: a fused attention kernel keeps its scores to itself. A Q on them breaks the
    fusion: the scores, the largest tensor of the block, are written to memory and read again.

    How to fix: take the pair off. Only attention with a single head, which is not fused, gains.

    Source: measured on TensorRT for RTX 1.7.1: 4.8 MB with it, 4.2 MB without, for 3 heads.
    """
    for found in _unneeded(subject, "QDQ119"):
        yield found.objection("Q/DQ on the scores of attention breaks its fusion", "take it off")


def _unneeded(subject: Subject, code: str) -> Iterator[Unneeded]:
    """The unneeded pairs that one rule is about; of several edges of one pair the first."""
    seen: set[int] = set()
    for found in _all_unneeded(subject):
        if found.code == code and id(found.dequantizer) not in seen:
            seen.add(id(found.dequantizer))
            yield found


def _all_unneeded(subject: Subject) -> Iterator[Unneeded]:
    for dequantizer in subject.dequantizers:
        quantizer = quantizer_of(dequantizer)
        if quantizer is None or not subject.is_fed(quantizer.inputs[0]):
            continue
        if quantizer.inputs[0].shape is not None and not quantizer.inputs[0].shape:
            continue  # QDQ008 tells it
        for node, index in consumers(dequantizer.outputs[0]):
            if node.op in (QUANTIZE, DEQUANTIZE) or subject.wanted.twin(node) is None:
                continue
            code = None if _serves(subject, node, index) else _code(subject, node, index)
            if code is not None:
                repair = _take_off(subject, node, index)
                yield Unneeded(code, node, index, dequantizer, repair)


def _serves(subject: Subject, node: gs.Node, index: int) -> bool:
    """Whether placement would quantize the edge, or one that its values are moved on to."""
    pending, seen = [(node, index)], {id(node)}
    while pending:
        reader, i = pending.pop()
        if subject.wanted.is_placed(reader, i) or reader.op in (QUANTIZE, DEQUANTIZE):
            return True
        if reader.op in HEAVY_OPS:
            return True  # QDQ101 and QDQ104 tell what is wrong there
        if reader.op in VALUE_INPUTS or is_cast_to_half(reader):
            below = [edge for tensor in reader.outputs for edge in consumers(tensor)]
            pending += [edge for edge in below if id(edge[0]) not in seen]
            seen.update(id(edge[0]) for edge in below)
    return False


def _code(subject: Subject, node: gs.Node, index: int) -> str | None:
    """Which rule tells about a pair that serves no kernel; None if another one tells."""
    twin = subject.wanted.twin(node)
    assert twin is not None
    if node.op == "Add" and subject.wanted.is_placed(node, 1 - index):
        return None  # QDQ122 tells it
    if subject.wanted.at(node, index) is None and node.op not in VALUE_INPUTS:
        return None
    source = producer(twin.inputs[index])
    cases = (
        ("QDQ119", _is_score(source)),
        ("QDQ113", node.op == "BatchNormalization" and _ends_kernel(source)),
        ("QDQ112", _is_activation(twin) and _ends_kernel(source)),
        ("QDQ111", _is_squeeze_excite(twin)),
        ("QDQ117", _reads_constants_or_normalizes(twin)),
    )
    return next((code for code, is_so in cases if is_so), "QDQ102")


def _is_squeeze_excite(node: gs.Node) -> bool:
    return _is_gated(node) or (node.op == "GlobalAveragePool" and _leads_to_gate(node))


def _reads_constants_or_normalizes(node: gs.Node) -> bool:
    with_constant = len(node.inputs) > 1 and len(activations(node)) == 1
    is_pointwise = with_constant and node.op not in VALUE_INPUTS and node.op not in RECURRENT
    return node.op in NORMS or is_pointwise


def _is_score(source: gs.Node | None) -> bool:
    while source is not None and source.op in SCALES_AND_MASKS:
        source = next((x for t in activations(source) if (x := producer(t)) is not None), None)
    return source is not None and is_attention_scores(source)


def _ends_kernel(source: gs.Node | None) -> bool:
    """Whether a node is a kernel's last step: the product, or a bias or norm behind it."""
    while source is not None and source.op in ("Add", "BatchNormalization", "Mul"):
        inputs = activations(source)
        source = producer(inputs[0]) if len(inputs) == 1 else None
    return source is not None and source.op in HEAVY_OPS


def _is_activation(node: gs.Node) -> bool:
    """An activation, or the Mul with which SiLU, HardSwish and GELU end."""
    if node.op in ACTIVATIONS:
        return True
    return node.op == "Mul" and any(
        gate is not None
        and gate.op in GATES
        and any(x is y for x in gate.inputs for y in node.inputs)
        for gate in map(producer, node.inputs)
    )


def _is_gated(node: gs.Node) -> bool:
    """Whether a Mul is that of a squeeze-and-excitation block: one side a gate of its own."""
    if node.op != "Mul" or len(activations(node)) != 2:
        return False
    gates = [gate for gate in map(producer, node.inputs) if gate is not None and gate.op in GATES]
    return any(not any(x is y for x in gate.inputs for y in node.inputs) for gate in gates)


def _leads_to_gate(node: gs.Node) -> bool:
    for _ in range(16):
        following = only_reader(node)
        if following is None:
            return False
        if _is_gated(following):
            return True
        node = following
    return False


def _take_off(subject: Subject, node: gs.Node, index: int) -> Repair:
    return partial(_move_behind, subject, node, index)


def _move_behind(subject: Subject, node: gs.Node, index: int) -> None:
    """Take a pair off an edge; where a kernel behind the activation needs one, put it there."""
    dequantizer = dequantizer_of(node.inputs[index])
    if dequantizer is None:
        return
    scale = value_of(input_of(dequantizer, 1))
    skip_pair(subject, node, index)
    result = _result_of(node)
    if scale is None or scale.size != 1 or result is None or quantizers_behind(result.outputs[0]):
        return
    edges = [(n, i) for n, i in consumers(result.outputs[0]) if subject.wanted.is_placed(n, i)]
    if edges:
        add_pair(subject, edges, scale.reshape(()))


def _result_of(node: gs.Node) -> gs.Node | None:
    """The node that ends an activation whose result is never larger than what it reads."""
    if node.op in SHRINKING and node.op != "Tanh":
        return node
    if node.op in GATES:
        reader = only_reader(node)
        return reader if reader is not None and _is_activation(reader) else None
    return node if node.op == "Mul" and _is_activation(node) else None
