"""CAL: scales that are legal and make no sense, told from the file or from data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.registry import Objection, Repair, rule
from onnxqat.auditing.repair import recount_codes, requantize_weights, write_scale
from onnxqat.auditing.rules.formats import quant_dtype
from onnxqat.auditing.subject import (
    Subject,
    axis_of,
    dequantizers_of,
    scalar_scale,
)
from onnxqat.auditing.values import dtype_name, input_of, label, value_of
from onnxqat.calibration.error import upper_bounds
from onnxqat.core.calibration import SCALE_FLOOR
from onnxqat.core.finding import Severity
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.core.spec import QuantDtype
from onnxqat.graph.query import consumers, producer
from onnxqat.placement.weights import weight_granularity

Array = NDArray[Any]

CLIPPED = 2.0
"""Weights beyond this many times their range: more than half of it is lost."""
UNUSED = 4.0
"""A range this many times what is in it leaves 2 of the 8 bits unused."""
SPREAD = 16.0
"""How much wider than the median channel the widest may be: 4 bits are left for the median."""
SATURATED = 0.01
"""Share of an activation's values that may lie beyond its range."""


@rule("CAL001", Severity.WARNING)
def tiny_scale(subject: Subject) -> Iterator[Objection]:
    """A scale is positive, but so small that FP16 turns it into 0.

    Why it matters: TensorRT refuses a scale of 0. Below 2⁻²⁴, the smallest FP16 number, a scale
    becomes 0 as soon as the network is cast to FP16. Dead channels (all weights 0) and inputs that
    were always 0 in calibration are the usual cause.

    How to fix: calibrate with a scale floor of 2⁻²⁴. All values of such a tensor are 0 or next to
    it, so the larger scale changes no result.

    Source: IQuantizeLayer; measured: 1e-40 compiles, the same scale rounded to FP16 is refused.
    """
    for node, tensor in subject.readers(1):
        scale = value_of(tensor)
        if scale is None or dtype_name(node.inputs[0]) == "int32":
            continue  # a bias: QDQ012 tells it
        tiny = scale[(scale > 0) & (scale < SCALE_FLOOR)]
        if tiny.size:
            yield Objection(
                f"{tiny.size} of {scale.size} scales are below 2⁻²⁴, down to {tiny.min():.3g}",
                node=label(node),
                tensor=tensor.name,
                fix="raise them to 2⁻²⁴",
                repair=partial(_raise_to_floor, subject, node),
            )


def _raise_to_floor(subject: Subject, node: gs.Node) -> None:
    scale = value_of(input_of(node, 1))
    if scale is not None:
        raised = np.maximum(scale, SCALE_FLOOR).astype(scale.dtype)
        recount_codes(subject, node, raised)
        write_scale(subject, node, raised)


@rule("CAL002", Severity.WARNING)
def never_calibrated(subject: Subject) -> Iterator[Objection]:
    """Every activation has the scale 1.

    Why it matters: a scale of 1 is what a quantizer holds before calibration. Activations between
    -0.5 and 0.5 all become 0, and nothing is told apart below 1.

    How to fix: calibrate: `onnxqat quantize` from the float model.

    Source: arithmetic: q = round(x / scale).
    """
    found = [(node, scalar_scale(node)) for node, _ in subject.activations]
    if len(found) > 1 and all(scale == 1 for _, scale in found):
        node = found[0][0]
        yield Objection(
            f"all {len(found)} quantized activations have the scale 1: nothing was calibrated",
            node=label(node),
            tensor=node.inputs[0].name,
            fix="calibrate the float model again",
        )


@rule("CAL003", Severity.NOTE)
def dead_channels(subject: Subject) -> Iterator[Objection]:
    """Output channels have weights that are all 0.

    Why it matters: they compute nothing but their bias. Their scale would be 0, which TensorRT
    refuses, and gets a floor. Many of them are a sign of a network that was pruned, or died.

    How to fix: nothing has to be done; pruning them makes the network smaller.

    Source: arithmetic.
    """
    for node, weights, axis in _weights(subject):
        amax = _channel_amax(weights, axis)
        dead = int((amax == 0).sum())
        if axis is not None and dead:
            yield Objection(
                f"the weights of {dead} of {amax.size} channels are all 0",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="prune the channels, or leave them",
            )


@rule("CAL004", Severity.WARNING)
def clipped_weights(subject: Subject) -> Iterator[Objection]:
    """Weights lie far beyond the range that their scale gives them.

    Why it matters: what lies beyond saturates. Weights are known: a range that loses more than half
    of a channel's reach is a scale that belongs to other weights, as after training on without new
    scales.

    How to fix: count the scales anew, from the weights: scale = max |w| / 127 (FP8: 448).

    Source: arithmetic.
    """
    for node, weights, axis in _weights(subject):
        reach = _channel_amax(weights, axis) / (quant_dtype(node).qmax * _scales(node))
        clipped = int((reach > CLIPPED).sum())
        if clipped:
            yield Objection(
                f"weights of {clipped} of {reach.size} channels reach to {reach.max():.1f} times "
                "their range: they saturate",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="count the scales anew from the weights",
                repair=_recount(subject, node),
            )


