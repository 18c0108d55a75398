"""QDQ0xx: what TensorRT refuses, or reads otherwise than ONNX does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.four_bit import is_shifted, shift
from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import (
    can_be_symmetric,
    dequantized,
    make_symmetric,
    stands_for_relu,
    store_float,
    write_scale,
    write_zero_point,
)
from onnxqat.auditing.subject import Subject, axis_of, stored_codes
from onnxqat.auditing.values import input_of, label, value_of
from onnxqat.core.calibration import SCALE_FLOOR
from onnxqat.core.finding import Severity

REFUSED_OPS = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
"""ONNX's other ways to say INT8, none of which TensorRT reads."""

STORED_TYPES = frozenset(
    {"int8", "int4", "float8_e4m3fn", "float4_e2m1fn", "float4_e2m1", "float8e4m3fn"}
)
"""Numpy (ml_dtypes) names of the types in which TensorRT reads stored codes."""


@rule("QDQ001", Severity.ERROR)
def asymmetric(subject: Subject) -> Iterator[Objection]:
    """A zero point is not zero.

    Why it matters: TensorRT quantizes symmetrically. Its parser refuses a model with any zero point
    that is not 0, and with one that is not known at build time.

    How to fix: quantize again, symmetrically: int8, zero point 0, scale = max |x| / 127.
    ONNX Runtime: `ActivationSymmetric` and `WeightSymmetric`.

    Source: IQuantizeLayer; measured: "Non-zero zero point is not supported".
    """
    for node, zero_point in subject.readers(2):
        value = value_of(zero_point)
        if value is None and not subject.is_fed(zero_point):
            continue
        if value is None or np.any(value != 0):
            found = "is computed from inputs" if value is None else f"is {_some(value)}"
            yield Objection(
                f"the zero point {found}, TensorRT takes 0 only",
                node=label(node),
                tensor=zero_point.name,
                fix="quantize symmetrically: int8 with zero point 0",
                repair=symmetric_repair(subject, node),
            )


@rule("QDQ002", Severity.WARNING)
def no_zero_point(subject: Subject) -> Iterator[Objection]:
    """QuantizeLinear has no zero point, so its type is read in two ways.

    Why it matters: without a zero point (and without `output_dtype`) ONNX quantizes to UINT8, which
    turns every negative value into 0. TensorRT quantizes to INT8. What was measured in ONNX Runtime
    is not what TensorRT will compute.

    How to fix: write the zero point: an int8 array of zeros, shaped like the scale.

    Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; TensorRT's ONNX parser.
    """
    for node in subject.quantizers:
        if input_of(node, 2) is None and not node.attrs.get("output_dtype"):
            yield Objection(
                "there is no zero point: ONNX reads UINT8, TensorRT INT8",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="add an int8 zero point of 0",
                repair=partial(_add_zero_point, subject, node),
            )


def _add_zero_point(subject: Subject, node: gs.Node) -> None:
    scale = value_of(input_of(node, 1))
    write_zero_point(subject, node, np.zeros(() if scale is None else scale.shape, np.int8))


@rule("QDQ003", Severity.WARNING)
def unsigned(subject: Subject) -> Iterator[Objection]:
    """QuantizeLinear quantizes to UINT8, which TensorRT reads as INT8.

    Why it matters: with zero point 0 the model compiles, but TensorRT keeps codes up to 127 where
    ONNX Runtime keeps them up to 255: the upper half of the range saturates in TensorRT only. This
    loses accuracy that no measurement in ONNX Runtime shows. Worse, UINT8 codes cut off what is
    negative. onnxruntime.quantization relies on that, and takes the Relu between a Conv and such a
    Q out of the file: in TensorRT the network then has no Relu there (an error, where a Conv, Gemm,
    MatMul, Add or norm comes right before).

    How to fix: quantize to int8. The scale becomes max |x| / 127. `--fix` also puts the Relu back.

    Source: TensorRT's ONNX parser; measured: it compiles to INT8.
    """
    for node in subject.quantizers:
        value = value_of(input_of(node, 2))
        if value is not None and value.dtype == np.uint8 and not np.any(value):
            is_relu = stands_for_relu(node)
            yield Objection(
                "the codes are UINT8: TensorRT saturates them at 127 instead of 255"
                + (", and lacks the Relu that they stand for" if is_relu else ""),
                severity=Severity.ERROR if is_relu else None,
                node=label(node),
                tensor=node.inputs[0].name,
                fix="quantize to int8, with scale = max |x| / 127",
                repair=symmetric_repair(subject, node),
            )


