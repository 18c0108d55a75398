"""What a run reports while it goes, and what it hands out at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from onnxqat.bridge import OnnxModule
from onnxqat.core.training_record import StepRecord, Validation

__all__ = ["Finetuned", "OnProgress", "StepRecord", "Stopped", "Validation"]


OnProgress = Callable[[StepRecord], None]

Stopped = Literal["finished", "early", "interrupted", "non-finite"]


@dataclass(frozen=True)
class Finetuned:
    """The student with the parameters of its best validation, and how it came there."""

    module: OnnxModule
    history: tuple[StepRecord, ...]
    best_step: int
    """0: no step was better than the start, which is handed out unchanged."""
    stopped: Stopped
    """`early`: no gain for as long as the config's patience; `interrupted`: Ctrl-C; `non-finite`:
    a number of the history's last step is not finite."""
    origin: str | None = None
    """Where a number was first not finite, in words."""