@rule("CAL005", Severity.WARNING)
def unused_weight_range(subject: Subject) -> Iterator[Objection]:
    """The range of weights is far wider than they are.

    Why it matters: a range of 4 times the largest weight leaves 2 of the 8 bits unused. A scale for
    another tensor, or one scale for channels of very different size, does that.

    How to fix: count the scales anew, from the weights: scale = max |w| / 127 (FP8: 448).

    Source: arithmetic.
    """
    for node, weights, axis in _weights(subject):
        if quant_dtype(node).is_float:
            continue
        reach = _channel_amax(weights, axis) / (quant_dtype(node).qmax * _scales(node))
        used = reach[(reach > 0) & (_scales(node) > SCALE_FLOOR)]
        if used.size and np.median(used) < 1 / UNUSED:
            yield Objection(
                f"half of the channels use less than {100 * float(np.median(used)):.0f} % of the "
                "range of their weights",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="count the scales anew from the weights",
                repair=_recount(subject, node),
            )


def _recount(subject: Subject, node: gs.Node) -> Repair | None:
    axis = axis_of(node) if _scales(node).ndim else None
    if quant_dtype(node) is not QuantDtype.INT8:
        return None
    return None if axis is None else partial(_requantize_all, subject, node, axis)


def _requantize_all(subject: Subject, node: gs.Node, axis: int) -> None:
    for dequantizer in dequantizers_of(node)[:1]:
        requantize_weights(subject, dequantizer, axis=axis)


@rule("CAL006", Severity.WARNING)
def outlier_weight_channels(subject: Subject) -> Iterator[Objection]:
    """Weights of very different size per channel share one scale.

    Why it matters: the widest channel sets the scale. Where it is 16 times as wide as the median
    channel, half of the channels are left with 4 bits or fewer.

    How to fix: quantize the weights per output channel, which costs TensorRT nothing.

    Source: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias
    Correction, https://arxiv.org/abs/1906.04721.
    """
    for node, weights, axis in _weights(subject):
        reader = _heavy_reader(node)
        wanted = None if reader is None else _channel_axis(*reader)
        if axis is not None or wanted is None or quant_dtype(node).is_float:
            continue
        amax = _channel_amax(weights, wanted)
        median = float(np.median(amax[amax > 0])) if amax.any() else 0.0
        if median > 0 and float(amax.max()) / median > SPREAD:
            yield Objection(
                f"one scale for channels of which the widest is {amax.max() / median:.0f} times "
                "the median",
                node=label(node),
                tensor=node.inputs[0].name,
                fix=f"quantize per channel, along axis {wanted}",
                repair=partial(_requantize_all, subject, node, wanted),
            )


def _channel_axis(node: gs.Node, index: int) -> int | None:
    """The axis of the output channels; None where there is none, or the rank is not known."""
    if node.inputs[index].shape is None:
        return None
    return getattr(weight_granularity(node, index), "axis", None)


@rule("CAL007", Severity.WARNING)
def wide_softmax(subject: Subject) -> Iterator[Objection]:
    """The result of a Softmax has a range wider than 1.

    Why it matters: a Softmax is never larger than 1. With a range of 2 or more, half of the codes
    and more are never used, of a tensor whose values are small as it is.

    How to fix: scale = 1 / 127.

    Source: arithmetic.
    """
    for node, _ in subject.activations:
        source, scale = producer(node.inputs[0]), scalar_scale(node)
        dtype = quant_dtype(node)
        if source is None or source.op != "Softmax" or scale is None or dtype.is_float:
            continue
        if scale * dtype.qmax >= 2:
            yield Objection(
                f"the range reaches to {scale * dtype.qmax:.3g}, a Softmax to 1",
                node=label(node),
                tensor=node.inputs[0].name,
                fix=f"set the scale to 1 / {dtype.qmax}",
                repair=partial(write_scale, subject, node, np.asarray(1 / dtype.qmax, np.float32)),
            )


@rule("CAL008", Severity.WARNING)
def saturated(subject: Subject) -> Iterator[Objection]:
    """Many values of an activation lie beyond its range, on the data.

    Why it matters: they all become the largest code. A good calibrator cuts off one value in
    thousands; one in a hundred is a range for other data.

    How to fix: calibrate on data like this.

    Source: measured on the data that the audit was given.
    """
    for node, scale in _measured(subject):
        seen = subject.evidence.observed[node.inputs[0].name].statistics
        dtype = quant_dtype(node)
        beyond = float(seen.counts[seen.edges[:-1] > upper_bounds(dtype)[-1] * scale].sum())
        if beyond / max(seen.values, 1) > SATURATED:
            yield Objection(
                f"{100 * beyond / seen.values:.1f} % of the values lie beyond the range "
                f"±{scale * dtype.qmax:.3g}; they reach to {seen.amax:.3g}",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="calibrate on data like this",
            )