@rule("QDQ004", Severity.ERROR)
def bad_scale(subject: Subject) -> Iterator[Objection]:
    """A scale is not a positive number.

    Why it matters: TensorRT refuses a model with a scale of 0, below 0, or not finite. A channel
    whose weights are all 0 is the usual cause.

    How to fix: calibrate with a scale floor; this package's is 2⁻²⁴.

    Source: IQuantizeLayer; measured: "Scale coefficients must all be positive".
    """
    for node, tensor in subject.readers(1):
        scale = value_of(tensor)
        if scale is None:
            continue
        bad = scale[~((scale > 0) & np.isfinite(scale))]
        if bad.size:
            yield Objection(
                f"{bad.size} of {scale.size} scales are not positive numbers: {_some(bad)}",
                node=label(node),
                tensor=tensor.name,
                fix="calibrate with a scale floor of 2⁻²⁴",
                repair=partial(_raise_dead, subject, node) if _is_dead(node, scale) else None,
            )


def _is_dead(node: gs.Node, scale: NDArray[Any]) -> bool:
    """Whether scales are bad only where the weights are all 0, so that any scale gives them."""
    weights, axis = value_of(node.inputs[0]), axis_of(node)
    if weights is None or not 0 < scale.size in (1, weights.shape[axis] if weights.ndim else 1):
        return False
    over = tuple(i for i in range(weights.ndim) if scale.size == 1 or i != axis % weights.ndim)
    amax = np.abs(weights.astype(np.float64)).max(axis=over)
    return bool(np.all((scale == 0) <= (amax.reshape(scale.shape) == 0)) and np.all(scale >= 0))


def _raise_dead(subject: Subject, node: gs.Node) -> None:
    scale = value_of(input_of(node, 1))
    if scale is not None:
        write_scale(subject, node, np.maximum(scale, SCALE_FLOOR).astype(scale.dtype))


@rule("QDQ005", Severity.ERROR)
def computed_scale(subject: Subject) -> Iterator[Objection]:
    """A scale depends on the model's inputs.

    Why it matters: TensorRT quantizes with scales that are known when the engine is built. A scale
    that is computed while the network runs crashes the compiler or is refused.

    How to fix: calibrate, and write the scale as an initializer.

    Source: IQuantizeLayer; measured: TensorRT for RTX 1.7.1 crashes (signal 11).
    """
    for node, scale in subject.readers(1):
        if subject.is_fed(scale):
            yield Objection(
                "the scale is computed from the model's inputs",
                node=label(node),
                tensor=scale.name,
                fix="write a calibrated scale as an initializer",
            )


@rule("QDQ006", Severity.ERROR)
def misshapen_scale(subject: Subject) -> Iterator[Objection]:
    """A scale does not fit the channels of its tensor.

    Why it matters: TensorRT takes one scale for the tensor, or one for each index of `axis`. It
    refuses a model with any other number.

    How to fix: write a 1-D scale of length dim[axis], and always write `axis`: ONNX's default is 1,
    which is wrong for the weights of a Conv.

    Source: TensorRT's ONNX parser; measured: "number of scales is not equal to the number of output
    channels".
    """
    for node, tensor in subject.readers(1):
        scale = value_of(tensor)
        if scale is None or scale.size == 1 or node.attrs.get("block_size"):
            continue
        channels = _channels(node)
        if scale.ndim != 1 or (channels is not None and len(scale) != channels):
            yield Objection(
                f"the scale has shape {list(scale.shape)}, axis {axis_of(node)} of the tensor has "
                f"{'an unknown number of' if channels is None else channels} channels",
                node=label(node),
                tensor=tensor.name,
                fix="write one scale for each channel along `axis`, or a single scalar",
                repair=partial(write_scale, subject, node, scale.reshape(-1))
                if scale.size == channels
                else None,
            )


@rule("QDQ007", Severity.WARNING)
def per_channel_activation(subject: Subject) -> Iterator[Objection]:
    """An activation is quantized per channel.

    Why it matters: the model compiles, and every Conv or MatMul behind the pair silently runs in
    float. A scale of shape [1] counts as per-channel too: on activations the scale must be a
    scalar, of shape [].

    How to fix: calibrate activations per tensor, and write scalar scales.

    Source: IQuantizeLayer; measured on TensorRT for RTX 1.7.1, shape [1] included.
    """
    for node, scale in subject.activations:
        if scale.ndim == 0:
            continue
        yield Objection(
            f"the scale of an activation has shape {list(scale.shape)}: its readers run in float",
            node=label(node),
            tensor=node.inputs[0].name,
            fix="write one scalar scale, of shape []",
            repair=partial(write_scale, subject, node, np.asarray(scale.max()))
            if scale.size
            else None,
        )


