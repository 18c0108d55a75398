"""QDQ0xx, continued: types, shapes and versions of Q/DQ that TensorRT has no reading for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.blocks import per_channel_repair
from onnxqat.auditing.half_scales import can_be_half, halve
from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.repair import dequantized, remove_pair, store_float
from onnxqat.auditing.rules.legality import symmetric_repair
from onnxqat.auditing.rules.placement import PER_CHANNEL_OPSET
from onnxqat.auditing.subject import (
    DEQUANTIZE,
    QUANTIZE,
    Subject,
    axis_of,
    dequantizers_of,
    quantizer_of,
    stored_codes,
)
from onnxqat.auditing.upgrade import axis_repair, can_be_raised
from onnxqat.auditing.values import dtype_name, input_of, label, value_of
from onnxqat.core.finding import Severity
from onnxqat.core.spec import QuantDtype
from onnxqat.graph.qdq_pairs import CODE_TYPES
from onnxqat.graph.query import consumers, producer

WIDE_TYPES = frozenset({"int16", "uint16", "int32"})
NARROW_TYPES = frozenset({"int4", "uint4", "int2", "uint2"})
READ_TYPES = frozenset({"int8", "uint8", "float8_e4m3fn", "float4_e2m1fn"}) | NARROW_TYPES
"""Numpy (ml_dtypes) names of types of codes."""

BLOCK_TYPES = frozenset({"int4", "float4_e2m1fn", "float8_e4m3fn"})
"""The types that TensorRT quantizes in blocks: INT4 weights, NVFP4, MXFP8."""

BLOCKS_OF_FOUR_BIT = (64, 128)
"""Values a block of INT4 weights that TensorRT's kernels are made for."""


@rule("QDQ008", Severity.WARNING)
def scalar(subject: Subject) -> Iterator[Objection]:
    """A single number is quantized.

    Why it matters: TensorRT's interface does not allow a scalar as input of Q or DQ. TensorRT for
    RTX takes a pair and gains nothing: there is no INT8 arithmetic on one number. A stored one, as
    the factor of a Mul or the value of a Pad that onnxruntime.quantization stores in 8 bits, it
    refuses (an error).

    How to fix: take the pair off; store the number in float.

    Source: IQuantizeLayer; measured: TensorRT for RTX 1.7.1 compiles pairs, in float; of stored
    codes: "Quantized constant is only allowed before DQ".
    """
    for node in subject.quantizers:
        if node.inputs[0].shape is not None and len(node.inputs[0].shape) == 0:
            yield Objection(
                "a scalar is quantized, which TensorRT's Q and DQ do not take",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="take the Q/DQ pair off",
                repair=partial(_remove_pairs, subject, node),
            )
    for node in subject.dequantizers:
        codes = stored_codes(node)
        if codes is not None and codes.dtype != np.int32 and not codes.shape:
            yield Objection(
                "a scalar is stored as codes, which TensorRT does not dequantize",
                severity=Severity.ERROR,
                node=label(node),
                tensor=codes.name,
                fix="store the number in float",
                repair=None if dequantized(node) is None else partial(store_float, subject, node),
            )


def _remove_pairs(subject: Subject, quantizer: gs.Node) -> None:
    for dequantizer in dequantizers_of(quantizer):
        remove_pair(subject, dequantizer)


@rule("QDQ009", Severity.NOTE)
def mixed_scale_type(subject: Subject) -> Iterator[Objection]:
    """A float16 tensor is quantized with float32 scales.

    Why it matters: a Q's scale has its input's type, a DQ's output its scale's type. With float32
    scales around float16 tensors there are Casts beside Q and DQ, which may keep TensorRT from
    fusing them. TensorRT for RTX 1.7.1 takes them into its kernels.

    How to fix: write float16 scales, from opset 19 on, and take the Casts out. `--fix` does so
    where the scales are numbers that FP16 holds, rounding them up.

    Source: IQuantizeLayer; measured: Cast, Q, DQ, Cast around an FP16 Conv compiles to one INT8
    kernel, as with FP16 scales.
    """
    for node in subject.quantizers:
        tensor, scale = node.inputs[0], input_of(node, 1)
        cast = producer(tensor)
        if cast is not None and cast.op == "Cast":
            tensor = cast.inputs[0]
        if dtype_name(tensor) == "float16" and dtype_name(scale) == "float32":
            yield Objection(
                "the tensor is float16, its scale float32",
                node=label(node),
                tensor=tensor.name,
                fix="write a float16 scale and no Cast beside the pair (opset 19 and later)",
                repair=partial(halve, subject, node) if can_be_half(subject, node) else None,
            )


