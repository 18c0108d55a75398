"""What the user chose about calibration."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.core.errors import ConfigError

METHODS = ("auto", "max", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class CalibrationConfig:
    """How ranges are chosen, and from how much data."""

    method: str = "auto"
    """`max`, `percentile`, `entropy`, `mse`; `auto` searches where none of them is good enough."""
    percentile: float = 99.99
    """The share of magnitudes that `percentile` keeps, in percent."""
    samples: int | None = 512
    """How many samples are used, from the first; None uses all."""
    batch_size: int | None = None
    """Samples a run at most. Fewer are taken where activations would leave the processor's cache,
    which is slower, and takes more memory."""
    threads: int | None = None
    """Threads of ONNX Runtime; None takes all cores but the one that looks at the activations."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f"unknown calibrator '{self.method}'", fix=f"choose one of: {', '.join(METHODS)}"
            )
        if not 0 < self.percentile <= 100:
            raise ConfigError(f"percentile is {self.percentile}", fix="choose one in (0, 100]")
        for name in ("samples", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", fix="set 1 or more, or leave it out")
