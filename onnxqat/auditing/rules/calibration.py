"""CAL: scales that are legal and make no sense."""

from __future__ import annotations

from collections.abc import Iterator

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.subject import Subject, label, value_of
from onnxqat.core.calibration import SCALE_FLOOR
from onnxqat.core.finding import Severity


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
        if scale is None:
            continue
        tiny = scale[(scale > 0) & (scale < SCALE_FLOOR)]
        if tiny.size:
            yield Objection(
                f"{tiny.size} of {scale.size} scales are below 2⁻²⁴, down to {tiny.min():.3g}",
                node=label(node),
                tensor=tensor.name,
                fix="raise them to 2⁻²⁴",
            )