@rule("QDQ010", Severity.ERROR)
def unread_type(subject: Subject) -> Iterator[Objection]:
    """QuantizeLinear quantizes to a type that TensorRT does not have.

    Why it matters: TensorRT quantizes to INT8, INT4, FP8 (E4M3) and FP4. It refuses 16-bit codes,
    and the other FP8 types.

    How to fix: quantize to int8. Where 16 bits are needed, leave the tensor in float.

    Source: IQuantizeLayer; measured: "Failed to import initializer" for an int16 zero point.
    """
    for node in subject.quantizers:
        name = code_type(node)
        if name is not None and name not in READ_TYPES:
            yield Objection(
                f"the codes are {name}, which TensorRT does not quantize to",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize to int8",
                repair=symmetric_repair(subject, node) if name in WIDE_TYPES else None,
            )


@rule("QDQ014", Severity.WARNING)
def axis_too_early(subject: Subject) -> Iterator[Objection]:
    """Scales per channel stand in a model of an opset that has no axis.

    Why it matters: before opset 13 Q and DQ take one scale for the whole tensor, and have no
    `axis`. ONNX Runtime refuses the file; TensorRT takes axis 0 for granted, which is right for the
    weights of a Conv, and makes a MatMul run in float.

    How to fix: upgrade the model to opset 13 or later, and write `axis`. FP8 and FP16 scales need
    19, INT4 and blocks 21, FP4 23. `--fix` does so where it is clear which axis is meant, and each
    operator has the same meaning in opset 13.

    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; measured: a Conv in
    INT8, a MatMul in FP32.
    """
    if subject.opset() >= PER_CHANNEL_OPSET:
        return
    scales = ((node, tensor, value_of(tensor)) for node, tensor in subject.readers(1))
    found = [(n, t, scale.size) for n, t, scale in scales if scale is not None and scale.size > 1]
    can_be_mended = bool(found) and can_be_raised(subject, PER_CHANNEL_OPSET)
    for node, tensor, size in found:
        yield Objection(
            f"{size} scales in opset {subject.opset()}, whose Q/DQ have one only",
            node=label(node),
            tensor=tensor.name,
            fix="upgrade the model to opset 13 or later, and write `axis`",
            repair=axis_repair(subject, node, size, PER_CHANNEL_OPSET) if can_be_mended else None,
        )


@rule("QDQ015", Severity.ERROR)
def wrong_blocks(subject: Subject) -> Iterator[Objection]:
    """A tensor is quantized in blocks that TensorRT does not have.

    Why it matters: TensorRT quantizes INT4, FP4 and MXFP8 in blocks, along the last or second to
    last dimension. It refuses INT8 in blocks, and other dimensions.

    How to fix: quantize INT8 per channel; write blocks along one of the last two dimensions.
    `--fix` stores weights per channel in INT8.

    Source: IQuantizeLayer; measured: "The blocking dimension must be the last or second to last".
    """
    for node in (*subject.quantizers, *subject.dequantizers):
        if not node.attrs.get("block_size"):
            continue
        name, shape = code_type(node), node.inputs[0].shape
        outer = shape is not None and axis_of(node) % max(len(shape), 1) < len(shape) - 2
        if outer or (name is not None and name not in BLOCK_TYPES | {"uint4"}):  # see QDQ013
            problem = f"along axis {axis_of(node)}" if outer else f"of {name}"
            yield Objection(
                f"blocks {problem}, which TensorRT does not take",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize per channel, or INT4 in blocks along one of the last two dimensions",
                repair=per_channel_repair(subject, node) if node.op == DEQUANTIZE else None,
            )


@rule("QDQ016", Severity.ERROR)
def narrow_activation(subject: Subject) -> Iterator[Objection]:
    """An activation is quantized to 4 bits or less.

    Why it matters: TensorRT's INT4 is for stored weights alone. With INT4 activations its compiler
    fails; FP4 activations need NVFP4's own scheme of blocks.

    How to fix: quantize activations to int8.

    Source: TensorRT developer guide, quantized types; measured: the compiler's internal check
    fails, "dtype == W.type()".
    """
    for node, _ in subject.activations:
        name = code_type(node)
        if name in NARROW_TYPES:
            yield Objection(
                f"an activation is quantized to {name}, which TensorRT has for weights alone",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize activations to int8",
                repair=symmetric_repair(subject, node),
            )


@rule("QDQ017", Severity.NOTE)
def odd_block(subject: Subject) -> Iterator[Objection]:
    """INT4 weights stand in blocks of an unusual size.

    Why it matters: TensorRT's INT4 kernels are made for blocks of 64 and 128 values. Others may
    run through slower kernels, or none.

    How to fix: quantize in blocks of 128 or 64.

    Source: TensorRT developer guide, quantized types.
    """
    for node in subject.dequantizers:
        block = int(node.attrs.get("block_size", 0))
        if block and code_type(node) == "int4" and block not in BLOCKS_OF_FOUR_BIT:
            yield Objection(
                f"INT4 in blocks of {block}",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize in blocks of 128 or 64",
            )


