"""ACC: what a comparison with the float reference shows. Silent without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.rules.calibration import SPREAD
from onnxqat.auditing.rules.formats import quant_dtype
from onnxqat.auditing.subject import Subject, dequantizer_of, quantizer_of, scalar_scale
from onnxqat.auditing.values import label, value_of
from onnxqat.calibration.error import quantization_error
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.finding import Severity
from onnxqat.core.spec import QuantDtype

WEAK_OUTPUT_DB = 20.0
"""An output below this is 10 % noise: the rules then say where it comes from."""
LOSS_DB = 5.0
"""Signal-to-noise lost in one layer from which on it is called a cause."""
COARSE_DB = 25.0
"""A tensor whose own rounding leaves less is too wide for 8 bits; 30 to 40 dB is usual."""
DIFFERENCES = 0.5
"""Share of a constant input that a kernel keeps, below which it mostly takes differences."""
MOST = 12
"""Causes that are told, worst first: the rest follows from them."""
WARY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@rule("ACC001", Severity.WARNING)
def noisy_layer(subject: Subject) -> Iterator[Objection]:
    """A tensor is nearly lost in quantization noise.

    Why it matters: below 10 dB (`min_sqnr_db`) a tenth of its power is noise. What follows can
    hardly make up for it; fine-tuning sometimes does.

    How to fix: leave the layer that computes it in float, calibrate it otherwise, or fine-tune.

    Source: measured: the comparison with the float reference.
    """
    comparison = subject.evidence.comparison
    makers = {t.name: node for node in subject.nodes for t in node.outputs}
    for error in comparison.layers if comparison is not None else ():
        node = makers.get(error.tensor)
        if error.sqnr_db < subject.config.min_sqnr_db and node is not None and node.op in WARY:
            yield Objection(
                f"'{error.tensor}' has a signal-to-noise ratio of {error.sqnr_db:.1f} dB, below "
                f"{subject.config.min_sqnr_db:g} dB",
                node=label(node),
                tensor=error.tensor,
                fix="leave the layer in float, calibrate it otherwise, or fine-tune",
            )


@rule("ACC002", Severity.ERROR)
def missed_budget(subject: Subject) -> Iterator[Objection]:
    """The task metric fell by more than the budget.

    Why it matters: this is what the model is for.

    How to fix: fine-tune (`onnxqat run`), calibrate otherwise, or leave the worst layers in float.
    `max_metric_drop` in the configuration is the budget.

    Source: measured on the data that the audit was given, with its labels.
    """
    found = subject.evidence.comparison
    if found is None or found.reference_metric is None or found.candidate_metric is None:
        return
    drop = found.reference_metric - found.candidate_metric
    if drop > subject.config.max_metric_drop:
        yield Objection(
            f"{found.metric or 'the metric'} fell by {100 * drop:.2f} points, from "
            f"{100 * found.reference_metric:.2f} % to {100 * found.candidate_metric:.2f} %; the "
            f"budget is {100 * subject.config.max_metric_drop:.2f}",
            fix="fine-tune, or leave the worst layers in float",
        )


@rule("ACC003", Severity.WARNING)
def cause_of_noise(subject: Subject) -> Iterator[Objection]:
    """A layer is a cause of noise that the outputs of the model do not get rid of.

    Why it matters: an output below 20 dB is noisy, and calibration alone did not help. The noise is
    made in a few layers: where the values of an input span more than 8 bits hold (rare large ones
    among many small ones), where channels of very different size share one scale, or where large
    terms cancel, so that their errors are large against what is left. Depthwise kernels that take
    differences of neighbouring values are the usual place of that: each sums few terms, of one
    channel, so that nothing averages the errors away.

    How to fix: fine-tune; equalize channels in the float model, or clip with Relu6; leave these
    layers in float (`--exclude`), and look at what that gains. (FastestDet has 13.9 dB; 15.9 dB
    with the 8 worst of its 70 Convs in float, 14.2 dB with 8 others.)

    Source: measured: signal-to-noise before and behind each layer, and each tensor's own rounding
    error from its histogram. For channels see Nagel et al. 2019, https://arxiv.org/abs/1906.04721.
    """
    comparison = subject.evidence.comparison
    if comparison is None or comparison.sqnr_db >= WEAK_OUTPUT_DB:
        return
    sqnr = {e.tensor: e.sqnr_db for e in (*comparison.layers, *comparison.outputs)}
    causes = sorted(_causes(subject, sqnr), key=lambda cause: (-cause.loss_db, label(cause.node)))
    for cause in causes[:MOST]:
        yield Objection(
            f"signal-to-noise falls by {cause.loss_db:.1f} dB, to {cause.sqnr_db:.1f} dB, in this "
            f"{cause.node.op}: {cause.reason}",
            node=label(cause.node),
            tensor=cause.tensor,
            fix="fine-tune, equalize or clip this tensor, or leave the layer in float",
        )


@dataclass(frozen=True)
class _Cause:
    node: gs.Node
    tensor: str
    """The input that the reason is about."""
    sqnr_db: float
    loss_db: float
    reason: str


def _causes(subject: Subject, sqnr: dict[str, float]) -> Iterator[_Cause]:
    for node in subject.heavy:
        if not node.outputs or node.outputs[0].name not in sqnr:
            continue
        after = sqnr[node.outputs[0].name]
        sources = [_float_source(tensor) for tensor in node.inputs[:2]]
        known = [(sqnr[t.name], t) for t in sources if t is not None and t.name in sqnr]
        before = min((db for db, _ in known), default=np.inf)
        fed = [t for t in sources if t is not None and subject.is_fed(t)]
        if fed and np.isfinite(before) and before - after > LOSS_DB:
            tensor, reason = _reason(subject, node, fed)
            yield _Cause(node, tensor, after, before - after, reason)


def _float_source(tensor: gs.Tensor) -> gs.Tensor | None:
    """What a Q before a node read; the tensor itself where there is none."""
    dequantizer = dequantizer_of(tensor)
    quantizer = quantizer_of(dequantizer) if dequantizer is not None else None
    return tensor if quantizer is None else quantizer.inputs[0]


def _reason(subject: Subject, node: gs.Node, sources: list[gs.Tensor]) -> tuple[str, str]:
    """Why a layer loses signal, and the input that it is about."""
    for index, tensor in enumerate(sources):
        seen = subject.evidence.observed.get(tensor.name)
        dequantizer = dequantizer_of(node.inputs[index])
        scale = scalar_scale(dequantizer) if dequantizer is not None else None
        if seen is None or scale is None:
            continue
        assert dequantizer is not None
        own = own_sqnr_db(seen.statistics, scale, dtype=quant_dtype(dequantizer))
        if own < COARSE_DB:
            crest = seen.statistics.amax / max(_rms(seen.statistics), 1e-30)
            return tensor.name, (
                f"the values of '{tensor.name}' reach to {crest:.0f} times their root mean square, "
                f"more than 8 bits hold; rounding alone leaves {own:.1f} dB"
            )
        used = seen.channel_amax[seen.channel_amax > 0]
        spread = float(used.max() / np.median(used)) if used.size else 1.0
        if spread > SPREAD or (spread > SPREAD / 4 and _is_depthwise(node)):
            return tensor.name, (
                f"the widest channel of '{tensor.name}' is {spread:.0f} times the median one, and "
                "all share one scale"
            )
    kept = _kept_of_constant(node)
    if kept is not None and kept < DIFFERENCES:
        return sources[0].name, (
            f"its kernels take differences (their sum is {100 * kept:.0f} % of the sum of their "
            "magnitudes): neighbouring values cancel, the errors of their rounding do not"
        )
    return sources[0].name, "large terms cancel, and their errors stay"


def _kept_of_constant(node: gs.Node) -> float | None:
    """What a depthwise Conv leaves of a constant input, as a share of what it could: median."""
    dequantizer = dequantizer_of(node.inputs[1]) if _is_depthwise(node) else None
    quantizer = quantizer_of(dequantizer) if dequantizer is not None else None
    weights = value_of(node.inputs[1] if quantizer is None else quantizer.inputs[0])
    if weights is None or weights.ndim < 3:
        return None
    over = tuple(range(1, weights.ndim))
    reach = np.abs(weights).sum(axis=over)
    kept = np.abs(weights.sum(axis=over))[reach > 0] / reach[reach > 0]
    return float(np.median(kept)) if kept.size else None


def own_sqnr_db(
    seen: TensorStatistics, scale: float, *, dtype: QuantDtype = QuantDtype.INT8
) -> float:
    """The signal-to-noise ratio that rounding this tensor alone leaves, in dB."""
    amax = np.array([scale * dtype.qmax])
    noise = float(quantization_error(seen, amax, dtype=dtype)[0])
    return float(10 * np.log10(max(_rms(seen) ** 2, 1e-38) / max(noise, 1e-38)))


def _rms(seen: TensorStatistics) -> float:
    middle = (seen.edges[:-1] + seen.edges[1:]) / 2
    return float(np.sqrt((seen.counts * middle**2).sum() / max(seen.values, 1)))


def _is_depthwise(node: gs.Node) -> bool:
    return node.op == "Conv" and int(node.attrs.get("group", 1)) > 1
