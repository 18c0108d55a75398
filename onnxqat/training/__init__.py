"""Fine-tuning of a Q/DQ module against its FP32 teacher."""

from onnxqat.training.config import FinetuneConfig
from onnxqat.training.finetune import finetune
from onnxqat.training.record import (
    Finetuned,
    OnProgress,
    StepRecord,
    Validation,
    interruption,
)
from onnxqat.training.sensitivity import SensitivityConfig, sensitivity

__all__ = [
    "FinetuneConfig",
    "Finetuned",
    "OnProgress",
    "SensitivityConfig",
    "StepRecord",
    "Validation",
    "finetune",
    "interruption",
    "sensitivity",
]
