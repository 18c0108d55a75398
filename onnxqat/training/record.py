"""What a run reports while it goes, and what it hands out at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import TrainingError
from onnxqat.core.training_record import StepRecord, Validation

__all__ = ["Finetuned", "OnProgress", "StepRecord", "Stopped", "Validation", "interruption"]


OnProgress = Callable[[StepRecord], None]

Stopped = Literal["finished", "early", "interrupted", "non-finite"]


@dataclass(frozen=True)
class Finetuned:
    """The student with the parameters of its best validation, and how it came there."""

    module: OnnxModule
    history: tuple[StepRecord, ...]
    best_step: int
    """0: no step was better than the start by more than the validation samples scatter, and the
    start is handed out unchanged."""
    stopped: Stopped
    """`early`: no gain for as long as the config's patience; `interrupted`: Ctrl-C; `non-finite`:
    a number of the history's last step is not finite."""
    origin: str | None = None
    """Where a number was first not finite, in words."""


def interruption(tuned: Finetuned, *, model: Path, checkpoint: Path) -> TrainingError:
    """What to tell after Ctrl-C: where the best model so far is, and how to go on.

    Args:
        tuned: The interrupted run.
        model: Where its best model was written.
        checkpoint: Where the run was kept while it went on.
    """
    return TrainingError(
        f"interrupted at step {tuned.history[-1].step}; the best model so far, of step "
        f"{tuned.best_step}, is in {model}",
        fix="go on by --resume, from the last checkpoint"
        if checkpoint.exists()
        else "run again, from the start: no checkpoint was due yet",
    )
