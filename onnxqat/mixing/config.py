"""What the user chose about mixed precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxqat.core.errors import ConfigError


@dataclass(frozen=True)
class MixConfig:
    """The budget, and what is spared. Several limits hold together."""

    sqnr_db: float | None = None
    """Signal-to-quantization-noise ratio of the worst output in dB, at least."""
    agreement: float | None = None
    """Share (0 to 1) of samples with the FP32 model's top-1 class, at least."""
    metric_drop: float | None = None
    """How much of top-1 (0 to 1) may be lost against FP32, at most; wants labels."""
    cost: Literal["bytes", "nodes"] = "bytes"
    """What of the quantization is given up as little as possible: the bytes of what nodes read, or
    the number of nodes, each of which is about a kernel."""
    samples: int = 128
    """How many samples judge the nodes and the plans. Where none are given to judge by, a quarter
    of them judges the plans, and the rest calibrates and judges the nodes."""
    batch_size: int = 16
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Of torch on the CPU; None: torch's choice, every core."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: A number is out of its range.
        """
        for name in ("samples", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", fix="set 1 or more, or leave it out")
        for name in ("agreement", "metric_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}", fix="it is a share: set 0 to 1")

    @property
    def has_budget(self) -> bool:
        """Whether anything is asked for."""
        return any(x is not None for x in (self.sqnr_db, self.agreement, self.metric_drop))

    @property
    def budget(self) -> str:
        """The budget in words.

        Raises:
            ConfigError: There is none.
        """
        if not self.has_budget:
            raise ConfigError(
                "there is no budget", fix="give sqnr_db, agreement or metric_drop, or several"
            )
        told = [] if self.sqnr_db is None else [f"{self.sqnr_db:g} dB"]
        told += [] if self.agreement is None else [f"{100 * self.agreement:g} % agreement"]
        told += [] if self.metric_drop is None else [f"{100 * self.metric_drop:g} points lost"]
        return ", ".join(told)
