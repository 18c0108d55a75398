"""How a training went, step by step: plain data, so that it can be told without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Validation:
    """How far the student is from its teacher on the held-out samples."""

    samples: int
    loss: float
    """The training loss on them; the lowest is the best checkpoint."""
    sqnr_db: float
    """10·log10(Σ teacher² / Σ (teacher − student)²) of the worst output, in dB."""
    agreement: float | None
    """Share (0 to 1) of equal top-1 classes; None if no output is class scores."""
    top1: float | None
    """Share (0 to 1) of right top-1 classes; None without labels or class scores."""


@dataclass(frozen=True)
class StepRecord:
    """One step, or the start (step 0), of a run."""

    step: int
    steps: int
    """Steps in all."""
    loss: float | None
    """Training loss of the step's batch; None at the start."""
    lr: float
    """Rate of the weights in this step."""
    seconds: float
    """Since the run began."""
    validation: Validation | None = None
    """Where the step ended in one."""
    is_best: bool = False
    """Whether this validation is the best so far."""