def code_type(node: gs.Node) -> str | None:
    """Numpy's (ml_dtypes') name of the codes of a Q or DQ; None where nothing in the file says."""
    if node.op == DEQUANTIZE:
        quantizer = quantizer_of(node)
        return dtype_name(node.inputs[0]) if quantizer is None else code_type(quantizer)
    zero_point = value_of(input_of(node, 2))
    if zero_point is not None:
        return str(zero_point.dtype.name)
    stated = int(node.attrs.get("output_dtype", 0))
    return _named(stated) if stated else None


def quant_dtype(node: gs.Node) -> QuantDtype:
    """The type of the codes of a Q or DQ, INT8 where it is none of ours: for their limits."""
    return CODE_TYPES.get(code_type(node) or "", QuantDtype.INT8)


def _named(onnx_type: int) -> str:
    import numpy as np
    from onnx import helper

    return str(np.dtype(helper.tensor_dtype_to_np_dtype(onnx_type)).name)


@rule("QDQ120", Severity.WARNING)
def dangling(subject: Subject) -> Iterator[Objection]:
    """A Q stands without its DQ, or a DQ without its Q.

    Why it matters: TensorRT fuses pairs. A Q that no DQ reads, and a DQ whose codes neither a Q nor
    the file gives, are work that no kernel takes in, and most often the trace of an edit gone
    wrong.

    How to fix: complete the pair, or take the lone node out.

    Source: TensorRT developer guide, explicit quantization; measured: it compiles, and the lone
    node stays.
    """
    for node in subject.quantizers:
        if id(node.outputs[0]) in subject.outputs:
            continue  # QDQ114 tells it
        readers = consumers(node.outputs[0])
        if not readers:
            yield _lone(subject, node, "no node reads what this Q makes")
        elif not any(_leads_to_dequantizer(reader) for reader, _ in readers):
            yield _lone(subject, node, f"{label(readers[0][0])} reads codes, and is no DQ")
    for node in subject.dequantizers:
        if not consumers(node.outputs[0]) and id(node.outputs[0]) not in subject.outputs:
            yield _lone(subject, node, "no node reads what this DQ makes")
        elif subject.is_fed(node.inputs[0]) and not _comes_from_quantizer(node):
            yield _lone(subject, node, "no Q made the codes that this DQ reads")


def _lone(subject: Subject, node: gs.Node, problem: str) -> Objection:
    is_dead = not consumers(node.outputs[0]) and id(node.outputs[0]) not in subject.outputs
    return Objection(
        problem,
        node=label(node),
        tensor=node.inputs[0].name,
        fix="take the node out" if is_dead else "complete the pair, or take the node out",
        repair=partial(_drop_dead, subject, node) if is_dead else None,
    )


def _drop_dead(subject: Subject, node: gs.Node) -> None:
    from onnxqat.auditing.repair import drop_unread

    before = producer(node.inputs[0])
    drop_unread(subject, node)
    if before is not None and before.op == QUANTIZE:
        drop_unread(subject, before)


def _leads_to_dequantizer(node: gs.Node) -> bool:
    for _ in range(64):
        if node.op == DEQUANTIZE:
            return True
        readers = consumers(node.outputs[0]) if node.outputs else ()
        if len(readers) != 1:
            return False
        node = readers[0][0]
    return False


def _comes_from_quantizer(node: gs.Node) -> bool:
    for _ in range(64):
        source = producer(node.inputs[0]) if node.inputs else None
        if source is None:
            return False
        if source.op == QUANTIZE or (source.outputs[0].dtype is not None and _is_product(source)):
            return True
        node = source
    return False


def _is_product(node: gs.Node) -> bool:
    """Integer operators make codes too: QDQ011 tells them."""
    return "Integer" in node.op or "QLinear" in node.op or node.op == "DynamicQuantizeLinear"


@rule("QDQ121", Severity.WARNING)
def doubled(subject: Subject) -> Iterator[Objection]:
    """A tensor is quantized twice in a row.

    Why it matters: the second pair rounds what the first already rounded. With the same scale it
    does nothing; with another it loses accuracy, and costs a step of its own.

    How to fix: take the second pair off.

    Source: TensorRT developer guide, Q/DQ layer placement.
    """
    for node in subject.quantizers:
        before = producer(node.inputs[0])
        if before is not None and before.op == DEQUANTIZE and dequantizers_of(node):
            yield Objection(
                f"{label(before)} dequantizes right before: the tensor is quantized twice",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="take the second pair off",
                repair=partial(_remove_pairs, subject, node),
            )
