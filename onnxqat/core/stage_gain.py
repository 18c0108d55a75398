"""What one initialization stage did to the outputs of a Q/DQ model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageGain:
    """One stage, measured before and after it on samples that no stage learns from."""

    stage: str
    before_db: float
    """The worst output's signal-to-quantization-noise ratio against FP32, in dB."""
    after_db: float
    kept: bool
    """Whether the model keeps what the stage did; not where that made it worse."""
    seconds: float
    """Wall time of the stage and of measuring it."""
    notes: tuple[str, ...] = ()
    """What the stage left out, and why."""
