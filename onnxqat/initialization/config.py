"""What the user chose about initialization, in plain types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxqat.core.errors import ConfigError

FLOAT_STAGES = ("align", "equalize", "smooth")
"""Stages of the FP32 model, before Q/DQ is placed; the others work on the Q/DQ model."""


@dataclass(frozen=True)
class InitializationConfig:
    """Which stages, in which order, and what they learn from. No stage reads labels."""

    stages: tuple[str, ...] = ()
    """Names in `FLOAT_STAGES`, then in `STAGES`. One of the latter may come twice."""
    samples: int = 1024
    """Samples that the stages see, drawn by the seed; a quarter of them only judges the stages
    where no samples of their own are given for that."""
    batch_size: int = 32
    """Samples at a time; a fixed batch in the model goes before."""
    iterations: int = 300
    """Steps for each part of the network in the stages that train."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Of torch on the CPU; None: torch's choice, every core."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: A stage is unknown, or comes too late, or a number is below 1.
        """
        from onnxqat.initialization.stages import STAGES  # the stages take this config

        known = (*FLOAT_STAGES, *STAGES)
        for stage in self.stages:
            if stage not in known:
                raise ConfigError(
                    f"unknown initialization stage '{stage}'",
                    fix=f"choose among: {', '.join(known)}",
                )
        if self.float_stages != self.stages[: len(self.float_stages)]:
            raise ConfigError(
                f"{' and '.join(self.float_stages)} must come before the other stages",
                fix="they work on the FP32 model, the others on the Q/DQ model that is made of it",
            )
        for name in ("samples", "batch_size", "iterations", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", fix="set 1 or more, or leave it out")

    @property
    def float_stages(self) -> tuple[str, ...]:
        """Those of the FP32 model."""
        return tuple(stage for stage in self.stages if stage in FLOAT_STAGES)

    @property
    def qdq_stages(self) -> tuple[str, ...]:
        """Those of the Q/DQ model."""
        return tuple(stage for stage in self.stages if stage not in FLOAT_STAGES)
