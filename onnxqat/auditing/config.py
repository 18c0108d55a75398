"""What the user chose about an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxqat.core.finding import Severity


@dataclass(frozen=True)
class AuditConfig:
    """Which rules are applied, for which compiler, and where the bounds lie.

    A code may be cut short: `QDQ0` is every rule whose code begins so.
    """

    select: tuple[str, ...] = ()
    """Codes of the only rules to apply. Empty: all."""
    ignore: tuple[str, ...] = ()
    """Codes of rules to leave out."""
    fail_on: Severity = Severity.ERROR
    """The mildest finding that makes the command fail."""
    profile: str = "tensorrt"
    """Whose rules hold: `tensorrt`, or `rtx` (TensorRT for RTX)."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Input name -> the shape that it will be built for."""
    min_sqnr_db: float = 10.0
    """Signal-to-quantization-noise ratio, in dB, below which a tensor is a finding."""
    max_metric_drop: float = 0.01
    """By how much the task metric (0 to 1) may be below the reference's."""
    baseline: str | None = None
    """A file of findings that are known and accepted."""
