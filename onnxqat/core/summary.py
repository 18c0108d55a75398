"""What a run came to: one row a model, for the table that it prints and for summary.json."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.core.interval import Interval
from onnxqat.core.stage_gain import StageGain


@dataclass(frozen=True)
class ModelRow:
    """One model of the run. None where a thing was not measured."""

    name: str
    """FP32, PTQ, INIT (PTQ after initialization), QAT, or CONTROL: FP32 after QAT's training."""
    metric: float | None
    """Task metric, 0 to 1."""
    agreement: float | None
    """Share (0 to 1) of samples with the FP32 model's top-1 class."""
    sqnr_db: float | None
    """The worst output's signal-to-quantization-noise ratio against FP32, in dB."""
    int8_nodes: int | None
    """Conv, ConvTranspose, Gemm and MatMul nodes that the compiled plan runs in INT8
    or FP8."""
    heavy_nodes: int | None
    """All such nodes."""
    activation_bytes: int | None
    """Bytes of activations that the compiled layers read and write."""
    file_bytes: int
    metric_interval: Interval | None = None
    """Where the metric lies, 95 % sure, were there endless samples."""
    agreement_interval: Interval | None = None
    metric_change: float | None = None
    """The metric less that of FP32, on the same samples."""
    metric_change_interval: Interval | None = None
    """Where that lies, 95 % sure; narrower than the metrics' own, as most samples answer alike."""


@dataclass(frozen=True)
class Gain:
    """What the training did to one model."""

    model: str
    start: str
    metric: float | None
    """The model's task metric less that of its start, -1 to 1."""
    sqnr_db: float | None
    """The same of the worst output's ratio in dB; None where the start is FP32 itself."""


@dataclass(frozen=True)
class StageTime:
    """Wall time of one stage."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class BudgetCheck:
    """One thing that the user asked of the fine-tuned model, and what came out."""

    name: str
    """`metric_drop`, `agreement` or `sqnr_db`."""
    limit: float
    found: float | None
    """None where it was not measured."""
    is_met: bool
    """False also where it was not measured."""


@dataclass(frozen=True)
class Summary:
    """The evidence of one run in short; the long form lies in the files beside it."""

    model: str
    format: str
    metric: str | None
    samples: int
    """Samples that the metric, agreement and error were measured on."""
    target: str | None
    """What the engines were compiled by and for; None where nothing was compiled."""
    rows: tuple[ModelRow, ...]
    times: tuple[StageTime, ...]
    notes: tuple[str, ...]
    """Sentences that the reader of the table has to know."""
    budget: tuple[BudgetCheck, ...] = ()
    """What the recipe asks for; nothing where it has no budget."""
    gains: tuple[Gain, ...] = ()
    """Of QAT over PTQ and, with a control, of more training of FP32 alone over FP32."""

    initialization: tuple[StageGain, ...] = ()
    """What each stage between PTQ and QAT did."""

    @property
    def is_within_budget(self) -> bool:
        """Whether everything that was asked for is met."""
        return all(check.is_met for check in self.budget)