@rule("CAL009", Severity.WARNING)
def unused_range(subject: Subject) -> Iterator[Objection]:
    """An activation uses little of its range, on the data.

    Why it matters: a range of 4 times the largest value leaves 2 of the 8 bits unused. One sample
    with an outlier, or data of another kind, makes such ranges.

    How to fix: calibrate on data like this, with `auto`, `entropy` or `mse` rather than `max`.

    Source: measured on the data that the audit was given.
    """
    widest: dict[float, float] = {}  # tensors that share a scale share its range
    for node, scale in _measured(subject):
        amax = subject.evidence.observed[node.inputs[0].name].statistics.amax
        widest[scale] = max(widest.get(scale, 0.0), amax)
    for node, scale in _measured(subject):
        dtype = quant_dtype(node)
        if dtype.is_float:
            continue
        if 0 < widest[scale] < scale * dtype.qmax / UNUSED and scale > SCALE_FLOOR:
            yield Objection(
                f"the values reach to {widest[scale]:.3g}, the range to {scale * dtype.qmax:.3g}",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="calibrate on data like this",
            )


@rule("CAL010", Severity.NOTE)
def outlier_channels(subject: Subject) -> Iterator[Objection]:
    """A depthwise Conv reads channels of very different size with one scale.

    Why it matters: activations have one scale. Where the widest channel is 16 times as wide as the
    median one, half of the channels keep 4 bits or fewer. A depthwise Conv cannot average that out,
    and its weights often enlarge the small channels again.

    How to fix: equalize the channels' ranges in the float model (cross-layer equalization), clip
    with Relu6, fine-tune, or leave this Conv in float.

    Source: Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 3.
    """
    for node, _ in _measured(subject):
        amax = subject.evidence.observed[node.inputs[0].name].channel_amax
        used = amax[amax > 0]
        spread = float(used.max() / np.median(used)) if used.size else 1.0
        if spread > SPREAD and _feeds_depthwise(node) and not quant_dtype(node).is_float:
            yield Objection(
                f"the widest channel is {spread:.0f} times the median one: half of the channels "
                f"keep {max(7 - np.log2(spread), 0):.0f} bits and a sign, or fewer",
                node=label(node),
                tensor=node.inputs[0].name,
                fix="equalize the channels in the float model, or leave the Conv in float",
            )


def _feeds_depthwise(quantizer: gs.Node) -> bool:
    readers = (r for dq in dequantizers_of(quantizer) for r, _ in consumers(dq.outputs[0]))
    return any(reader.attrs.get("group", 1) > 1 for reader in readers if reader.op == "Conv")


def _measured(subject: Subject) -> Iterator[tuple[gs.Node, float]]:
    """The quantizers whose input was seen on data, and their one scale."""
    for node, _ in subject.activations:
        scale = scalar_scale(node)
        if node.inputs[0].name in subject.evidence.observed and scale is not None and scale > 0:
            yield node, scale


def _weights(subject: Subject) -> Iterator[tuple[gs.Node, Array, int | None]]:
    """Quantizers of float weights, the weights, and the axis of their scales (None: one scale).

    Stored codes are left out: a 4-bit form of them uses a part of the range on purpose.
    """
    for node in subject.quantizers:
        weights = value_of(node.inputs[0])
        scale = value_of(input_of(node, 1))
        if weights is None or weights.ndim < 2 or not weights.size or scale is None:
            continue
        if not scale.size or not np.all(scale > 0):
            continue  # QDQ004 and QDQ006 tell it
        if scale.size == 1:
            yield node, weights, None
        elif scale.ndim == 1 and _fits(weights, scale, axis_of(node)):
            yield node, weights, axis_of(node) % weights.ndim


def _fits(weights: Array, scale: Array, axis: int) -> bool:
    return -weights.ndim <= axis < weights.ndim and weights.shape[axis] == scale.size


def _scales(node: gs.Node) -> Array:
    scale = value_of(input_of(node, 1))
    assert scale is not None
    return scale if scale.size > 1 else scale.reshape(())


def _channel_amax(weights: Array, axis: int | None) -> Array:
    over = tuple(i for i in range(weights.ndim) if axis is None or i != axis)
    return np.asarray(np.abs(weights).max(axis=over, initial=0))


def _heavy_reader(quantizer: gs.Node) -> tuple[gs.Node, int] | None:
    for dequantizer in dequantizers_of(quantizer):
        for node, index in consumers(dequantizer.outputs[0]):
            if node.op in HEAVY_OPS and index < 2:
                return node, index
    return None