@rule("QDQ011", Severity.ERROR)
def refused_operator(subject: Subject) -> Iterator[Objection]:
    """An operator says INT8 in a form that TensorRT does not read.

    Why it matters: TensorRT reads quantization from QuantizeLinear and DequantizeLinear only. It
    refuses QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger and DynamicQuantizeLinear.

    How to fix: quantize the float model again in the Q/DQ format. ONNX Runtime:
    `quant_format=QuantFormat.QDQ` with `quantize_static`.

    Source: TensorRT developer guide, explicit quantization; measured.
    """
    for node in subject.nodes:
        if is_refused(node):
            yield Objection(
                f"TensorRT does not read {node.op}",
                node=label(node),
                fix="quantize the float model again in the Q/DQ format",
            )


def is_refused(node: gs.Node) -> bool:
    """Whether a node says INT8 in another way than Q/DQ."""
    is_contrib = node.domain == "com.microsoft" and "QLinear" in node.op
    return node.op in REFUSED_OPS or is_contrib


@rule("QDQ012", Severity.ERROR)
def quantized_bias(subject: Subject) -> Iterator[Objection]:
    """A bias is stored as int32 behind DequantizeLinear.

    Why it matters: TensorRT refuses it; the bias of an INT8 Conv or Gemm stays in float there.
    ONNX Runtime's quantizer writes int32 biases unless told not to.

    How to fix: store the dequantized bias, or quantize again. ONNX Runtime: `QuantizeBias=False`.

    Source: measured: "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8".
    """
    for node in subject.dequantizers:
        codes = stored_codes(node)
        if codes is not None and codes.dtype == np.int32:
            yield Objection(
                "the bias is int32 behind DequantizeLinear, which TensorRT refuses",
                node=label(node),
                tensor=codes.name,
                fix="store the bias in float",
                repair=None if dequantized(node) is None else partial(store_float, subject, node),
            )


@rule("QDQ013", Severity.ERROR)
def stored_type(subject: Subject) -> Iterator[Objection]:
    """Codes are stored in a type that TensorRT does not dequantize.

    Why it matters: TensorRT reads stored weights as int8 (or int4, FP8, FP4). It refuses uint8 and
    16-bit codes, even with zero point 0. (For int32 see QDQ012.)

    How to fix: store int8 codes, symmetric around 0. UINT4 codes around 8 are INT4 codes around 0:
    `--fix` stores those.

    Source: measured: "Found unsupported input type of UINT8".
    """
    for node in subject.dequantizers:
        codes = stored_codes(node)
        if codes is None or codes.dtype == np.int32:
            continue
        name = np.dtype(codes.dtype).name
        if name not in STORED_TYPES:
            yield Objection(
                f"the codes are stored as {name}, which TensorRT does not dequantize",
                node=label(node),
                tensor=codes.name,
                fix="store int8 codes with zero point 0",
                repair=symmetric_repair(subject, node)
                if _is_wider(codes) or is_shifted(node)
                else None,
            )


def symmetric_repair(subject: Subject, node: gs.Node) -> Repair | None:
    """INT8 with zero point 0 over the same range, where scale and zero point are known; INT4 for
    UINT4 weights around 8.
    """
    if is_shifted(node):
        return partial(shift, subject, node)
    return partial(make_symmetric, subject, node) if can_be_symmetric(node) else None


def _is_wider(codes: gs.Tensor) -> bool:
    return np.dtype(codes.dtype).name in ("uint8", "uint16", "int16")


def _channels(node: gs.Node) -> int | None:
    """The size of a Q or DQ node's axis; None where the shape is not known."""
    shape, axis = node.inputs[0].shape, axis_of(node)
    if shape is None:
        return None
    if not -len(shape) <= axis < len(shape):
        return 0
    return shape[axis] if isinstance(shape[axis], int) else None


def _some(values: NDArray[Any]) -> str:
    """The distinct values, at most three of them."""
    distinct = [f"{float(value):.4g}" for value in np.unique(values)]
    return ", ".join(distinct[:3]) + (", …" if len(distinct) > 3 else "")
