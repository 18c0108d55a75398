"""The audit rules; importing this package enters them into the table."""

from onnxqat.auditing.rules import (
    accuracy,
    calibration,
    deployment,
    engine,
    equal_scales,
    formats,
    legality,
    pairs,
    placement,
    positions,
    residual,
)

__all__ = [
    "accuracy",
    "calibration",
    "deployment",
    "engine",
    "equal_scales",
    "formats",
    "legality",
    "pairs",
    "placement",
    "positions",
    "residual",
]
